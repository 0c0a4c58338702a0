"""A built-in agent at work in its worktree: what it reads, how it submits, what it shows."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from swarm import config, snapshots
from swarm.agents import draft
from swarm.door import Door
from swarm.errors import GitError
from swarm.keys import Keys, Scrubber
from swarm.leaderboard import Leaderboard
from swarm.logfile import last_lines
from swarm.mailbox import Answer
from swarm.paths import Paths
from swarm.worktree import Repository, Worktree


class Session:
    """The swarm as seen from one worktree. It reads the journal and asks at the door.

    `scrubber` knows the keys of the agent, which are not to be written anywhere.
    """

    def __init__(self, worktree: Path, scrubber: Scrubber | None = None) -> None:
        self.door = Door(worktree)
        self.scrubber = scrubber or Scrubber({})
        desk = self.door.desk
        self.worker = desk.worker
        self.worktree = worktree
        self.paths = Paths(Path(desk.root), desk.tag)
        self.board = snapshots.leaderboard(self.paths)
        self._checkout = Worktree(worktree, self.paths.branch(desk.worker))

    def post(self, change: draft.Draft, description: str) -> Answer:
        """Submit a draft and return once it is taken. Raises what it was refused with.

        The worktree is not needed for that, so a person may edit there, and it may be moved.
        """
        request = self.door.offer(change.commit, description, change.text)
        return self.door.wait_accepted(request)

    def submit(self, change: draft.Draft, description: str) -> Mapping[str, Any]:
        """The same, until there is a verdict."""
        taken = self.post(change, description)
        answer: dict[str, Any] = msgspec.to_builtins(self.door.wait_done(taken.id))
        return answer

    def begin(self) -> draft.Draft:
        """A draft of the worktree's base."""
        commit = self._checkout.head()
        source = self._checkout.read(commit, config.TRAINER)
        return draft.Draft(commit, source, source)

    def source_of(self, experiment: str) -> str | None:
        """The train.py of an experiment; `None` when its commit is gone."""
        self.board.refresh()
        return source_reader(self.paths, self.board)(experiment)

    def log_of(self, experiment: str, lines: int) -> str:
        """The end of the log of its last trial."""
        trials = self.board.entry(experiment).trials
        return last_lines(self.paths.trial(trials[-1].id) / "run.log", lines) if trials else ""

    def program(self) -> str:
        """The instructions for agents of this repository, if it has any."""
        file = self.worktree / config.PROGRAM
        return file.read_text(errors="replace") if file.is_file() else ""


def source_reader(paths: Paths, board: Leaderboard) -> Callable[[str], str | None]:
    """How to read the train.py of an experiment; `None` comes of one whose commit is gone."""
    repository = Repository(paths.root)

    def read(experiment: str) -> str | None:
        try:
            return repository.read(board.claims[experiment].commit, config.TRAINER)
        except GitError:
            return None

    return read


def run_tuner(worktree: Path, environment: Mapping[str, str]) -> None:
    """Run the tuner in `worktree` until it is ended."""
    from swarm.agents import tuner  # late: Optuna takes a second

    session, say = _started(worktree)
    tuner.run(
        session.board,
        session.worker,
        session.begin,
        session.submit,
        session.source_of,
        lambda text: say(f"{text}\n"),
        colour=config.wants_colour(environment, sys.stdout.isatty()),
    )


def run_researcher(worktree: Path, spec: str, environment: Mapping[str, str]) -> None:
    """Run a built-in coding agent in `worktree` until it is ended."""
    from swarm.agents import researcher
    from swarm.agents.models import endpoints

    kind, _, model = spec.partition(":")
    endpoint = endpoints.parse(kind, model)
    provider = endpoint.connect(environment)
    scrubber = Scrubber(Keys.load(environment).secrets(endpoint.variables))
    session, say = _started(worktree, scrubber)
    colour = config.wants_colour(environment, sys.stdout.isatty())
    screen = researcher.Screen(say, colour, scrubber.scrub)
    researcher.Researcher(session, provider, screen).run()


def _started(
    worktree: Path, scrubber: Scrubber | None = None
) -> tuple[Session, Callable[[str], None]]:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    session = Session(worktree, scrubber)
    return session, lambda text: print(text, end="", flush=True)  # noqa: T201  seen in its pane
