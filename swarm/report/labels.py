"""Where the labels of a plot go: beside their points, over no other label and not over the line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

MOST, _TRIED = 14, 50
_COLOUR, _LEADER = "#3d444d", "#a9b1ba"
_PAD, _CLEARANCE = 1.5, 4.0
_LEADER_PARTS = 12
Line: TypeAlias = tuple[Sequence[float], Sequence[float], Sequence[float], float]
"""x and y of its points, their errors, and the x at which it ends."""


class Box(NamedTuple):
    """A rectangle in pixels. (Matplotlib's own takes a hundred times longer to compare.)"""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Box) -> bool:
        """Whether they have a point in common."""
        across = self.x0 <= other.x1 and other.x0 <= self.x1
        return across and self.y0 <= other.y1 and other.y0 <= self.y1


class Spot(NamedTuple):
    """Where a label may go, in points from what it is about."""

    x: float
    y: float
    align: Literal["left", "right"]


# Below a falling line and to the left there is room: what was there before was higher.
_SPOTS = (
    *(Spot(-8, y, "right") for y in (0, -4, -9)),
    *(Spot(-14, y, "right") for y in (-16, -26, -36)),
    *(Spot(3, y, "left") for y in (-12, -20, -30)),
    *(Spot(-24, y, "right") for y in (-30, -42, -56)),
    *(Spot(-4, y, "right") for y in (-48, -62, -78)),
    *(Spot(12, y, "left") for y in (-42, -56, -72)),
)


def place(axes: Axes, wanted: Sequence[tuple[float, float, str]], line: Line) -> int:
    """Label points `(x, y, text)`, the first ones first, as many as find room; say how many."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = _renderer(FigureCanvasAgg(figure))
    inside = Box(*axes.get_window_extent(renderer).extents)
    taken = _obstacles(axes, line)
    placed = 0
    for x, y, text in wanted[:_TRIED]:
        if placed == MOST:
            break
        found = _try(axes, renderer, inside, taken, (x, y), text) if text else []
        taken += found
        placed += bool(found)
    return placed


def _renderer(canvas: Any) -> Any:
    """Matplotlib's own, which has no types."""
    canvas.draw()
    return canvas.get_renderer()


def _try(
    axes: Axes, renderer: Any, inside: Box, taken: Sequence[Box], point: tuple[float, float],
    text: str,
) -> list[Box]:  # fmt: skip
    """Put one label at the first spot with room; return the boxes that it and its leader take."""
    label = axes.annotate(
        text, point, (0, 0), textcoords="offset points", fontsize=7.8, color=_COLOUR,
        va="center", zorder=7,
    )  # fmt: skip
    target = axes.transData.transform(point)
    for spot in _SPOTS:
        label.set_position((spot.x, spot.y))
        label.set_horizontalalignment(spot.align)
        box = _padded(*label.get_window_extent(renderer).extents, _PAD)
        end = (box.x1 if spot.align == "right" else box.x0, (box.y0 + box.y1) / 2)
        leader = _leader(end, (float(target[0]), float(target[1])))
        fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0
        free = not any(each.overlaps(other) for each in (box, *leader) for other in taken)
        if fits and free:
            axes.annotate(
                "", point, end, textcoords="figure pixels", zorder=3,
                arrowprops={"arrowstyle": "-", "color": _LEADER, "linewidth": 0.7, "shrinkA": 0,
                            "shrinkB": 4},
            )  # fmt: skip
            return [box, *leader]
    label.remove()
    return []


def _leader(end: tuple[float, float], target: tuple[float, float]) -> list[Box]:
    """Small boxes along the way from a label to just before its point."""
    found = []
    for part in range(_LEADER_PARTS):
        share = part / _LEADER_PARTS
        x, y = (a + (b - a) * share for a, b in zip(end, target, strict=True))
        if abs(x - target[0]) + abs(y - target[1]) > 3 * _CLEARANCE:
            found.append(_padded(x, y, x, y, 0.5))
    return found


def _obstacles(axes: Axes, line: Line) -> list[Box]:
    """The steps of the line and its error bars, as thin boxes in pixels."""
    x, y, errors, last = line
    corners = list(zip(x, y, strict=True))
    found = list[Box]()
    for at, (left, height) in enumerate(corners):
        right = corners[at + 1][0] if at + 1 < len(corners) else last
        below = corners[at + 1][1] if at + 1 < len(corners) else height
        bar = ((left, height - errors[at]), (left, height + errors[at]))
        across, down = ((left, height), (right, height)), ((right, height), (right, below))
        for one, other in (bar, across, down):
            (x0, y0), (x1, y1) = axes.transData.transform([one, other])
            found.append(_padded(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), _CLEARANCE))
    return found


def _padded(x0: float, y0: float, x1: float, y1: float, pad: float) -> Box:
    return Box(float(x0 - pad), float(y0 - pad), float(x1 + pad), float(y1 + pad))
