"""Take away what a swarm that came to rest no longer needs; commits and results stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import filelock

from swarm import supervisor
from swarm.config import TRAINER
from swarm.errors import Refused
from swarm.experiment import is_recorded
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.worktree import Repository, Worktree


def clean(paths: Paths, board: Leaderboard, force: bool) -> list[str]:
    """Remove the worktrees and worker branches; return what was removed.

    Each branch is first kept as `refs/swarm/<tag>/archive/<worker>`. Raises `Refused` while the
    swarm runs, and for a worktree with unsubmitted edits unless `force`.
    """
    try:
        with filelock.FileLock(paths.spawn_lock, timeout=0, fallback_to_soft=False):
            if supervisor.is_running(paths):
                raise Refused(f"swarm '{paths.tag}' is running", f"swarm stop --tag {paths.tag}")
            return _clean(paths, board, force)
    except filelock.Timeout as error:
        raise Refused(f"swarm '{paths.tag}' is being spawned", "see swarm status") from error


def _clean(paths: Paths, board: Leaderboard, force: bool) -> list[str]:
    repository = Repository(paths.root)
    worktrees = {
        name: Worktree(paths.worktree(name), state.joined.branch)
        for name, state in board.workers.items()
        if paths.worktree(name).exists()
    }
    if not force:
        for worktree in worktrees.values():
            _check_clean(board, worktree)
    removed = []
    for name, state in board.workers.items():
        commit = repository.resolve(f"refs/heads/{state.joined.branch}")
        if name in worktrees:
            shutil.rmtree(worktrees[name].folder)
            removed.append(str(Path("worktrees") / paths.tag / name))
        repository.run("worktree", "prune")
        if commit:
            archive = paths.experiment_ref(f"archive/{name}")
            repository.set_ref(archive, commit, "swarm clean")
            repository.run("branch", "--quiet", "-D", state.joined.branch)
            removed.append(f"branch {state.joined.branch} (kept as {archive})")
    if paths.worktrees.exists() and set(paths.worktrees.iterdir()) <= {
        paths.worktrees / ".gitignore"
    }:
        shutil.rmtree(paths.worktrees)
    return removed


def _check_clean(board: Leaderboard, worktree: Worktree) -> None:
    changed = worktree.changed_files()
    source = worktree.source()
    if changed == [TRAINER] and source and is_recorded(board, worktree, source):
        return
    if changed:
        raise Refused(
            f"{worktree.folder} has edits that no experiment holds: {', '.join(changed[:3])}",
            "look at them with git diff there, or drop them with --force",
        )
