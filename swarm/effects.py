"""What changes of a train.py do to its val_bpb, as far as one can know before they are tried.

A proposal's effect is one of a few sizes, each with a weight. The weights start from what
published swarms of LLM agents found and are learnt from the swarm's own results.
"""

from __future__ import annotations

import bisect
import itertools
import math
from typing import NamedTuple

import msgspec

QUANTILES = (
    (0.0, -115.0), (0.01, -43.0), (0.05, -12.0), (0.10, -5.0), (0.20, 0.0),
    (0.50, 8.0), (0.75, 28.0), (0.90, 65.0), (1.0, 300.0),
)  # fmt: skip
"""Quantiles of the change of val_bpb by an LLM's proposal in 1e-4, on datacenter GPUs: the middle
of what published logs give. The ends are not known; 0 % is the extreme of their first percent."""
_UNIT = 1e-4 / 7e-4
"""Effects are stored in SDs of noise: on those GPUs one is 7e-4."""
_SIZES = tuple(0.25 * 2**k for k in range(11))
_RELATIVE_WIDTH = 3.0
"""Effects of one size are spread normally around it, with this part of it as SD."""
_PRIOR_RESULTS = 40
"""So many results the published weights count for."""
_LEARN_AGAIN = 1.25
"""The weights are learnt again when there are so many times the results."""
_ROUNDS = 3
_HALVINGS = 16  # to a thousandth of an SD
_TINY = 1e-290


class Belief(NamedTuple):
    """What is believed of an experiment's true val_bpb: mean, variance, P(better than its base)."""

    mean: float
    variance: float
    better: float


class Learnt(msgspec.Struct):
    """What the results so far have said of effects."""

    weights: tuple[float, ...]
    version: int
    seen: list[int]
    results: int
    next: int


class Effects:
    """The distribution of effects in a device class. `unit` is its prior SD of noise, val_bpb."""

    def __init__(self, unit: float) -> None:
        scale = unit * _UNIT
        sizes = (*(-size for size in reversed(_SIZES)), 0.0, *_SIZES)
        self.sizes = tuple(size * scale for size in sizes)
        self._widths = tuple((size / _RELATIVE_WIDTH) ** 2 for size in self.sizes)
        middles = [(a + b) / 2 for a, b in itertools.pairwise(sizes)]
        shares = [0.0, *map(_share_below, middles), 1.0]
        self.prior = tuple(b - a for a, b in itertools.pairwise(shares))
        self.weights = self.prior
        self.version = 0
        self._borders = [middle * scale for middle in middles]
        self._seen = [0] * len(sizes)
        self._results, self._next = 0, _PRIOR_RESULTS // 2

    @property
    def learnt(self) -> Learnt:
        """All that is not the same in every new class; `resume` takes it back."""
        return Learnt(self.weights, self.version, self._seen, self._results, self._next)

    def resume(self, learnt: Learnt) -> None:
        """Go on from there. Raises `ValueError` for weights of other sizes than these."""
        if {len(learnt.weights), len(learnt.seen)} != {len(self.sizes)}:
            raise ValueError("those are weights of other effects")
        self.weights, self.version = learnt.weights, learnt.version
        self._seen, self._results, self._next = learnt.seen, learnt.results, learnt.next

    @property
    def gain(self) -> float:
        """By how much a proposal is expected to lower val_bpb, counting the others as none."""
        count = len(_SIZES)
        pairs = zip(self.weights[:count], self.sizes[:count], strict=True)
        return -math.fsum(weight * size for weight, size in pairs)

    def learn(self, difference: float, spread: float) -> None:
        """A first trial was `difference` above its base's mean, which has variance `spread`."""
        self._seen[bisect.bisect(self._borders, difference)] += 1
        self._results += 1
        if self._results >= self._next:
            self._next = math.ceil(self._results * _LEARN_AGAIN)
            self._learn_weights(spread)

    def _learn_weights(self, spread: float) -> None:
        """Expectation-maximisation over the histogram, with the prior as results of its own."""
        pairs = [
            (size, spread + width) for size, width in zip(self.sizes, self._widths, strict=True)
        ]
        kernel = [
            [math.exp(-0.5 * (x - size) ** 2 / whole) / math.sqrt(whole) for size, whole in pairs]
            for x in self.sizes
        ]
        for _ in range(_ROUNDS):
            counts = [_PRIOR_RESULTS * share for share in self.prior]
            for seen, row in zip(self._seen, kernel, strict=True):
                parts = [w * k for w, k in zip(self.weights, row, strict=True)]
                total = sum(parts)
                if seen and total > _TINY:
                    counts = [c + seen * p / total for c, p in zip(counts, parts, strict=True)]
            whole = sum(counts)
            self.weights = tuple(count / whole for count in counts)
        self.version += 1

    def believe(self, value: float, own: float, base: Belief) -> Belief:
        """The belief about an experiment measured at `value`, a mean with variance `own`.

        For each size of effect the true val_bpb has a normal prior around the base's mean plus
        that size, as wide as sizes are apart; the result mixes their posteriors. (What is spread
        around a negative size is counted as better; a thousandth of it is not.)
        """
        spread = own + base.variance
        difference = value - base.mean
        total = first = second = better = 0.0
        for weight, size, width in zip(self.weights, self.sizes, self._widths, strict=True):
            whole = spread + width
            part = weight / math.sqrt(whole) * math.exp(-0.5 * (difference - size) ** 2 / whole)
            share = 1.0 - own / whole
            shift = size + share * (difference - size)
            total += part
            first += part * shift
            second += part * (shift * shift + share * own)
            if size < 0:
                better += part
        if total < _TINY:  # further away than any effect known
            return Belief(value, own, float(difference < 0))
        first /= total
        return Belief(base.mean + first, second / total - first * first, better / total)

    def bar(self, own: float, base: Belief) -> float:
        """The val_bpb below which a single trial makes its experiment probably better."""
        spread = own + base.variance
        low, high = base.mean - 8 * math.sqrt(spread), base.mean
        mixture = []
        for weight, size, width in zip(self.weights, self.sizes, self._widths, strict=True):
            whole = spread + width
            mixture.append((size, whole, weight / math.sqrt(whole), 1.0 - own / whole))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            better = _believed_lower(middle, base.mean, mixture)
            low, high = (middle, high) if better else (low, middle)
        return low


def _believed_lower(
    value: float, base: float, mixture: list[tuple[float, float, float, float]]
) -> bool:
    """Whether `Effects.believe` gives a mean below that of the base, computed in the same way."""
    difference = value - base
    total = first = 0.0
    for size, whole, height, share in mixture:
        part = height * math.exp(-0.5 * (difference - size) ** 2 / whole)
        total += part
        first += part * (size + share * (difference - size))
    return value < base if total < _TINY else base + first / total < base


def _share_below(x: float) -> float:
    """The share of effects below `x`, in 1e-4, between the published quantiles."""
    if x <= QUANTILES[0][1]:
        return 0.0
    for (low, a), (high, b) in itertools.pairwise(QUANTILES):
        if x < b:
            return low + (high - low) * (x - a) / (b - a)
    return 1.0
