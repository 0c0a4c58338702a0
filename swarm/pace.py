"""How many steps trials of the same code make: too few means that something disturbed them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

PRIOR_SD = {"cpu": 0.03, "mps": 0.02}
"""Relative SD of the number of steps, by kind of device; a core is shared with more than a GPU."""
DEFAULT_PRIOR_SD = 0.003
_PRIOR_TRIALS = 4
_LIMIT = 5.0
"""A trial this many SDs below the usual of its code was disturbed."""
_MIN_SHARE = 0.005
"""Never call a difference this small a disturbance: it costs less than a median keep gains."""


class Pace(msgspec.Struct):
    """The pooled relative variance of step counts within experiments of one device class."""

    prior_sd: float
    squares: float = 0.0
    freedom: int = 0

    @property
    def sd(self) -> float:
        """Relative: 0.01 is one step in a hundred."""
        total = _PRIOR_TRIALS * self.prior_sd**2 + max(self.squares, 0.0)
        return math.sqrt(total / (_PRIOR_TRIALS + self.freedom))

    @property
    def limit(self) -> float:
        """The share of the usual steps of its code that a trial may lack."""
        return max(_MIN_SHARE, _LIMIT * self.sd)

    def too_slow(self, steps: Sequence[int]) -> list[bool]:
        """For trials of one code, which of them were disturbed.

        They are held against the median, or the faster of two: two that agree outweigh one.
        """
        usual = statistics.median_high(steps) if steps else 0
        return [count < usual * (1 - self.limit) for count in steps]

    def learn(self, others: Sequence[int], new: int) -> None:
        """An undisturbed trial made `new` steps where others of its code made these."""
        if others:
            mean = math.fsum(others) / len(others)
            # Deviation from the mean of k others: its variance is (1 + 1/k) times that of one.
            self.squares += (new / mean - 1) ** 2 / (1 + 1 / len(others))
            self.freedom += 1


def prior_sd(kind: str) -> float:
    """What is expected of a kind of device before anything was repeated on it."""
    return PRIOR_SD.get(kind, DEFAULT_PRIOR_SD)
