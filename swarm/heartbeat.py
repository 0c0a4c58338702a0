"""What a runner says of itself between journal lines: alive, and doing what.

Of one that cannot be started its supervisor says so here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from swarm.disk import writing

# Padded and written in place: a full disk must not keep a runner from saying that it is full.
_BYTES = 1024
Doing = Literal["training", "thinking", "paused", "parked", "dead"]


class Heartbeat(msgspec.Struct, frozen=True):
    """Written when it changes: `since` is the Unix time since when all of it has been so.

    `agent` is what the agent does meanwhile, in a word, `agent_reason` the same in a line.
    """

    pid: int
    state: Doing
    reason: str
    since: float
    pane: str | None = None
    agent: str = ""
    agent_reason: str = ""


def write(path: Path, beat: Heartbeat) -> None:
    data = msgspec.json.encode(beat).ljust(_BYTES)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)


def read(path: Path) -> Heartbeat | None:
    """The last heartbeat; `None` before the first. It is only a view, so a torn one is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Heartbeat)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
