"""The `--json` documents: what scripts may rely on, as dictionaries."""

from __future__ import annotations

import heapq
import math
from datetime import UTC, datetime
from typing import Any

from swarm import drift, locks, spending
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.mailbox import Answer
from swarm.paths import Paths
from swarm.standings import DeviceClass, Entry
from swarm.views import crew, history

Document = dict[str, Any]


def status(paths: Paths, board: Leaderboard, now: datetime | None = None) -> Document:
    """The swarm, its workers and what it has found; see DESIGN of `swarm status --json`."""
    moment = now or datetime.now(UTC)
    primary = board.primary
    return {
        "tag": paths.tag,
        "state": board.state,
        "reason": board.ended_because,
        "supervisor": locks.is_held(paths.supervisor_lock),
        "experiments": board.spent_experiments,
        "max_experiments": board.config.max_experiments if board.config else None,
        "workers": [crew.worker(paths, board, name, moment) for name in board.active],
        "baseline": _claimed(primary, BASELINE) if primary else None,
        "incumbent": _claimed(primary, primary.incumbent) if primary else None,
        "best": _claimed(primary, primary.best) if primary else None,
        "device_classes": [
            {
                "name": known.name,
                "noise": noise(known),
                "claim": _claim(known),
                "verified": known.verifies,
                "unverified": known.unverified,
            }
            for known in board.classes.values()
        ],
        "spend": spend(board),
        "islands": board.config.islands if board.config else 1,
        "directions": [
            {"name": name, "tried": tally.tried, "kept": tally.kept}
            for name, tally in board.workforce.directions.items()
        ],
    }


def spend(board: Leaderboard) -> Document:
    """What models and devices cost so far; `usd` is what is known, `unpriced_tokens` are not in it.

    `usd_per_experiment` and `usd_per_keep` share the agents' part among what they submitted, and
    what of that was kept.
    """
    assert board.config is not None
    bills = [worker.bill for worker in board.workers.values()]
    agents = sum(bill.usd for bill in bills)
    seconds = sum(worker.device_seconds for worker in board.workers.values())
    device = spending.device_usd(board.config, seconds)
    kept = sum(
        entry.kind == "keep" and entry.claim.parent is not None
        for known in board.classes.values()
        for entry in known.entries.values()
    )
    return {
        "usd": round(agents + device, 6),
        "agents_usd": round(agents, 6),
        "devices_usd": round(device, 6) if board.config.device_hour_usd else None,
        "max_usd": board.config.max_usd,
        "tokens": sum(bill.tokens for bill in bills),
        "unpriced_tokens": sum(bill.unpriced for bill in bills),
        "uncounted_calls": sum(bill.uncounted for bill in bills),
        "usd_per_experiment": _share(agents, board.spent_experiments),
        "usd_per_keep": _share(agents, kept),
        "device_hours": round(seconds / 3600, 4),
    }


def _share(usd: float, count: int) -> float | None:
    return round(usd / count, 6) if usd and count else None


def board(paths: Paths, fold: Leaderboard, top: int | None, device_class: str | None) -> Document:
    """The leaderboard by device class, best first, experiments without a score last."""
    classes = [c for name, c in fold.classes.items() if device_class in (None, name)]
    policy = fold.config.policy if fold.config else ""
    return {
        "tag": paths.tag,
        "policy": policy,
        "device_classes": [
            {
                "name": known.name,
                "sigma": known.sigma,
                "noise": noise(known),
                "incumbent": _claimed(known, known.incumbent),
                "best": _claimed(known, known.best),
                "experiments": [experiment(known, entry) for entry in ranked(known, top)],
            }
            for known in classes
        ],
    }


def noise(known: DeviceClass) -> Document:
    """The SD of a trial's val_bpb with its 95 % interval, and what it is known from."""
    low, high = known.noise.interval()
    return {
        "sd": known.noise.sd,
        "low": low,
        "high": high,
        "replicates": known.noise.freedom,
        "measured": known.noise.is_measured,
    }


def _claim(known: DeviceClass) -> Document | None:
    """The claim that is being tested, if any."""
    contest, best = known.contest, known.champion()
    if contest is None or best is None:
        return None
    return {
        "experiment": contest.contender.experiment,
        "against": best.experiment,
        "trials": [len(contest.contender.evidence), len(best.evidence)],
        "next_look": contest.wanted,
    }


def with_held_out(document: Document, fold: Leaderboard) -> Document:
    """A board with what agents should not see: held-out scores, and how far val_bpb has drifted."""
    for known in document["device_classes"]:
        device_class = fold.classes[known["name"]]
        found = drift.of(device_class)
        known["drift"] = found and found._asdict() | {"is_real": found.is_real}
        for experiment in known["experiments"]:
            entry = device_class.entries[experiment["experiment"]]
            experiment["heldout_bpb"] = drift.heldout(entry)
    return document


def ranked(device_class: DeviceClass, top: int | None = None) -> list[Entry]:
    """The `top` entries by mean val_bpb, or all; those without one behind, oldest first."""
    entries = device_class.entries.values()
    return sorted(entries, key=_mean) if top is None else heapq.nsmallest(top, entries, key=_mean)


def _mean(entry: Entry) -> float:
    return entry.estimate.mean if entry.estimate else math.inf


def experiment(known: DeviceClass, entry: Entry) -> Document:
    """One row of the board; `sigmas` is the distance to the incumbent in SDs of a trial."""
    claim, estimate, metrics = entry.claim, entry.estimate, entry.metrics
    return {
        "experiment": claim.experiment,
        "worker": claim.worker,
        "agent": claim.agent,
        "parent": claim.parent,
        "commit": claim.commit,
        "description": claim.description,
        "verdict": entry.kind,
        "confirmed": entry.confirmed,
        "reason": entry.reason,
        "val_bpb": estimate.mean if estimate else None,
        "replicates": estimate.replicates if estimate else 0,
        "sd": estimate.sd if estimate else None,
        "sigmas": history.in_sigmas(known, entry),
        "num_steps": metrics.num_steps,
        "tokens_per_second": metrics.tokens_per_second,
        "memory_gb": metrics.memory_gb,
        "seconds": entry.seconds,
        "tokens": entry.bill.tokens if entry.bill else None,
        "usd": entry.bill.known_usd if entry.bill else None,
        "time": claim.time.isoformat(),
    }


def answer(found: Answer) -> Document:
    """What `swarm eval` and `swarm result` print."""
    return {
        "experiment": found.experiment,
        "verdict": found.verdict,
        "reason": found.reason,
        "val_bpb": found.val_bpb,
        "incumbent_val_bpb": found.incumbent_val_bpb,
        "commit": found.commit,
        "base": found.base,
    }


def _claimed(device_class: DeviceClass | None, name: str | None) -> Document | None:
    if device_class is None or name is None:
        return None
    entry = device_class.entries.get(name)
    if entry is None or entry.estimate is None:
        return None
    return {
        "experiment": name,
        "commit": entry.claim.commit,
        "val_bpb": entry.estimate.mean,
        "replicates": entry.estimate.replicates,
        "sd": entry.estimate.sd,
    }
