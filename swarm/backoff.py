"""Waiting longer after each failure in a row."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 60.0


@dataclass
class Backoff:
    """Set off by failures, ended by a success; `why` is the last failure's reason."""

    failures: int = 0
    why: str = ""
    until: float = float("-inf")

    def failed(self, now: float, why: str) -> None:
        """Wait for a second, two, four, … at most a minute; `now` is seconds of a clock."""
        self.until = now + min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0**self.failures)
        self.failures, self.why = self.failures + 1, why

    def succeeded(self) -> None:
        self.failures, self.why, self.until = 0, "", float("-inf")
