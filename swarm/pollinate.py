"""Which worktree moves to which commit, and when: pure, over the fold."""

from __future__ import annotations

import math

from swarm import records
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.standings import Entry


def base_for(board: Leaderboard, worker: str) -> records.Claim:
    """The experiment a worker should build on next.

    The search spreads what is probably best: everyone builds on the incumbent of their own device
    class (scores of different classes do not compare). With islands it is the best that the
    worker's island has kept, or what the worker has taken over from beyond it.
    """
    if board.config is None or board.config.islands < 2:
        return board.incumbent_of(worker)
    known, island = board.class_of(worker), board.workforce.island(worker)
    founder = board.workers[worker].founder or BASELINE
    own = [
        entry
        for entry in known.kept.values()
        if entry.claim.worker in island or entry.experiment == founder
    ]
    found = min(own, key=_score, default=None)
    return found.claim if found else board.incumbent_of(worker)


def _score(entry: Entry) -> float:
    if entry.belief:
        return entry.belief.mean
    return entry.estimate.mean if entry.estimate else math.inf


def is_due(last: float, now: float, every: float, asked: int, answered: int) -> bool:
    """Whether an idle worktree should be moved: its interval is over, or a person asked.

    `last` and `now` are seconds of one clock; `asked` and `answered` are journal sequence numbers.
    """
    return asked > answered or now - last >= every
