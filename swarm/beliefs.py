"""What is believed of experiments: their own trials, and those of what they build on."""

from __future__ import annotations

from swarm.effects import Belief
from swarm.standings import DeviceClass, Entry


def belief_of(known: DeviceClass, entry: Entry) -> Belief:
    """What is believed of an entry; computed where nobody needed it before."""
    if entry.belief is not None:
        return entry.belief
    assert entry.estimate is not None
    if entry.base is None:
        return measured(known, entry)
    own = known.noise.variance / entry.estimate.replicates
    return known.effects.believe(entry.estimate.mean, own, belief_of(known, entry.base))


def bar_of(known: DeviceClass, base: Entry) -> float:
    """Below this val_bpb a single trial makes a child of `base` probably better than it."""
    if base.bar_version != known.version:
        base.bar = known.effects.bar(known.noise.variance, belief_of(known, base))
        base.bar_version = known.version
    return base.bar


def measured(known: DeviceClass, entry: Entry) -> Belief:
    """What its own trials alone say of an entry."""
    assert entry.estimate is not None
    return Belief(entry.estimate.mean, known.noise.variance / entry.estimate.replicates, 0.0)
