"""Whether a change is new: not what its base does, not what was tried, not merely another seed."""

from __future__ import annotations

from swarm import config
from swarm.errors import Refused
from swarm.fingerprint import Prints, fingerprint, first_fingerprint, prints
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.records import Claim
from swarm.worktree import Worktree


def check(board: Leaderboard, worktree: Worktree, parent: str, source: str) -> Prints:
    """The fingerprints of a new `source`; raises `Refused` where it is not new."""
    new = prints(source)
    base = _prints_of(board.claims[parent], worktree)
    if new.fingerprint == base.fingerprint:
        raise Refused(
            f"{config.TRAINER} does the same as its base {parent}", "change something it computes"
        )
    if new.seedless == base.seedless:
        raise _only_seed(board, parent)
    refuse_known(board, new)
    if _is_old(board) and (known := board.fingerprints.get(first_fingerprint(source))):
        raise _tried(board, known)
    return new


def refuse_known(board: Leaderboard, new: Prints) -> None:
    """Raise `Refused`, with what came of it, for what anyone has claimed before."""
    if known := board.fingerprints.get(new.fingerprint):
        raise _tried(board, known)
    if known := board.seedless.get(new.seedless):
        raise _only_seed(board, known)


def claimed_as(board: Leaderboard, source: str) -> str | None:
    """The experiment that did what `source` does. Raises `Refused` when it does not compile."""
    known = board.fingerprints.get(fingerprint(source))
    if known is None and _is_old(board):
        known = board.fingerprints.get(first_fingerprint(source))
    return known


def _is_old(board: Leaderboard) -> bool:
    """Whether version 0.1 began this swarm, so that its first claims have older fingerprints."""
    return not board.claims[BASELINE].seedless


def _prints_of(claim: Claim, worktree: Worktree) -> Prints:
    if claim.seedless:
        return Prints(claim.fingerprint, claim.seedless)
    return prints(worktree.read(claim.commit, config.TRAINER))


def _tried(board: Leaderboard, known: str) -> Refused:
    if board.entry(known).kind == "candidate":
        return Refused(
            f"this is being tried already: {_story(board, known)}",
            f"swarm result {known} --wait 90 waits for its verdict",
        )
    return Refused(f"this was tried before as {_story(board, known)}", f"swarm show {known}")


def _only_seed(board: Leaderboard, known: str) -> Refused:
    return Refused(
        f"only the seed was changed: with any other it is {_story(board, known)}",
        "the swarm chooses the seeds, and replicates have others; change something it computes",
    )


def _story(board: Leaderboard, known: str) -> str:
    """What an experiment is and how it went: `e3: discard with val_bpb 0.991200 (wider MLP)`."""
    entry = board.entry(known)
    running = [trial for trial in entry.trials if not trial.outcome]
    state: str = entry.kind
    if entry.kind == "candidate":
        state = entry.reason
        if running:
            state = f"is training as {running[-1].id} on {running[-1].worker}"
    score = f" with val_bpb {entry.estimate.mean:.6f}" if entry.estimate else ""
    return f"{known}: {state}{score} ({entry.claim.description})"
