"""When a swarm ran and its agents were at work: what the journal says of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from swarm import records


@dataclass
class Attendance:
    """`wall` are seconds that the swarm ran, `agents` those of each worker's agent process.

    An agent is at work from the start of its process to its exit, to where it is parked (out of
    quota, waiting for a person), or to the end of the swarm. Whether it thought meanwhile or waited
    for a verdict is not known. A worker whose agent never started is not in `agents`.
    """

    began: datetime | None = None
    ended: datetime | None = None
    wall: float = 0.0
    agents: dict[str, float] = field(default_factory=dict)


def of(told: Iterable[records.AnyRecord]) -> Attendance:
    """Add up a journal; what has not ended counts up to its last line."""
    found = Attendance()
    running: datetime | None = None
    working: dict[str, datetime] = {}
    last: datetime | None = None
    for record in told:
        if isinstance(record, records.Swarm | records.Reconfigured):
            if running and last:  # it was cut off, and spawned again
                _rest(found, running, working, last)
            running = record.time
            found.began = found.began or record.time
        elif isinstance(record, records.Ended) and running:
            _rest(found, running, working, record.time)
            running = None
        elif isinstance(record, records.AgentEvent):
            _event(found, working, record)
        last = record.time
    found.ended = last
    if running and last:
        _rest(found, running, working, last)
    return found


def _event(found: Attendance, working: dict[str, datetime], event: records.AgentEvent) -> None:
    if event.state == "started":
        working.setdefault(event.worker, event.time)
        found.agents.setdefault(event.worker, 0.0)
    elif event.state in ("exited", "parked") and (began := working.pop(event.worker, None)):
        found.agents[event.worker] += (event.time - began).total_seconds()


def _rest(
    found: Attendance, running: datetime, working: dict[str, datetime], end: datetime
) -> None:
    """The swarm came to rest, and all its agents with it."""
    found.wall += (end - running).total_seconds()
    for worker, began in working.items():
        found.agents[worker] += (end - began).total_seconds()
    working.clear()
