"""A built-in agent at work in its worktree: what it reads, how it submits, what it shows."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from swarm import config
from swarm.agents import tuner
from swarm.door import Door
from swarm.errors import GitError
from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.worktree import Worktree


class Session:
    """The swarm as seen from one worktree. It reads the journal and asks at the door."""

    def __init__(self, worktree: Path) -> None:
        self.door = Door(worktree)
        desk = self.door.desk
        self.worker = desk.worker
        self.worktree = worktree
        paths = Paths(Path(desk.root), desk.tag)
        self.board = Leaderboard(Journal(paths.journal))
        self._checkout = Worktree(worktree, paths.branch(desk.worker))

    def submit(self, source: str, description: str) -> Mapping[str, Any]:
        """Submit train.py, which must hold `source`; block until the verdict.

        Whatever ends this early (a refusal, the end of the swarm) also takes the edit back.
        """
        try:
            request = self.door.submit(description)
            self.door.wait_accepted(request)
            answer: dict[str, Any] = msgspec.to_builtins(self.door.wait_done(request))
        except BaseException:
            if self._checkout.source() == source:
                self.drop_edit()
            raise
        return answer

    def drop_edit(self) -> None:
        """Put train.py back to what the branch says; what was there stays in `.swarm/`."""
        target = self._checkout.read("HEAD", config.TRAINER)
        current = self._checkout.source()
        if current == target:
            return
        box = self.worktree / ".swarm"
        (box / "dropped.py").write_bytes((current or "").encode())
        (box / "restored.py").write_bytes(target.encode())
        (box / "restored.py").replace(self._checkout.trainer)

    def source_of(self, experiment: str) -> str | None:
        """The train.py of an experiment; `None` when its commit is gone."""
        self.board.refresh()
        try:
            return self._checkout.read(self.board.claims[experiment].commit, config.TRAINER)
        except GitError:
            return None


def run_tuner(worktree: Path, environment: Mapping[str, str]) -> None:
    """Run the tuner in `worktree` until it is ended."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    session = Session(worktree)
    session.drop_edit()  # of a predecessor that was killed between edit and submission
    try:
        tuner.run(
            session.board,
            worktree,
            session.worker,
            session.submit,
            session.source_of,
            lambda text: print(text, flush=True),  # noqa: T201  its pane is where it is watched
            colour=config.wants_colour(environment, sys.stdout.isatty()),
        )
    finally:
        session.drop_edit()  # the end may come between edit and submission
