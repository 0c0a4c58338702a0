"""Plots, with matplotlib and without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from swarm.simulate import START
from swarm.sweep import Summary

matplotlib.use("agg")
_COLOURS = {"probable": "#1b7f4d", "greedy": "#7a7a7a", "strict": "#b5651d"}


def policies(found: Sequence[Summary], path: Path) -> None:
    """Gain, false keeps and false claims by σ and policy; with several worker counts, by those."""
    by_workers = len({summary.world.workers for summary in found}) > 1
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    gain, keeps, claims = figure.subplots(1, 3)
    names = list(dict.fromkeys(summary.world.policy for summary in found))
    for name in names:
        mine = [summary for summary in found if summary.world.policy == name]
        x = [s.world.workers if by_workers else s.world.sigma for s in mine]
        style = {"color": _COLOURS.get(name), "label": name, "marker": "o"}
        gained = [100 * (1 - s.true.value / START) for s in mine]
        errors = [100 * 2 * s.true.error / START for s in mine]
        gain.errorbar(x, gained, errors, capsize=3, **style)
        keeps.plot(x, [100 * s.false_keeps for s in mine], **style)
        claims.plot(x, [100 * s.false_claims for s in mine], **style)
    for axes, title in (
        (gain, "true improvement, % (± 2 standard errors)"),
        (keeps, "keeps that are none, %"),
        (claims, "claims that are none, %"),
    ):
        axes.set_xscale("log")
        ticks = sorted({s.world.workers if by_workers else s.world.sigma for s in found})
        axes.set_xticks(ticks, [f"{tick:,}" if by_workers else f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("workers" if by_workers else "σ of a trial's val_bpb")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])  # a line at zero is seen
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    claims.axhline(5, color="#b00020", linewidth=0.8, linestyle="--")
    gain.legend(frameon=False)
    figure.savefig(path, dpi=150)
