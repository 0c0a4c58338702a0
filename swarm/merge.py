"""Bring the best commit into the user's branch, without surprises in the user's checkout."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swarm.errors import GitError, Refused
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.paths import Paths
from swarm.standings import Entry
from swarm.worktree import Repository

How = Literal["fast-forward", "merge commit", "squash", "nothing to do"]


@dataclass(frozen=True)
class Merged:
    """What a merge did: `branch` is now at `commit`, which holds `experiment`."""

    experiment: str
    branch: str
    commit: str
    how: How


def merge(paths: Paths, board: Leaderboard, into: str | None, squash: bool, search: bool) -> Merged:
    """Merge the best experiment (with `search` the incumbent) into branch `into`.

    The default is the branch that is checked out. A checkout that has the branch must be clean;
    a branch that is checked out nowhere moves without touching any file. Raises `Refused` with
    everything as it was.
    """
    repository = Repository(paths.root)
    entry = _chosen(board, search)
    branch = into or repository.branch()
    if branch is None:
        raise Refused("HEAD is detached, so there is no branch to merge into", "--into BRANCH")
    before = repository.resolve(f"refs/heads/{branch}")
    if before is None:
        raise Refused(f"there is no branch '{branch}'", "git branch --list")
    commit = entry.claim.commit
    if _is_ancestor(repository, commit, before):
        return Merged(entry.experiment, branch, before, "nothing to do")
    if squash and _tree(repository, commit) == _tree(repository, before):
        return Merged(entry.experiment, branch, before, "nothing to do")
    checkout = _checkout_of(repository, branch)
    if checkout and (dirty := checkout.changed_files()):
        raise Refused(
            f"{checkout.folder} has uncommitted changes: {', '.join(dirty[:3])}",
            "commit or stash them, then swarm merge again",
        )
    how: How = "squash" if squash else "merge commit"
    after = commit
    if not squash and _is_ancestor(repository, before, commit):
        how = "fast-forward"
    else:
        after = _join(repository, paths, entry, before, squash)
    _advance(repository, checkout, branch, before, after)
    return Merged(entry.experiment, branch, after, how)


def _chosen(board: Leaderboard, search: bool) -> Entry:
    primary = board.primary
    name = (primary.incumbent if search else primary.best) if primary else None
    if primary is None or name is None or name == BASELINE:
        found = primary.incumbent if primary else None
        if not search and found not in (None, BASELINE):
            raise Refused(
                f"nothing to merge: no improvement is confirmed yet, {found} only probably one",
                "wait for a claim to be tested, or take it as it is: swarm merge --incumbent",
            )
        raise Refused(
            "nothing to merge: no experiment is better than the baseline yet", "see swarm board"
        )
    entry = primary.entries[name]
    if not (search or entry.confirmed or (board.config and board.config.policy == "greedy")):
        raise Refused(
            f"nothing to merge: {name} is not confirmed",
            "swarm merge --incumbent takes it as it is",
        )
    return entry


def _is_ancestor(repository: Repository, old: str, new: str) -> bool:
    try:
        repository.run("merge-base", "--is-ancestor", old, new)
    except GitError:  # exit code 1: it is not
        return False
    return True


def _tree(repository: Repository, commit: str) -> str:
    return repository.run("rev-parse", f"{commit}^{{tree}}")


def _checkout_of(repository: Repository, branch: str) -> Repository | None:
    """The working tree that has the branch checked out, if any."""
    folder = ""
    for line in repository.run("worktree", "list", "--porcelain").splitlines():
        if line.startswith("worktree "):
            folder = line.removeprefix("worktree ")
        elif line == f"branch refs/heads/{branch}":
            return Repository(Path(folder))
    return None


def _join(repository: Repository, paths: Paths, entry: Entry, before: str, squash: bool) -> str:
    """Merge in a worktree of our own; return the new commit."""
    estimate = entry.estimate
    score = f" (val_bpb {estimate.mean:.6f})" if estimate else ""
    title = f"swarm {paths.tag}: {entry.experiment}{score}\n\n{entry.claim.description}\n"
    with tempfile.TemporaryDirectory(prefix="swarm-merge-") as folder:
        ours = Repository(Path(folder) / "checkout")
        repository.run("worktree", "add", "--quiet", "--detach", str(ours.folder), before)
        try:
            kind = ["--squash"] if squash else ["--no-ff", "--no-commit"]
            ours.run("merge", "--quiet", *kind, entry.claim.commit)
            ours.run("commit", "--quiet", "-m", title)
            return ours.head()
        except GitError as error:
            raise Refused(
                f"{entry.experiment} does not merge by itself: {error}",
                f"by hand: git merge {paths.best_branch}; nothing was changed",
            ) from error
        finally:
            repository.run("worktree", "remove", "--force", str(ours.folder))


def _advance(
    repository: Repository, checkout: Repository | None, branch: str, before: str, after: str
) -> None:
    if checkout:
        checkout.run("merge", "--quiet", "--ff-only", after)
    else:
        repository.run("update-ref", "-m", "swarm merge", f"refs/heads/{branch}", after, before)
