"""How long an agent that does not work is left alone."""

from __future__ import annotations

from datetime import datetime, timedelta

COOLING = (600.0, 1800.0, 7200.0)
"""An agent that fails again and again is parked for so many seconds, then for good. One that has
never done anything is parked for good at once: what it lacks will not come by itself."""


class Parking:
    """Counts the times that an agent was parked since its last experiment."""

    def __init__(self) -> None:
        self.trips = 0

    def made_progress(self) -> None:
        self.trips = 0

    def until(self, asked: datetime | None, worked: bool, now: datetime) -> datetime | None:
        """When to start it again; `None`: when a person wants that.

        `asked`: the time that it chose itself. One that chooses again and again does not know.
        `worked`: it has done an experiment some time.
        """
        trips, self.trips = self.trips, self.trips + 1
        if asked is None:
            again = worked and trips < len(COOLING)
            return now + timedelta(seconds=COOLING[trips]) if again else None
        if trips < len(COOLING):
            return asked
        return max(asked, now + timedelta(seconds=COOLING[-1]))


def hour(moment: datetime, now: datetime) -> str:
    """A time of day, with its weekday where that of today could be meant."""
    is_far = moment - now > timedelta(hours=20)
    return f"{moment:%a %H:%M} UTC" if is_far else f"{moment:%H:%M} UTC"
