"""The verbs of the command line: each parses nothing, calls one function and prints."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from swarm import config, snapshots
from swarm.config import Place
from swarm.errors import Refused
from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.strays import AGENT_MARK
from swarm.views import crew


@dataclass(frozen=True)
class Session:
    """Where a command runs and what it was given."""

    arguments: argparse.Namespace
    environment: dict[str, str]

    @property
    def place(self) -> Place:
        return config.find_place(Path.cwd())

    @property
    def paths(self) -> Paths:
        return config.find_swarm(self.place, self.arguments.tag)

    def refuse_agents(self, what: str) -> None:
        """Raise `Refused` to an agent: who saw these scores would optimise them."""
        if self.place.worktree is not None or AGENT_MARK in self.environment:
            raise Refused(f"{what} are for people", "val_bpb is what you are judged by")


def folded(paths: Paths, from_start: bool = False) -> Leaderboard:
    """What the swarm knows; `from_start` trusts no snapshot, for what is decided for good."""
    board = Leaderboard(Journal(paths.journal)) if from_start else snapshots.leaderboard(paths)
    board.refresh()
    snapshots.Keeper(paths.snapshot).refresh(board)
    return board


def begun(paths: Paths) -> Leaderboard:
    """The same for verbs that are about its workers. Raises `Refused` before they are known."""
    board = folded(paths)
    if not crew.is_laid_out(board):
        raise Refused(
            f"swarm '{paths.tag}' is being laid out",
            f"try again in a moment; if its spawn was cut off: swarm spawn --tag {paths.tag}",
        )
    return board


def say(text: str) -> None:
    """Progress and commentary, which never mixes with what is asked for on stdout."""
    print(text, file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
