"""From measurements to verdicts: pure functions, the same for everyone who folds the journal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

VerdictKind = Literal["keep", "discard", "candidate", "crash", "timeout", "rejected", "interrupted"]
FINAL: frozenset[VerdictKind] = frozenset(
    {"keep", "discard", "crash", "timeout", "rejected", "interrupted"}
)
MAX_INTERRUPTIONS = 2
"""A trial that was interrupted is queued once more; a second interruption ends it."""


class Estimate(NamedTuple):
    """Mean val_bpb over `replicates` trials; `sd` is the sample SD, `None` for a single trial."""

    mean: float
    sd: float | None
    replicates: int


class Verdict(NamedTuple):
    """What an experiment is worth to the search, and why, in words for a person."""

    kind: VerdictKind
    reason: str
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
    mean = f" (mean of {base.replicates})" if base.replicates > 1 else ""
    text = f"{candidate.mean:.6f} vs {base.mean:.6f} of {base_name}{mean}"
    difference = candidate.mean - base.mean
    if difference < 0:
        return Verdict("keep", f"{text}: {-difference:.6f} lower, kept; not confirmed")
    return Verdict(
        "discard", f"{text}: {difference:.6f} higher" if difference else f"{text}: equal"
    )


POLICIES: dict[str, Policy] = {"greedy": greedy}


def _squares(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)
