"""Which worktree moves to which commit, and when: pure, over the fold."""

from __future__ import annotations

from swarm import records
from swarm.leaderboard import Leaderboard


def base_for(board: Leaderboard, worker: str) -> records.Claim:
    """The experiment a worker should build on next.

    The search spreads what is probably best: everyone builds on the incumbent of their own device
    class (scores of different classes do not compare).
    """
    return board.incumbent_of(worker)


def is_due(last: float, now: float, every: float, asked: int, answered: int) -> bool:
    """Whether an idle worktree should be moved: its interval is over, or a person asked.

    `last` and `now` are seconds of one clock; `asked` and `answered` are journal sequence numbers.
    """
    return asked > answered or now - last >= every
