"""How a report writes numbers: as many digits as mean something, with their uncertainty."""

from __future__ import annotations

import math
from datetime import datetime

from swarm.noise import Noise
from swarm.report.result import Measured
from swarm.views.table import fit

_DESCRIPTION = 110
_MOST_DIGITS = 7


def digits(error: float) -> int:
    """Decimals that show two significant digits of an uncertainty."""
    return min(_MOST_DIGITS, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 6


def number(value: float, decimals: int, sign: bool = False) -> str:
    """With a true minus; `sign` shows a plus too."""
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    return text.replace("-", "−")


def uncertain(found: Measured, sign: bool = False, unit: str = "", decimals: int = -1) -> str:
    """`0.97680 ± 0.00040`, with the digits that the uncertainty leaves."""
    shown = digits(found.error) if decimals < 0 else decimals
    value = number(found.value, shown, sign)
    return f"{value} ± {number(found.error, shown)}{unit}"


def lower(gain: Measured, unit: str = "") -> str:
    """A gain as the change of val_bpb that it is: below zero is better."""
    return uncertain(Measured(-gain.value, gain.error), sign=True, unit=unit)


def probability(chance: float) -> str:
    """`0.93`; never quite sure."""
    return "> 0.99" if chance > 0.99 else "< 0.01" if chance < 0.01 else f"{chance:.2f}"


def spread(noise: Noise) -> str:
    """`σ = 0.00054 (95 %: 0.00047 to 0.00064, from 81 replicates)`, or what is assumed of it."""
    shown = digits(noise.sd)
    sigma = f"σ = {number(noise.sd, shown)}"
    if not noise.freedom:
        return f"{sigma} (assumed: nothing was replicated)"
    low, high = noise.interval()
    partly = "" if noise.is_measured else " and what is usual"
    known = f"from {counted(noise.freedom, 'replicate')}{partly}"
    return f"{sigma} (95 %: {number(low, shown)} to {number(high, shown)}, {known})"


def hours(seconds: float | None) -> str:
    """`9.1 h`, `12 min`, `40 s`."""
    if seconds is None:
        return "not recorded"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def counted(count: int, what: str, plural: str = "") -> str:
    """`1 trial`, `1,204 trials`."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def moment(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "-"


def described(text: str) -> str:
    """What an agent said of its change, on a line."""
    return fit(" ".join(text.split()), _DESCRIPTION)


def short(commit: str) -> str:
    return commit[:8]


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
