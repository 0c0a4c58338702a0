"""What a running trial says of itself: the last progress line of its log."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import msgspec

_TAIL_BYTES = 8192
_LINE_ENDS = re.compile(r"[\r\n]+")
_STEP = re.compile(r"(?<![a-z_])step (\d+) \(([\d.]+) ?%\)")
_LOSS = re.compile(r"\bloss (-?[\d.]+)")
_SPEED = re.compile(r"([\d,]+) tok/s")
_LEFT = re.compile(r"([\d,]+) s left")


class Progress(msgspec.Struct, frozen=True):
    """A step of training: `percent` of the budget is used; `None` where the line does not say.

    `loss` is in nats per token, `seconds_left` of training.
    """

    step: int
    percent: float
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None

    @property
    def phase(self) -> str:
        return "training" if self.percent < 100 else "evaluating"


def tail(log: Path, at_most: int = _TAIL_BYTES) -> str:
    """The end of a log; empty where there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - at_most))
            return file.read(at_most).decode(errors="replace")
    except FileNotFoundError:
        return ""


def of(log: Path) -> Progress | None:
    """The last step that a log tells of; `None` before the first."""
    return last(tail(log))


def last(text: str) -> Progress | None:
    """The last progress line of a text. An agent may have changed them: what is no such line is
    left out, and a number that is none is `None`."""
    lines = _LINE_ENDS.split(text)
    return next(filter(None, map(_parse, reversed(lines))), None)


def _parse(line: str) -> Progress | None:
    step = _STEP.search(line)
    percent = _number(step[2]) if step else None
    if step is None or percent is None:
        return None
    return Progress(
        step=int(step[1][:15]),
        percent=min(percent, 100.0),
        loss=_found(_LOSS, line),
        tokens_per_second=_found(_SPEED, line),
        seconds_left=_found(_LEFT, line),
    )


def _found(pattern: re.Pattern[str], line: str) -> float | None:
    match = pattern.search(line)
    return _number(match[1]) if match else None


def _number(text: str) -> float | None:
    try:
        found = float(text.replace(",", ""))
    except ValueError:  # such as 1.2.3
        return None
    return found if math.isfinite(found) else None  # such as a thousand nines
