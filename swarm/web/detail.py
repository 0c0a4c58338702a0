"""One experiment in full: verdict and why, its trials, what it changed, and what was logged."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from swarm import drift
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.standings import DeviceClass, Entry, Trial
from swarm.views import history, live
from swarm.views import table as text
from swarm.views.documents import Document
from swarm.web import table

_MOST_DIFF = 200_000
_GIT_SECONDS = 20.0
_TAIL_BYTES = 16_384
# https://www.ecma-international.org/publications-and-standards/standards/ecma-48: CSI sequences
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def document(paths: Paths, fold: Leaderboard, known: DeviceClass, entry: Entry) -> Document:
    """An experiment as measured on `known`; `gained` is what it gained over its parent there."""
    claim = entry.claim
    parent = known.entries.get(claim.parent or "")
    gained = None
    if parent is not None and parent.estimate and entry.estimate:
        gained = history.gain(known, entry, parent)
    diff, why_none = _diff(paths.root, fold, entry)
    last = entry.trials[-1].id if entry.trials else None
    return table.document(known, entry) | {
        "device_class": known.name,
        "gained": gained and {"gain": gained[0], "error": gained[1], "over": claim.parent},
        "heldout_bpb": drift.heldout(entry),
        "mfu_percent": entry.metrics.mfu_percent,
        "children": [child.experiment for child in entry.children or () if child.kind == "keep"],
        "trials": [_trial(trial) for trial in entry.trials],
        "diff": diff,
        "no_diff": why_none,
        "log": log_of(paths, last) if last else "",
        "log_of": last,
        "ref": paths.experiment_ref(claim.experiment),
    }


def log_of(paths: Paths, trial: str) -> str:
    """The end of a trial's log as a terminal would show it: the last state of every line."""
    found = _ESCAPES.sub("", live.tail(paths.trial(trial) / "run.log", _TAIL_BYTES))
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in found.split("\n"))
    return "\n".join(text.printable(line.replace("\t", "    ")) for line in lines)


def _trial(trial: Trial) -> Document:
    return {
        "trial": trial.id,
        "worker": trial.worker,
        "seed": trial.seed,
        "purpose": trial.purpose,
        "outcome": trial.outcome,
        "val_bpb": trial.val_bpb,
        "heldout_bpb": trial.heldout_bpb,
        "seconds": trial.seconds,
        "verified": trial.verified,
        "slow": trial.slow,
        "started": trial.started.isoformat(),
    }


def _diff(root: Path, fold: Leaderboard, entry: Entry) -> tuple[str | None, str]:
    """The change against the parent, or why it cannot be shown."""
    claim = entry.claim
    if claim.parent is None:
        return None, "This is the starting point: it changes nothing."
    commits = [fold.claims[claim.parent].commit, claim.commit]
    command = ["git", "--no-pager", "diff", "--no-color", "--no-ext-diff", "--no-textconv"]
    try:
        # A name from the journal is never taken for an option.
        done = subprocess.run(
            [*command, "--end-of-options", *commits, "--"],
            cwd=root, capture_output=True, timeout=_GIT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"git diff: {error}"
    if done.returncode:
        return None, "Its commit or that of its parent is not in this repository."
    told = done.stdout.decode(errors="replace")
    return told[:_MOST_DIFF], "The diff was cut." if len(told) > _MOST_DIFF else ""
