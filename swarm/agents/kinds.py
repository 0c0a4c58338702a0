"""The kinds of agents: our own, any command, and the command lines of others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from swarm import config, keys
from swarm.agents import transcripts
from swarm.agents.clis import Cli
from swarm.agents.models.endpoints import Endpoint
from swarm.agents.transcripts import Transcripts
from swarm.errors import SwarmError


@dataclass(frozen=True)
class Errand:
    """What an agent is started for; `terminal`: in a pane that a person can type into."""

    prompt: str
    worktree: Path
    terminal: bool
    root: bool


class Agent(Protocol):
    """How to run one kind of agent."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The variables that only it gets, names or patterns: its keys."""

    @property
    def cli(self) -> Cli | None:
        """How it looks on a screen, where it has to be watched there."""

    @property
    def asks(self) -> str | None:
        """The model that it pays for; empty where that is its own affair, `None`: none at all."""

    def check(self, environment: Mapping[str, str]) -> None:
        """Raise `SwarmError` for what would keep it from starting."""

    def argv(self, errand: Errand) -> list[str]:
        """The command, run in the worktree."""

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment it gets."""

    def prepare(self, worktree: Path, environment: Mapping[str, str]) -> None:
        """Make ready what it needs before it starts in a worktree. Raises `SwarmError`."""

    def transcripts(
        self, worktree: Path, environment: Mapping[str, str], since: datetime
    ) -> Transcripts | None:
        """Where it writes down what it uses, if it does not report that itself."""


@dataclass(frozen=True)
class BuiltIn:
    """An agent of our own, `swarm agent SPEC`; `endpoint` is whose model it asks, if any's."""

    spec: str
    endpoint: Endpoint | None = None
    cli: None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return self.endpoint.variables if self.endpoint else ()

    @property
    def asks(self) -> str | None:
        return self.endpoint.model if self.endpoint else None

    def check(self, environment: Mapping[str, str]) -> None:
        if self.endpoint:
            self.endpoint.check(environment)

    def argv(self, errand: Errand) -> list[str]:
        return [config.python(), "-P", "-m", "swarm.cli", "agent", self.spec]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        return keys.builtin_environment(inherited, self.needs) | config.own_package()

    def prepare(self, worktree: Path, environment: Mapping[str, str]) -> None:
        """It needs nothing."""

    def transcripts(self, worktree: Path, environment: Mapping[str, str], since: datetime) -> None:
        """It reports at the door."""


@dataclass(frozen=True)
class Command:
    """Any shell command: `cmd:'my-agent --loop'`. It gets the secrets in `needs`, which are passed
    by name.
    """

    line: str
    needs: tuple[str, ...] = ()
    cli: None = None
    asks: str = ""

    def check(self, environment: Mapping[str, str]) -> None:
        """Only the shell can tell."""

    def argv(self, errand: Errand) -> list[str]:
        return ["/bin/sh", "-c", self.line]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        return keys.agent_environment(inherited, self.needs, ())

    def prepare(self, worktree: Path, environment: Mapping[str, str]) -> None:
        """Nothing is known of it."""

    def transcripts(self, worktree: Path, environment: Mapping[str, str], since: datetime) -> None:
        """Nothing is known of it."""


@dataclass(frozen=True)
class Foreign:
    """Somebody else's command line, as the table of `clis` describes it."""

    cli: Cli
    model: str = ""
    passed: tuple[str, ...] = ()
    asks: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.cli.keys, *self.passed)

    def check(self, environment: Mapping[str, str]) -> None:
        if shutil.which(self.cli.program, path=environment.get("PATH")) is None:
            hint = f"install it: {self.cli.install}" if self.cli.install else "see its own pages"
            raise SwarmError(f"{self.cli.program} is not installed", hint)

    def argv(self, errand: Errand) -> list[str]:
        return self.cli.argv(
            errand.prompt, self.model, errand.terminal, errand.root, errand.worktree
        )

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        return keys.agent_environment(inherited, self.needs, ()) | self.cli.set

    def prepare(self, worktree: Path, environment: Mapping[str, str]) -> None:
        self.cli.prepare(worktree, environment)

    def transcripts(
        self, worktree: Path, environment: Mapping[str, str], since: datetime
    ) -> Transcripts | None:
        return transcripts.watch(self.cli.name, worktree, environment, since)
