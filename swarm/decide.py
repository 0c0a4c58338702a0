"""From measurements to verdicts: pure functions, the same for everyone who folds the journal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

VerdictKind = Literal["keep", "discard", "candidate", "crash", "timeout", "rejected", "interrupted"]
MAX_INTERRUPTIONS = 2
"""A trial that was interrupted is queued once more; a second interruption ends it."""


class Estimate(NamedTuple):
    """Mean val_bpb over `replicates` trials; `sd` is the sample SD, `None` for a single trial."""

    mean: float
    sd: float | None
    replicates: int


class Comparison(NamedTuple):
    """A candidate held against its base. Its text is made only when somebody looks."""

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


class Verdict(NamedTuple):
    """What an experiment is worth to the search, and why."""

    kind: VerdictKind
    why: str | Comparison
    confirmed: bool = False


Policy = Callable[[Estimate, Estimate | None, str], Verdict]
"""Judges a candidate against its base (an estimate or `None`, and its name)."""


def estimate(values: Sequence[float]) -> Estimate | None:
    """Summarise the val_bpb of replicates; `None` when there is none."""
    count = len(values)
    if count == 0:
        return None
    if count == 1:
        return Estimate(values[0], None, 1)
    mean = math.fsum(values) / count
    return Estimate(mean, math.sqrt(_squares(values) / (count - 1)), count)


def pooled_sigma(groups: Sequence[Sequence[float]]) -> float | None:
    """SD of val_bpb between replicates, pooled within experiments; `None` without replicates."""
    replicated = [values for values in groups if len(values) > 1]
    if not replicated:
        return None
    freedom = sum(len(values) - 1 for values in replicated)
    return math.sqrt(math.fsum(_squares(values) for values in replicated) / freedom)


def greedy(candidate: Estimate, base: Estimate | None, base_name: str) -> Verdict:
    """Keep whatever is lower than its base, as autoresearch does. It confirms nothing."""
    if base is None:
        return Verdict("keep", f"{candidate.mean:.6f}: the first with a score")
    compared = Comparison(candidate, base, base_name)
    return Verdict("keep" if compared.difference < 0 else "discard", compared)


POLICIES: dict[str, Policy] = {"greedy": greedy}


def _squares(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)
