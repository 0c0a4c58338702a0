"""What simulated swarms did, as a table and as a document."""

from __future__ import annotations

import dataclasses

from swarm.simulate import START
from swarm.sweep import BUSY_SHARE, Limits, Summary
from swarm.views.documents import Document

_HEAD = (
    f"{'policy':<9} {'workers':>7} {'σ':>7} {'true val_bpb':>19} {'claimed':>9} {'exps':>6}"
    f" {'keeps':>6} {'false':>6} {'claims':>6} {'false':>6} {'passed':>6} {'repl.':>6}"
    f" {'wasted':>6} {'h to −1 %':>10}"
)
LEGEND = (
    "true: of the incumbent at the end, mean ± standard error; claimed: of what was confirmed\n"
    "keeps, false: what the search may build on, and its share that is no better than its base\n"
    "claims, false: improvements claimed, and the share that is none; passed: share of those"
    " tested\n"
    "repl.: replicates; wasted: share of device time on experiments built on a false keep"
)


def head() -> str:
    """The table's first line."""
    return _HEAD


def row(found: Summary) -> str:
    """One world in one line."""
    world = found.world
    passed = f"{found.claims / found.tested:6.0%}" if found.tested else f"{'-':>6}"
    gained = found.reached.get(0.01)
    hours = f"{gained[0]:10.2f}" if gained and gained[1] == found.swarms else f"{'-':>10}"
    return (
        f"{world.policy:<9} {world.workers:>7} {world.sigma:7.1e}"
        f" {found.true.value:9.5f} ± {found.true.error:7.5f} {found.claimed.value:9.5f}"
        f" {found.experiments:6.0f} {found.keeps:6.1f} {found.false_keeps:6.1%} {found.claims:6.1f}"
        f" {found.false_claims:6.1%} {passed} {found.replicates:6.1f} {found.wasted:6.1%} {hours}"
    )


def document(found: Summary) -> Document:
    """One world with all that was averaged."""
    return dataclasses.asdict(found) | {"start": START}


def limits(found: Limits) -> str:
    """From how many workers on one machine's leaderboard would be too slow."""
    return (
        f"append (lock held, fsync): {1e3 * found.append:.2f} ms a line;"
        f" half of the time at {found.workers_append:,} workers\n"
        f"fold: {1e6 * found.fold:.1f} µs a line in each of as many runners;"
        f" {BUSY_SHARE:.0%} of {found.cores} cores at {found.workers_fold:,} workers\n"
        f"memory: {found.memory / 1e3:.1f} kB an experiment in each runner;"
        f" 100,000 experiments and 64 runners take {found.memory * 1e5 * 64 / 1e9:.0f} GB"
    )
