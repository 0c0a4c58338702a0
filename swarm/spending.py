"""What agents use of language models, added up, and when that is enough."""

from __future__ import annotations

from datetime import datetime

import msgspec

from swarm.records import Config, Spend


class Bill(msgspec.Struct, array_like=True, gc=False):
    """A sum of what was spent; `unpriced` are tokens of models whose price is not known.

    `uncounted` are calls of which the provider did not say how many tokens they took.
    """

    usd: float = 0.0
    tokens: int = 0
    unpriced: int = 0
    uncounted: int = 0

    def add(self, spend: Spend) -> None:
        self.tokens += spend.tokens
        if not spend.tokens:
            self.uncounted += spend.calls
            return
        if spend.usd is None:
            self.unpriced += spend.tokens
        else:
            self.usd += spend.usd

    @property
    def known_usd(self) -> float | None:
        """The price of all of it; `None` when that of a part is not known."""
        return None if self.unpriced or self.uncounted else self.usd


def device_usd(config: Config, device_seconds: float) -> float:
    """What the devices cost while they ran trials; nothing where the user gave no price."""
    return (config.device_hour_usd or 0.0) * device_seconds / 3600


def exhausted(
    config: Config, started: datetime, now: datetime, experiments: int, usd: float
) -> str:
    """Why no further experiment may start, or nothing. `usd` is what all has cost so far."""
    limit, hours, most = config.max_experiments, config.max_hours, config.max_usd
    if limit is not None and experiments >= limit:
        return f"all {limit} experiments are used"
    if hours is not None and (now - started).total_seconds() >= hours * 3600:
        return f"{hours:g} hours are over"
    if most is not None and usd >= most:
        return f"{usd:.2f} of {most:g} USD are spent"
    return ""
