"""Which trial a device runs next: pure, over the fold."""

from __future__ import annotations

from swarm.leaderboard import BASELINE, Leaderboard
from swarm.policies import Due

MAKES_WAY_UNTIL = 0.8
"""An idle device's replicate makes way for an experiment until so much of it is done. Waiting for
its end cost more than the replicates gave, in `swarm simulate`."""


def next_trial(board: Leaderboard, worker: str, idle: bool, ending: bool) -> Due | None:
    """What the device of `worker` should run now; `None`: nothing is worth it, or known yet.

    `idle`: its agent has been thinking for a while. `ending`: no further experiment may start.
    """
    if board.baseline_due(worker):
        return Due(BASELINE, "experiment", "the baseline")
    queue = board.queued(worker)
    if ending and not queue:
        return board.replicate(worker, "ending")
    due = board.replicate(worker, "busy")
    if due is None and queue:
        return Due(queue[0], "experiment", "")
    return board.replicate(worker, "idle") if due is None and idle else due
