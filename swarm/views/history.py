"""How a search came to where it is: the changes that its result is made of, one after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from swarm.standings import DeviceClass, Entry


class Step(NamedTuple):
    """A kept change. `gain` is by how much it lowered val_bpb against `base`, over all trials of
    both; `error` is the standard error of that, from the noise of the device class."""

    entry: Entry
    base: Entry
    gain: float
    error: float


def lineage(known: DeviceClass, experiment: str | None) -> list[Entry]:
    """What `experiment` is built of: the baseline first, itself last; empty for `None`.

    An ancestor that was measured in another device class only has no score here, and is left out.
    """
    found: list[Entry] = []
    entry = known.entries.get(experiment) if experiment else None
    while entry is not None:
        if entry.estimate is not None:
            found.append(entry)
        entry = known.entries.get(entry.claim.parent or "")
    return found[::-1]


def steps(known: DeviceClass, experiment: str | None) -> Iterator[Step]:
    """The changes between the baseline and `experiment`, with what each of them gained."""
    chain = lineage(known, experiment)
    for base, entry in itertools.pairwise(chain):
        yield Step(entry, base, *gain(known, entry, base))


def gain(known: DeviceClass, entry: Entry, base: Entry) -> tuple[float, float]:
    """By how much `entry` is below `base` in val_bpb, and the standard error of that."""
    assert entry.estimate is not None and base.estimate is not None
    trials = 1 / entry.estimate.replicates + 1 / base.estimate.replicates
    return base.estimate.mean - entry.estimate.mean, known.noise.sd * math.sqrt(trials)


def in_sigmas(known: DeviceClass, entry: Entry) -> float | None:
    """How far its mean is from that of the incumbent, in SDs of one trial; below zero is better.

    `None` where either has no score.
    """
    top = known.top()
    if entry.estimate is None or top is None or top.estimate is None:
        return None
    return (entry.estimate.mean - top.estimate.mean) / known.noise.sd
