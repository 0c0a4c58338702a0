"""What did not work: discarded, crashed, rejected, timed out; by cause and by what was changed."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from swarm.decide import VerdictKind
from swarm.report.result import Measured, chance_better
from swarm.standings import DeviceClass, Entry
from swarm.views import history

_CLEARLY = 2.0
"""Standard errors from which on a change did harm, rather than nothing that could be seen."""
_NEAR_MISSES, _EXAMPLES = 8, 3
_FAILED: tuple[VerdictKind, ...] = ("crash", "timeout", "rejected", "interrupted")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")
_CONSTANT = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")


@dataclass(frozen=True)
class Cause:
    """Failures that say the same, but for numbers: the text of the first, and some of them."""

    verdict: VerdictKind
    text: str
    count: int
    experiments: tuple[str, ...]


class NearMiss(NamedTuple):
    """What scored lower than its base, and is yet not believed to be better."""

    experiment: str
    description: str
    gain: Measured
    better: float
    trials: int


class Topic(NamedTuple):
    """A constant of train.py, and how changes that name it went; `best` is the largest gain."""

    name: str
    tried: int
    kept: int
    best: Measured | None


@dataclass(frozen=True)
class Failures:
    """`harmful` discards are clearly worse than their base, `unclear` ones cannot be told."""

    harmful: int
    unclear: int
    causes: tuple[Cause, ...]
    near_misses: tuple[NearMiss, ...]
    topics: tuple[Topic, ...]


def of(known: DeviceClass, constants: Iterable[str]) -> Failures:
    """What did not work on a device class. `constants` are those that its train.py has."""
    tried = [entry for entry in known.entries.values() if entry.claim.parent]
    effects = [(entry, base, *history.gain(known, entry, base)) for entry, base in _pairs(known)]
    discarded = [effect for effect in effects if effect[0].kind == "discard"]
    harmful = sum(gain < -_CLEARLY * error for _, _, gain, error in discarded)
    return Failures(
        harmful,
        len(discarded) - harmful,
        tuple(_causes(entry for entry in tried if entry.kind in _FAILED)),
        tuple(_near_misses(known, discarded)),
        tuple(_topics(tried, effects, frozenset(constants))),
    )


Effect = tuple[Entry, Entry, float, float]


def _pairs(known: DeviceClass) -> Iterator[tuple[Entry, Entry]]:
    """Every experiment with a score, and the one with a score that it is held against."""
    for entry in known.entries.values():
        base = entry.base or known.entries.get(entry.claim.parent or "")
        if entry.claim.parent and entry.estimate and base and base.estimate:
            yield entry, base


def _causes(failed: Iterable[Entry]) -> list[Cause]:
    """Grouped by what they say, the most frequent first."""
    groups: dict[tuple[VerdictKind, str], list[Entry]] = {}
    for entry in failed:
        groups.setdefault((entry.kind, _NUMBER.sub("#", entry.reason)), []).append(entry)
    found = [
        Cause(kind, same[0].reason, len(same), tuple(e.experiment for e in same[:_EXAMPLES]))
        for (kind, _), same in groups.items()
    ]
    return sorted(found, key=lambda cause: -cause.count)


def _near_misses(known: DeviceClass, discarded: Iterable[Effect]) -> list[NearMiss]:
    lower = ((gain, -at, effect) for at, effect in enumerate(discarded) if (gain := effect[2]) > 0)
    return [
        NearMiss(
            entry.experiment,
            entry.claim.description,
            Measured(gain, error),
            chance_better(known, entry, base),
            len(entry.values),
        )
        for _, _, (entry, base, gain, error) in heapq.nlargest(_NEAR_MISSES, lower)
    ]


def _topics(
    tried: Iterable[Entry], effects: Iterable[Effect], constants: frozenset[str]
) -> list[Topic]:
    """By constant, as far as descriptions name them; the most tried first."""
    count, kept = Counter[str](), Counter[str]()
    best: dict[str, Measured] = {}
    for entry in tried:
        for name in _named(entry.claim.description, constants):
            count[name] += 1
            kept[name] += entry.kind == "keep"
    for entry, _, gain, error in effects:
        for name in _named(entry.claim.description, constants):
            if name not in best or gain > best[name].value:
                best[name] = Measured(gain, error)
    return [Topic(name, tried, kept[name], best.get(name)) for name, tried in count.most_common()]


def _named(description: str, constants: frozenset[str]) -> list[str]:
    """The constants that a description names: those of train.py, and whatever is spelled so."""
    words = set(re.findall(r"\w+", description))
    return sorted(words & constants | set(_CONSTANT.findall(description)))
