"""The progress of a search as a plot of braille dots: what was tried, kept, and built upon."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from swarm.leaderboard import Leaderboard
from swarm.standings import DeviceClass
from swarm.views import history
from swarm.watch.cells import Line

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column: Unicode, block U+2800."""
_TRIED, _KEPT, _BUILT_ON = "bright_black", "green", "bold green"
_RANK = {_TRIED: 0, _KEPT: 1, _BUILT_ON: 2}
_LABEL = 8


class Point(NamedTuple):
    """An experiment: its number, and the mean of its val_bpb."""

    number: int
    val_bpb: float


class Progress(NamedTuple):
    """What was measured on a device class; `line` is what its incumbent is built of."""

    tried: tuple[Point, ...] = ()
    kept: tuple[Point, ...] = ()
    line: tuple[Point, ...] = ()
    last: int = 0


def of(fold: Leaderboard, known: DeviceClass) -> Progress:
    """The progress on a device class; experiments are numbered over all classes."""
    tried: list[Point] = []
    kept: list[Point] = []
    for entry in known.entries.values():
        if entry.estimate is not None:
            kind = kept if entry.kind == "keep" else tried
            kind.append(Point(_number(entry.experiment), entry.estimate.mean))
    line = [
        Point(_number(entry.experiment), entry.estimate.mean)
        for entry in history.lineage(known, known.incumbent)
        if entry.estimate is not None
    ]
    return Progress(tuple(tried), tuple(kept), tuple(line), max(0, len(fold.claims) - 1))


def _number(experiment: str) -> int:
    return int(experiment.removeprefix("e"))


class _Canvas:
    """Dots on a grid of characters, 2 columns and 4 rows in each."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self._styles = [[_TRIED] * width for _ in range(height)]

    def dot(self, x: int, y: int, style: str) -> None:
        row, column = y // 4, x // 2
        self._bits[row][column] |= _DOTS[y % 4][x % 2]
        if _RANK[style] > _RANK[self._styles[row][column]]:
            self._styles[row][column] = style

    def line(self, row: int) -> Line:
        dots = zip(self._bits[row], self._styles[row], strict=True)
        return tuple(
            ("".join(chr(0x2800 + bits) if bits else " " for bits, _ in run), style)
            for style, run in itertools.groupby(dots, key=lambda dot: dot[1])
        )


def plot(found: Progress, width: int, height: int) -> list[Line]:
    """The plot on `width` × `height` characters, axes and their labels included.

    It shows the range of what was built upon: what scored far worse is left out, and counted.
    """
    columns, rows = width - _LABEL - 1, height - 1
    known = [*found.kept, *found.line]
    if columns < 8 or rows < 2 or not (known or found.tried):
        return [(("nothing is measured yet", "dim"),)] if columns >= 8 else []
    low, high = _range(found)
    canvas = _Canvas(columns, rows)
    wide, tall = columns * 2 - 1, rows * 4 - 1

    def across(number: int) -> int:
        return round(number / max(1, found.last) * wide)

    def down(val_bpb: float) -> int:
        return round((high - val_bpb) / (high - low) * tall)

    for points, style in ((found.tried, _TRIED), (found.kept, _KEPT)):
        for point in points:
            if low <= point.val_bpb <= high:
                canvas.dot(across(point.number), down(point.val_bpb), style)
    ends = [*found.line[1:], Point(found.last, found.line[-1].val_bpb)] if found.line else []
    for start, end in zip(found.line, ends, strict=True):
        for x in range(across(start.number), across(end.number) + 1):
            canvas.dot(x, down(start.val_bpb), _BUILT_ON)
        upper, lower = sorted((down(start.val_bpb), down(end.val_bpb)))
        for y in range(upper, lower + 1):
            canvas.dot(across(end.number), y, _BUILT_ON)
    above = sum(point.val_bpb > high for point in found.tried)
    return [
        *((_label(row, rows, low, high), *canvas.line(row)) for row in range(rows)),
        _axis(found.last, above, columns),
    ]


def _range(found: Progress) -> tuple[float, float]:
    """The val_bpb at the bottom and at the top: what was built upon and kept, with a margin."""
    shown = [p.val_bpb for p in (*found.line, *found.kept)] or [p.val_bpb for p in found.tried]
    low = min([*shown, *(point.val_bpb for point in found.tried)])
    high = max(shown)
    margin = 0.1 * (high - low) or 1e-4 * max(1.0, abs(high))
    return low - margin, high + margin


def _label(row: int, rows: int, low: float, high: float) -> tuple[str, str]:
    """The value at the first, the middle and the last row, in front of the axis."""
    if row not in (0, rows // 2, rows - 1) or (rows < 5 and row not in (0, rows - 1)):
        return " " * _LABEL + "│", "dim"
    value = high - (row + 0.5) / rows * (high - low)
    return f"{value:{_LABEL}.4f}"[:_LABEL] + "│", "dim"


def _axis(last: int, above: int, columns: int) -> Line:
    right = f"e{last}"
    middle = "val_bpb" + (f", {above} above" if above else "")
    room = columns - 2 - len(right)
    return ((" " * _LABEL + "└" + "e0" + f"{middle:^{room}}"[:room] + right, "dim"),)
