"""Which trial a device runs next: pure, over the fold."""

from __future__ import annotations

from swarm.leaderboard import BASELINE, Leaderboard
from swarm.policies import Due

MAKES_WAY_UNTIL = 0.8
"""An idle device's replicate makes way for an experiment until so much of it is done. Waiting for
its end cost more than the replicates gave, in `swarm simulate`."""

DOUBTFUL = 3
"""After so many failed trials in a row a device runs the incumbent, which is known to work. If that
fails too, its worker is paused: an agent would go on paying for ideas that cannot be tried."""


def next_trial(board: Leaderboard, worker: str, idle: bool, ending: bool) -> Due | None:
    """What the device of `worker` should run now; `None`: nothing is worth it, or known yet.

    `idle`: its agent has been thinking for a while. `ending`: no further experiment may start.
    """
    if baseline_due(board, worker):
        return Due(BASELINE, "experiment", "the baseline")
    known, failures = board.class_of(worker).top(), board.workers[worker].failures
    if known and failures == DOUBTFUL:
        why = f"{failures} trials in a row failed here: does the device still work?"
        return Due(known.experiment, "calibration", why)
    queue = board.queued(worker)
    if ending and not queue:
        return board.replicate(worker, "ending")
    due = board.replicate(worker, "busy")
    if due is None and queue:
        return Due(queue[0], "experiment", "")
    return board.replicate(worker, "idle") if due is None and idle else due


def baseline_due(board: Leaderboard, worker: str) -> bool:
    """Whether `worker` should run the baseline now.

    A device class needs it once, or twice on different devices where it has several.
    """
    known = board.class_of(worker)
    workers = sum(board.class_of(name) is known for name in board.active)
    done = [t for t in known.entries[BASELINE].trials if t.outcome != "interrupted"]
    if len(done) >= min(2, workers):
        return False
    return all(trial.worker != worker for trial in done)


def is_over(board: Leaderboard, worker: str) -> bool:
    """Whether a swarm that starts no further experiment has nothing left to do for `worker`.

    What a paused one has left is not waited for.
    """
    if board.workers[worker].paused:
        return True
    if board.queued(worker) or board.replicate(worker, "ending") is not None:
        return False
    known = board.class_of(worker)  # a claim that waits for another device may need this one yet
    pair = (known.contest.contender, known.champion()) if known.contest else ()
    return not any(entry and entry.running for entry in pair)
