"""Whether val_bpb has been overfitted: a gain there that the held-out split does not have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from swarm.leaderboard import BASELINE
from swarm.noise import Noise, critical
from swarm.standings import DeviceClass, Entry

_THREE_SDS = 0.00135
"""The probability that a normal variable exceeds its mean by more than three SDs."""
_UNEVENNESS = 0.1
"""SD of a true gain between two samples of text, as a share of it: where the gain of a row scatters
as widely as it is large, two means of 256 rows (small scale) differ by 9 %."""


class Drift(NamedTuple):
    """Gains of an experiment over the baseline, in bits per byte, above zero where it is better.

    `limit` is what chance explains of their difference.
    """

    experiment: str
    val_gain: float
    heldout_gain: float
    limit: float

    @property
    def is_real(self) -> bool:
        return self.val_gain - self.heldout_gain > self.limit

    def __str__(self) -> str:
        gains = (
            f"{self.experiment} gained {self.val_gain:.6f} on the validation split and"
            f" {self.heldout_gain:.6f} on the held-out one"
        )
        if self.is_real:
            return f"{gains}: chance explains {self.limit:.6f} of that; val_bpb is overfitted"
        return f"{gains}: within the {self.limit:.6f} that chance explains"


def heldout(entry: Entry) -> float | None:
    """The mean held-out score of an experiment's verified trials."""
    found = [trial.heldout_bpb for trial in entry.trials if trial.heldout_bpb is not None]
    return math.fsum(found) / len(found) if found else None


def of(known: DeviceClass) -> Drift | None:
    """The drift of a class's best, or else of its incumbent; `None` where it cannot be told.

    Both scores of a trial are of the same weights, so what its seed does to both cancels: the gap
    between them varies less between seeds than either. Its noise is pooled within experiments.
    """
    baseline = known.entries.get(BASELINE)
    named = (known.entries[name] for name in (known.best, known.incumbent) if name)
    found = next((e for e in named if e is not baseline and _gaps(e)), None)
    if baseline is None or found is None or not _gaps(baseline):
        return None
    noise = Noise(known.noise.prior_sd)
    for entry in known.entries.values():
        noise.change([], _gaps(entry))
    val = _mean_val(baseline) - _mean_val(found)
    gap = _mean(_gaps(found)) - _mean(_gaps(baseline))  # held-out above val, further than before
    trials = 1 / len(_gaps(found)) + 1 / len(_gaps(baseline))
    chance = critical(_THREE_SDS, noise.degrees) * math.sqrt(noise.variance * trials)
    limit = math.hypot(chance, 3 * _UNEVENNESS * val)
    return Drift(found.experiment, val, val - gap, limit)


def _gaps(entry: Entry) -> list[float]:
    return [heldout - val for val, heldout in _pairs(entry)]


def _mean_val(entry: Entry) -> float:
    return _mean(val for val, _ in _pairs(entry))


def _pairs(entry: Entry) -> list[tuple[float, float]]:
    return [
        (trial.val_bpb, trial.heldout_bpb)
        for trial in entry.trials
        if trial.val_bpb is not None and trial.heldout_bpb is not None
    ]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
