"""What a runner says of itself between journal lines: alive, and doing what."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

Doing = Literal["training", "thinking", "paused", "parked"]


class Heartbeat(msgspec.Struct, frozen=True):
    """Written when it changes. `since` is the Unix time when `state` began."""

    pid: int
    state: Doing
    reason: str
    since: float
    pane: str | None = None
    agent_pid: int | None = None
    trial: str | None = None


def write(path: Path, beat: Heartbeat) -> None:
    partial = path.with_suffix(".part")
    partial.write_bytes(msgspec.json.encode(beat))
    partial.replace(path)


def read(path: Path) -> Heartbeat | None:
    """The last heartbeat; `None` before the first. It is only a view, so a torn one is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Heartbeat)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
