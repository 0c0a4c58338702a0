"""From measurements to verdicts: the numbers and words of a decision, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from swarm.noise import critical, sum_of_squares

VerdictKind = Literal["keep", "discard", "candidate", "crash", "timeout", "rejected", "interrupted"]
MAX_INTERRUPTIONS = 2
"""A trial that was interrupted is queued once more; a second interruption ends it."""


class Why(Protocol):
    """A reason whose text is made only when somebody looks."""

    def __str__(self) -> str: ...


class Estimate(NamedTuple):
    """Mean val_bpb over `replicates` trials; `sd` is the sample SD, `None` for a single trial."""

    mean: float
    sd: float | None
    replicates: int


class Verdict(NamedTuple):
    """What an experiment is worth to the search, and why."""

    kind: VerdictKind
    why: Why
    confirmed: bool = False


class Comparison(NamedTuple):
    """A candidate held against its base, number against number."""

    candidate: Estimate
    base: Estimate
    base_name: str

    @property
    def difference(self) -> float:
        """Below zero where the candidate is better."""
        return self.candidate.mean - self.base.mean

    def __str__(self) -> str:
        mean = f" (mean of {self.base.replicates})" if self.base.replicates > 1 else ""
        text = f"{self.candidate.mean:.6f} vs {self.base.mean:.6f} of {self.base_name}{mean}"
        if self.difference < 0:
            return f"{text}: {-self.difference:.6f} lower, kept; not confirmed"
        return f"{text}: {self.difference:.6f} higher" if self.difference else f"{text}: equal"


def estimate(values: Sequence[float]) -> Estimate | None:
    """Summarise the val_bpb of replicates; `None` when there is none."""
    count = len(values)
    if count == 0:
        return None
    if count == 1:
        return Estimate(values[0], None, 1)
    mean = math.fsum(values) / count
    return Estimate(mean, math.sqrt(sum_of_squares(values) / (count - 1)), count)


def spelled(found: Estimate, sigma: float) -> str:
    """`0.976800 ± 0.000400, mean of 3`: the mean and its standard error, from the pooled SD."""
    text = f"{found.mean:.6f} ± {sigma / math.sqrt(found.replicates):.6f}"
    return text if found.replicates == 1 else f"{text} (mean of {found.replicates})"


# ---- claims --------------------------------------------------------------------------------------

LOOKS = (1, 2, 4, 8)
"""A claim is looked at when contender and best have each so many trials made for it."""
LEVEL = 0.95
"""Of a claim: where the contender is no better, it passes at most one time in twenty."""
POWER = 0.84
"""The normal quantile of the 80 % with which a claim that is worth its trials should pass."""


def claim_passes(
    contender: Sequence[float], best: Sequence[float], sd: float, degrees: int
) -> bool:
    """Whether trials made for a claim show that the contender is better.

    A one-sided t-test with the pooled `sd` of one trial. The level's error is shared among all
    `LOOKS`, so that looking again and again does not make a claim easier (Bonferroni).
    """
    return margin(contender, best, sd) > critical((1 - LEVEL) / len(LOOKS), degrees)


def margin(contender: Sequence[float], best: Sequence[float], sd: float) -> float:
    """By how many standard errors the contender's mean is lower than that of the best."""
    means = [math.fsum(values) / len(values) for values in (best, contender)]
    return (means[0] - means[1]) / (sd * math.sqrt(1 / len(contender) + 1 / len(best)))


def trials_needed(gain: float, sd: float, degrees: int) -> int | None:
    """At which look a claim of this `gain` in val_bpb should pass; `None`: not even at the last."""
    wanted = critical((1 - LEVEL) / len(LOOKS), degrees) + POWER
    return next((n for n in LOOKS if gain >= wanted * sd * math.sqrt(2 / n)), None)


# ---- the worth of a replicate --------------------------------------------------------------------


def worth(variance: float, trial_variance: float, gap: float) -> float:
    """By how much one more trial is expected to improve the choice of the incumbent, in val_bpb.

    The knowledge gradient (Frazier, Powell and Dayanik, 2008): `variance` is that of the belief,
    `gap` its distance to the best rival, `trial_variance` that of a trial.
    """
    moves = variance / math.sqrt(variance + trial_variance)
    if moves <= 0:
        return 0.0
    z = abs(gap) / moves
    density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return moves * (density - z * 0.5 * math.erfc(z / math.sqrt(2)))
