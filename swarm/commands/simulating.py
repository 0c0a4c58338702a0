"""The verb that compares policies on synthetic swarms."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from swarm.commands import Session, print_json, say
from swarm.errors import SwarmError, UsageError
from swarm.policies import POLICIES
from swarm.simulate import World
from swarm.sweep import Summary, limits, sweep
from swarm.views import simulation


def simulate(session: Session) -> None:
    given = session.arguments
    worlds = _worlds(session)
    if given.plot:
        _check_plot(Path(given.plot))
    found: list[Summary] = []
    if not given.json:
        print(simulation.head(), flush=True)
    for summary in sweep(worlds, given.swarms):
        found.append(summary)
        if not given.json:
            print(simulation.row(summary), flush=True)
    if given.json:
        print_json([simulation.document(summary) for summary in found])
    else:
        print(simulation.LEGEND)
    if given.scaling:
        say(simulation.limits(limits(worlds[0], os.cpu_count() or 1)))
    if given.plot:
        from swarm.views import plots

        plots.policies(found, Path(given.plot))
        say(f"drawn: {given.plot}")


def _worlds(session: Session) -> list[World]:
    given = session.arguments
    unknown = [name for name in given.policy if name not in POLICIES]
    if unknown:
        raise UsageError(f"there is no policy '{unknown[0]}'", f"policies: {', '.join(POLICIES)}")
    return [
        World(
            policy=policy,
            sigma=sigma,
            workers=workers,
            hours=given.hours,
            think=given.think / 60,
            idle=not given.no_idle,
            fade=0.0 if given.constant else World.fade,
            placebo=given.placebo,
        )
        for workers, sigma, policy in itertools.product(given.workers, given.sigma, given.policy)
    ]


def _check_plot(path: Path) -> None:
    """Now, not after minutes of simulation."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"cannot draw a {path.suffix or 'file without ending'}", "--plot gain.png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", f"mkdir -p '{path.parent}'")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise SwarmError(
            "matplotlib is not installed", "pip install 'swarm-research[plot]'"
        ) from error
