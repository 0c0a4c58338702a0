"""How much val_bpb differs between trials of the same code: estimated from replicates."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import msgspec

PRIOR_SD = {"full": 7e-4, "small": 1e-2}
"""SD of val_bpb before anything was replicated, by scale: what a change of seed alone makes on
datacenter GPUs, and the upper end of laptops' trials."""
PRIOR_TRIALS = 4
"""The prior counts as so many degrees of freedom, and gives one of them up for each that is
measured: from then on replicates alone decide."""
_LEAST_VARIANCE = 1e-18


class Noise(msgspec.Struct):
    """The pooled variance of val_bpb within experiments of one device class.

    `squares` is the sum of squared deviations from the means of experiments, `freedom` its degrees
    of freedom: one less than the trials of each experiment. `variance` is that of one trial, in
    val_bpb²; never zero.
    """

    prior_sd: float
    squares: float = 0.0
    freedom: int = 0
    variance: float = 0.0

    def __post_init__(self) -> None:
        self._pool()

    def change(self, before: Sequence[float], after: Sequence[float]) -> None:
        """The values of one experiment were `before` and are `after`."""
        self.squares += sum_of_squares(after) - sum_of_squares(before)
        self.freedom += max(0, len(after) - 1) - max(0, len(before) - 1)
        self._pool()

    def _pool(self) -> None:
        prior = max(0, PRIOR_TRIALS - self.freedom)
        total = prior * self.prior_sd**2 + max(self.squares, 0.0)
        self.variance = max(total / (prior + self.freedom), _LEAST_VARIANCE)

    @property
    def sd(self) -> float:
        return math.sqrt(self.variance)

    @property
    def degrees(self) -> int:
        """Degrees of freedom that tests may count on."""
        return max(PRIOR_TRIALS, self.freedom)

    @property
    def is_measured(self) -> bool:
        """Whether the prior has no part in it any more."""
        return self.freedom >= PRIOR_TRIALS

    def interval(self) -> tuple[float, float]:
        """The SD's 95 % confidence interval (χ² by Wilson and Hilferty, 1931)."""
        part = 2 / (9 * self.degrees)
        low, high = ((1 - part + z * math.sqrt(part)) ** 3 for z in (1.96, -1.96))
        return self.sd / math.sqrt(low), self.sd / math.sqrt(max(high, 1e-3))


def sum_of_squares(values: Sequence[float]) -> float:
    """Of the deviations from the mean; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def student_tail(t: float, degrees: int) -> float:
    """P(T > t) of Student's t with whole degrees of freedom (Abramowitz and Stegun 26.7.3–4)."""
    theta = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(theta), math.sin(theta)
    term, total = 1.0, 1.0
    if degrees % 2:
        for k in range(3, degrees, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        inside = theta + (sine * cosine * total if degrees > 1 else 0.0)
        return 0.5 - inside / math.pi
    for k in range(2, degrees, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 0.5 - sine * total / 2


@functools.cache
def critical(level: float, degrees: int) -> float:
    """The t that Student's distribution exceeds with probability `level` (below one half)."""
    degrees = min(degrees, 200)  # from there on it is the normal distribution
    low, high = 0.0, 1.0
    while student_tail(high, degrees) > level:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, degrees) > level else (low, middle)
    return high
