"""What a search came to on one device class: its result, the changes it is made of, how sure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from swarm.beliefs import belief_of, measured
from swarm.decide import margin
from swarm.leaderboard import BASELINE
from swarm.noise import student_tail
from swarm.standings import DeviceClass, Entry
from swarm.views import history

Standing = Literal["confirmed", "claimed", "probable", "asked", "none"]
"""Of a result: confirmed by trials made for it; claimed by a policy that confirms nothing; only
probably better; what the reader asked for; or nothing is better than the baseline."""


class Measured(NamedTuple):
    """A number with its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Score:
    """An experiment's mean val_bpb over `trials`, with its standard error."""

    experiment: str
    commit: str
    description: str
    val_bpb: Measured
    trials: int
    verdict: str
    confirmed: bool


@dataclass(frozen=True)
class Improvement:
    """By how much a result is lower than the baseline: in val_bpb, per cent and SDs of a trial."""

    absolute: Measured
    percent: Measured
    sigmas: Measured


@dataclass(frozen=True)
class Step:
    """A kept change of the result's lineage. `gain` is against the step before it, `total` against
    the baseline; `better` is P(better than what it builds on), as the policy last believed."""

    score: Score
    parent: str
    worker: str
    agent: str
    time: datetime
    gain: Measured
    total: Measured
    better: float


@dataclass(frozen=True)
class Result:
    """What was found, and what it is made of.

    `unselected` is the improvement by trials alone that were made after the choice had fallen (of
    the baseline: all); `believed` allows for the winner's curse by what else is known of effects.
    """

    standing: Standing
    baseline: Score | None
    final: Score | None
    incumbent: Score | None
    improvement: Improvement | None
    unselected: Improvement | None
    believed: float | None
    steps: tuple[Step, ...]


def of(known: DeviceClass, asked: str | None = None) -> Result:
    """The result of a device class, or the story of the experiment that is `asked` for."""
    baseline = known.entries.get(BASELINE)
    final, standing = _final(known, asked)
    if final in (None, baseline) or baseline is None or baseline.estimate is None:
        top = _score(known, known.top())
        standing = "none" if asked is None else "asked"
        return Result(standing, _score(known, baseline), None, top, None, None, None, ())
    return Result(
        standing,
        _score(known, baseline),
        _score(known, final),
        _score(known, known.top()),
        _improvement(known, *history.gain(known, final, baseline), baseline.estimate.mean),
        _unselected(known, final, baseline),
        belief_of(known, baseline).mean - belief_of(known, final).mean,
        tuple(_steps(known, final.experiment)),
    )


def _final(known: DeviceClass, asked: str | None) -> tuple[Entry | None, Standing]:
    if asked is not None:
        entry = known.entries.get(asked)
        return (entry if entry and entry.estimate else None), "asked"
    best, top = known.champion(), known.top()
    if best and best.estimate and best.claim.parent:
        return best, "confirmed" if best.confirmed else "claimed"
    if top and top.estimate and top.claim.parent:
        return top, "probable"
    return None, "none"


def _score(known: DeviceClass, entry: Entry | None) -> Score | None:
    if entry is None or entry.estimate is None:
        return None
    count = entry.estimate.replicates
    mean = Measured(entry.estimate.mean, known.noise.sd / math.sqrt(count))
    claim = entry.claim
    return Score(
        claim.experiment, claim.commit, claim.description, mean, count, entry.kind, entry.confirmed
    )


def _improvement(known: DeviceClass, gain: float, error: float, base: float) -> Improvement:
    sigma, degrees = known.noise.sd, known.noise.degrees
    ratio = gain / sigma  # σ itself is known to one part in √(2 × degrees of freedom)
    spread = math.hypot(error / sigma, ratio / math.sqrt(2 * degrees))
    return Improvement(
        Measured(gain, error),
        Measured(100 * gain / base, 100 * error / base),
        Measured(ratio, spread),
    )


def _unselected(known: DeviceClass, final: Entry, baseline: Entry) -> Improvement | None:
    ours, theirs = final.evidence, baseline.evidence
    if not ours or not theirs:
        return None
    base = math.fsum(theirs) / len(theirs)
    gain = base - math.fsum(ours) / len(ours)
    error = known.noise.sd * math.sqrt(1 / len(ours) + 1 / len(theirs))
    return _improvement(known, gain, error, base)


def _steps(known: DeviceClass, final: str) -> Iterator[Step]:
    baseline = known.entries[BASELINE]
    for step in history.steps(known, final):
        score = _score(known, step.entry)
        assert score is not None
        claim = step.entry.claim
        yield Step(
            score, step.base.experiment, claim.worker, claim.agent, claim.time,
            Measured(step.gain, step.error),
            Measured(*history.gain(known, step.entry, baseline)),
            chance_better(known, step.entry, step.base),
        )  # fmt: skip


def chance_better(known: DeviceClass, entry: Entry, base: Entry) -> float:
    """P(better than its base); where the policy keeps no beliefs, by what its trials alone say."""
    assert entry.estimate is not None
    if entry.base is not None:
        return belief_of(known, entry).better
    own = known.noise.variance / entry.estimate.replicates
    return known.effects.believe(entry.estimate.mean, own, measured(known, base)).better


def claims(known: DeviceClass) -> list[float]:
    """For each confirmed best how probable it is that it is no better than the one before it.

    By the trials made for claims, those of later ones included; before them both were thought to be
    equally probable.
    """
    pairs = itertools.pairwise(known.entries[name] for name in known.champions)
    return [
        student_tail(margin(new.evidence, old.evidence, known.noise.sd), known.noise.degrees)
        for old, new in pairs
        if new.confirmed and new.evidence and old.evidence
    ]
