"""One call of a model as any CLI's session file tells of it, and what reads such files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import msgspec

When = Annotated[datetime, msgspec.Meta(tz=True)]
Count = Annotated[int, msgspec.Meta(ge=0)] | None


class Tokens(NamedTuple):
    """Tokens as they are billed: input that no cache knew, read from one, written to one, output.

    `hour` of the `written` are kept for an hour, which costs more.
    """

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    hour: int = 0

    def plus(self, other: Tokens) -> Tokens:
        return Tokens(*(a + b for a, b in zip(self, other, strict=True)))

    def beyond(self, known: Tokens) -> Tokens:
        """What is here and not in `known`; never less than nothing."""
        return Tokens(*(max(0, a - b) for a, b in zip(self, known, strict=True)))


@dataclass(frozen=True)
class Call:
    """One answer of a model. Lines with the same `id` tell of the same one, each as far as it knew.

    Without an `id` it is told of only once.
    """

    id: str
    when: datetime | None
    model: str
    tokens: Tokens


class Session(Protocol):
    """The reader of one session file."""

    cwd: str | None
    """Where the session began, as soon as a line has told."""

    def read(self, line: bytes) -> Call | None:
        """Take the next line. Raises `msgspec.DecodeError` for a damaged one."""
        ...


class Cli(Protocol):
    """Where one CLI keeps its sessions, and how to read one."""

    def folders(self, worktree: Path) -> list[Path]:
        """The folders below which the sessions of `worktree` are, perhaps among others."""
        ...

    def session(self, worktree: Path) -> Session: ...
