"""The plot of a swarm's progress: everything that was tried, what was kept, what it led to."""

from __future__ import annotations

import io
import itertools
import statistics
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from swarm.errors import SwarmError
from swarm.report.opening import title
from swarm.report.result import Measured
from swarm.report.story import Chapter, Dot, Story
from swarm.report.wording import counted, digits, hours, number, uncertain
from swarm.views.table import fit

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator
    from PIL import Image  # which matplotlib itself needs

    from swarm.report.labels import place
except ImportError as error:
    raise SwarmError("matplotlib is not installed", "pip install 'swarm-research[plot]'") from error

_PAPER, _INK, _SOFT, _GRID = "#ffffff", "#1f2328", "#656d76", "#e7eaee"
_TRIED, _KEPT, _LINE, _HELDOUT, _CRASH = "#b4bac2", "#4cb782", "#157f3c", "#7c5cd6", "#d06a5f"
_WIDTH, _HEIGHT, _DPI, _MOST_CLASSES = 9.2, 5.2, 170, 4
_BAND, _MANY = 0.1, 300
_COLOURS, _LABEL = 256, 30
_FONT: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 9.0, "text.color": _INK, "axes.labelcolor": _SOFT, "xtick.color": _SOFT,
    "ytick.color": _SOFT, "axes.unicode_minus": True, "text.parse_math": False,
}  # fmt: skip


class View(NamedTuple):
    """The val_bpb that a plot shows. Above it is a band for what lies higher or has no score."""

    low: float
    high: float

    def beyond(self, share: float) -> float:
        """A height above the view, as a share of it."""
        return self.high + share * (self.high - self.low)


def draw(story: Story) -> bytes:
    """The plot as a PNG, one below the other where there are several device classes."""
    shown = story.chapters[:_MOST_CLASSES]
    # What agents wrote may have characters that no font here has: they show as boxes.
    with mpl.rc_context(_FONT), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(_WIDTH, _HEIGHT * len(shown)), dpi=_DPI, facecolor=_PAPER)
        rows = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        figure.subplots_adjust(
            left=0.085, right=0.975, top=1 - 0.98 / (_HEIGHT * len(shown)),
            bottom=0.5 / (_HEIGHT * len(shown)), hspace=0.36,
        )  # fmt: skip
        for axes, chapter in zip(rows, shown, strict=True):
            _plot(axes, story, chapter)
        return _png(figure)


def _png(figure: Figure) -> bytes:
    """With a palette: a third of the size, and no difference to be seen."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", facecolor=_PAPER)
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        file, "png", optimize=True
    )
    return file.getvalue()


def _plot(axes: Axes, story: Story, chapter: Chapter) -> None:
    view = range_of(chapter)
    last = max((dot.number for dot in chapter.dots), default=1) or 1
    axes.set_ylim(view.low, view.beyond(_BAND))
    axes.set_xlim(-0.02 * last, 1.02 * last)
    _frame(axes, story, chapter)
    scored = [dot for dot in chapter.dots if dot.val_bpb is not None]
    _dots(axes, view, [dot for dot in scored if not dot.kept], _TRIED, "tried")
    _dots(axes, view, [dot for dot in scored if dot.kept], _KEPT, "kept")
    failed = [dot.number for dot in chapter.dots if dot.val_bpb is None]
    if failed:
        many = len(failed) >= _MANY
        axes.plot(
            failed, [view.beyond(0.07)] * len(failed), linestyle="", marker="|" if many else "x",
            markersize=3.4, markeredgewidth=0.3 if many else 0.8, color=_CRASH,
            alpha=_alpha(len(failed)), label="no score", zorder=2,
        )  # fmt: skip
    _lineage(axes, chapter, last)
    _heldout(axes, chapter)
    _best(axes, chapter)
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(-0.008, 1.0), ncols=7, frameon=False, fontsize=8,
        handletextpad=0.45, columnspacing=1.3, borderaxespad=0.25, handlelength=1.5,
        labelcolor=_SOFT,
    )  # fmt: skip
    for handle in legend.legend_handles:  # as faint as the dots they would not be seen
        if isinstance(handle, Line2D):
            handle.set_alpha(1.0)
            handle.set_markersize(max(handle.get_markersize(), 4.5))


def range_of(chapter: Chapter) -> View:
    """What matters: from the baseline down to the lowest score, and as much of the rest as is near.

    Most of what was tried is a little worse than the baseline, some of it a lot.
    """
    scores = sorted(dot.val_bpb for dot in chapter.dots if dot.val_bpb is not None)
    if not scores:
        return View(0.0, 1.0)
    middle = statistics.median(scores)
    points = [point.val_bpb for point in chapter.lineage] or [Measured(middle, chapter.noise.sd)]
    bottom = min(point.value - point.error for point in points)
    top = max(point.value + point.error for point in points)
    span = top - bottom
    low = min(bottom, max(scores[0], bottom - 0.35 * span))
    high = max(top, min(scores[int(0.8 * (len(scores) - 1))], top + 0.6 * span))
    margin = 0.07 * (high - low)
    return View(low - margin, high + margin)


def _dots(axes: Axes, view: View, dots: Sequence[Dot], colour: str, label: str) -> None:
    if not dots:
        return
    inside, above, below = list[Dot](), list[Dot](), list[Dot]()
    for dot in dots:
        value = dot.val_bpb or 0.0
        (above if value > view.high else below if value < view.low else inside).append(dot)
    size = 5.0 if len(dots) < _MANY else 3.6 if len(dots) < 10 * _MANY else 1.8
    style: dict[str, Any] = {
        "linestyle": "",
        "markeredgewidth": 0,
        "color": colour,
        "alpha": _alpha(len(dots)),
    }
    axes.plot(
        [dot.number for dot in inside], [dot.val_bpb or 0.0 for dot in inside],
        marker="o", markersize=size, label=label, zorder=3 if colour == _KEPT else 2, **style,
    )  # fmt: skip
    for outside, height, marker in ((above, view.beyond(0.03), "^"), (below, view.low, "v")):
        axes.plot(
            [dot.number for dot in outside], [height] * len(outside), marker=marker,
            markersize=size * 0.8, zorder=2, clip_on=False, **style,
        )  # fmt: skip


def _alpha(count: int) -> float:
    return 0.9 if count < _MANY else 0.6 if count < 10 * _MANY else 0.25


def _lineage(axes: Axes, chapter: Chapter, last: int) -> None:
    points = chapter.lineage
    if not points:
        return
    x = [point.number for point in points]
    y = [point.val_bpb.value for point in points]
    axes.step(
        [*x, last], [*y, y[-1]], where="post", color=_LINE, linewidth=1.7, zorder=4,
        label="what the search builds on", solid_joinstyle="round",
    )  # fmt: skip
    axes.errorbar(
        x, y, [point.val_bpb.error for point in points], fmt="none", ecolor=_LINE,
        elinewidth=1.0, capsize=0, alpha=0.55, zorder=4,
    )  # fmt: skip
    size = 5.6 if len(points) < 40 else 3.6
    for confirmed, face, label in ((False, _PAPER, None), (True, _LINE, "confirmed")):
        chosen = [at for at, point in enumerate(points) if point.confirmed is confirmed]
        if chosen:
            axes.plot(
                [x[at] for at in chosen], [y[at] for at in chosen], linestyle="", marker="o",
                markersize=size + 1.2 * confirmed, markerfacecolor=face, markeredgecolor=_LINE,
                markeredgewidth=1.4, zorder=5 + confirmed, label=label,
            )  # fmt: skip
    gains = [0.0, *(before - after for before, after in itertools.pairwise(y))]
    gained = [at for at, gain in enumerate(gains) if gain > 0]
    order = sorted(gained, key=lambda at: -gains[at])
    place(
        axes,
        [(x[at], y[at], _label(points[at].description)) for at in order],
        (x, y, [point.val_bpb.error for point in points], last),
    )


def _best(axes: Axes, chapter: Chapter) -> None:
    """What is claimed, where that is confirmed; the search may have gone on from elsewhere."""
    final = chapter.result.final
    dot = next((d for d in chapter.dots if final and d.experiment == final.experiment), None)
    if dot and final and chapter.result.standing == "confirmed":
        axes.plot(
            [dot.number], [final.val_bpb.value], linestyle="", marker="*", markersize=15,
            color="#e3a008", markeredgecolor=_PAPER, markeredgewidth=1.0, zorder=8,
            label=f"best, confirmed: {final.experiment}",
        )  # fmt: skip


def _label(description: str) -> str:
    return fit(" ".join(description.split()), _LABEL)


def _heldout(axes: Axes, chapter: Chapter) -> None:
    """The same on held-out text, moved so that both begin at the baseline."""
    points = [point for point in chapter.lineage if point.heldout is not None]
    if len(points) < 2 or points[0] is not chapter.lineage[0]:
        return
    shift = points[0].val_bpb.value - (points[0].heldout or 0.0)
    moved = number(shift, max(3, digits(chapter.noise.sd) - 1), sign=True)
    axes.plot(
        [point.number for point in points], [(point.heldout or 0.0) + shift for point in points],
        linestyle=(0, (4, 2.4)), linewidth=1.2, marker="D", markersize=3.0, color=_HELDOUT,
        zorder=4, label=f"held-out text ({moved})",
    )  # fmt: skip


def _frame(axes: Axes, story: Story, chapter: Chapter) -> None:
    axes.set_facecolor(_PAPER)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#c9ced6")
    axes.tick_params(length=0, labelsize=8.5)
    axes.grid(axis="y", color=_GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("experiment, in the order of submission", fontsize=8.5)
    axes.set_ylabel("val_bpb, lower is better", fontsize=8.5)
    head, below = headline(story, chapter)
    for text, height, size, weight, colour in (
        (head, 46, 12.5, "bold", _INK), (below, 30, 8.7, "normal", _SOFT),
    ):  # fmt: skip
        axes.annotate(
            text, (0, 1), (0, height), xycoords="axes fraction", textcoords="offset points",
            fontsize=size, fontweight=weight, color=colour, annotation_clip=False,
        )  # fmt: skip


def headline(story: Story, chapter: Chapter) -> tuple[str, str]:
    """What the plot shows, in a line and a smaller one."""
    found, name = chapter.result, title(story)
    if found.standing == "confirmed" and found.unselected:
        gain = found.unselected.percent
        change = Measured(-gain.value, gain.error)
        percent = uncertain(change, True, " %", min(2, digits(gain.error)))
        name = f"{name}: val_bpb {percent}, confirmed"
    elif found.improvement and found.final and found.baseline:
        shown = min(4, digits(found.final.val_bpb.error))
        before, after = (number(s.val_bpb.value, shown) for s in (found.baseline, found.final))
        gain = found.improvement.percent
        percent = number(-gain.value, min(2, digits(gain.error)), sign=True)
        sure = "" if found.final.confirmed else ", not confirmed"
        name = f"{name}: val_bpb {before} → {after} ({percent} %{sure})"
    elif chapter.experiments:
        name = f"{name}: no improvement yet" if chapter.scored else f"{name}: no score yet"
    parts = [
        f"{counted(chapter.experiments, 'experiment')} in {hours(story.attendance.wall)}",
        f"{chapter.keeps:,} kept, {chapter.confirmed:,} confirmed",
        f"σ of a trial {number(chapter.noise.sd, digits(chapter.noise.sd))}",
        fit(chapter.name, 60),
    ]
    return name, "  ·  ".join(parts)
