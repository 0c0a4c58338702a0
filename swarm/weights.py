"""The weights that trials left: kept for what the swarm rests on, so that it can be examined."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from swarm import children
from swarm.disk import writing
from swarm.job import WEIGHTS
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.records import TrialFinished
from swarm.standings import Trial


def keep(paths: Paths, result: TrialFinished) -> None:
    """Take the weights of an ok trial out of its folder; remove others. Safe to repeat.

    What has their name but is no file, such as a folder, is removed too. Raises `SwarmError` where
    weights cannot be written.
    """
    left = paths.trial(result.trial) / WEIGHTS
    if result.outcome != "ok" or not _is_regular(left):
        children.remove([left])
        return
    kept = paths.weights(result.trial)
    with writing(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        left.replace(kept)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def prune(paths: Paths, board: Leaderboard) -> None:
    """Remove the weights that nothing rests on any more."""
    names = kept(paths)
    for trial in names - wanted(board, names):
        paths.weights(trial).unlink(missing_ok=True)


def kept(paths: Paths) -> set[str]:
    """The trials whose weights are there."""
    example = paths.weights("t0")
    return {path.stem for path in example.parent.glob(f"*{example.suffix}")}


def wanted(board: Leaderboard, trials: Iterable[str]) -> set[str]:
    """Of these trials, those whose weights stay.

    They stay while the trial has no result, or none that we have heard of, and while its experiment
    has no verdict, or is the incumbent, the best or about to become it: of such an experiment those
    of its last trial.
    """
    stay: set[str] = set()
    last: dict[tuple[str, str], Trial] = {}
    for name in trials:
        trial = board.trials.get(name)
        if trial is None or trial.outcome is None:
            stay.add(name)
        elif trial.outcome == "ok" and _matters(board, trial):
            key = (trial.device_class, trial.experiment)
            last[key] = max(last.get(key, trial), trial, key=lambda found: found.started)
    return stay | {trial.id for trial in last.values()}


def _matters(board: Leaderboard, trial: Trial) -> bool:
    known = board.classes[trial.device_class]
    contender = known.contest.contender.experiment if known.contest else None
    if trial.experiment in (known.incumbent, known.best, contender):
        return True
    return known.entries[trial.experiment].kind == "candidate"
