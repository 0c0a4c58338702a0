"""Text for a terminal: aligned columns, colours, numbers, and nothing that could harm it."""

from __future__ import annotations

import bisect
import itertools
import unicodedata
from collections.abc import Iterable, Sequence

from swarm.views.documents import Document

_COLOURS: dict[str, str] = {
    "keep": "32", "confirmed": "1;32", "training": "32", "running": "32",
    "crash": "31", "timeout": "31", "rejected": "31", "dead": "31",
    "parked": "33", "paused": "33", "candidate": "36", "interrupted": "33",
    "discard": "2",
    "heading": "1",
    "waits": "33", "limited": "33", "asks": "33", "at prompt": "33", "must log in": "31",
}  # fmt: skip
_ELLIPSIS = "…"


class Style:
    """Colours words when `colour` is on; `width` is the terminal's columns."""

    def __init__(self, colour: bool, width: int) -> None:
        self.colour, self.width = colour, width

    def word(self, word: str, text: str | None = None) -> str:
        shown = word if text is None else text
        code = _COLOURS.get(word.split(" ")[0] if word.startswith("training") else word.strip())
        return f"\x1b[{code}m{shown}\x1b[0m" if self.colour and code else shown


def printable(text: str) -> str:
    """Text of agents and logs, safe for a terminal: control characters are made visible."""
    if text.isprintable():
        return text
    return "".join(
        f"\\x{ord(c):02x}" if unicodedata.category(c) in ("Cc", "Cf") else c for c in text
    )


def cells(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters take two, accents none."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """As much of a text as fits, with an ellipsis where something is missing."""
    clean = printable(text)
    if cells(clean) <= width:
        return clean
    ends = itertools.accumulate(map(_cell, clean))
    return clean[: bisect.bisect_right(list(ends), max(0, width - 1))] + _ELLIPSIS


def ago(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 d`: how long ago something was."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def noise(found: Document) -> str:
    """What is known of the noise of a device class: `σ 0.000512 (95 %: 0.000392 to …)`."""
    count = found["replicates"]
    if not count:
        return f"σ {found['sd']:.6f} assumed; nothing was replicated yet"
    trials = "1 replicate" if count == 1 else f"{count} replicates"
    partly = "" if found["measured"] else " and what is usual"
    between = f"95 %: {found['low']:.6f} to {found['high']:.6f}"
    return f"σ {found['sd']:.6f} ({between}; from {trials}{partly})"


def usd(amount: float) -> str:
    """`12.30`, or `0.0042` for what is less than a dime."""
    return f"{amount:.2f}" if amount >= 0.1 or not amount else f"{amount:.4f}"


def tokens(count: int) -> str:
    """`950`, `12 k`, `3.4 M`."""
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.0f} k" if count < 1e6 else f"{count / 1e6:.1f} M"


def score(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def aligned(
    rows: Sequence[Sequence[str]], style: Style, right: Sequence[int], coloured: int
) -> Iterable[str]:
    """Align columns; the last one takes what the terminal's width leaves."""
    widths = _widths(rows)
    left = max(20, room(rows, style))
    for row in rows:
        padded = [
            " " * (width - cells(cell)) + cell if i in right else cell + " " * (width - cells(cell))
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        padded[coloured] = style.word(row[coloured], padded[coloured])
        yield "  ".join([*padded, fit(row[-1], left)]).rstrip()


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cells(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]


def room(rows: Sequence[Sequence[str]], style: Style) -> int:
    """What the terminal's width leaves for the last column."""
    widths = _widths(rows)
    return style.width - sum(widths) - 2 * len(widths)
