"""Where a trial runs: one small Protocol, whatever the engine behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

from swarm.job import Job
from swarm.records import TrialFinished

H = TypeVar("H")


class Launcher(Protocol[H]):
    """Runs jobs. A handle is the engine's own name for a submitted job."""

    def submit(self, job: Job) -> H:
        """Start the job; raises `SwarmError` when it cannot be started."""
        ...

    def poll(self, handle: H) -> TrialFinished | None:
        """The result once the job has ended; `None` while it runs."""
        ...

    def logs(self, handle: H) -> Path:
        """The job's growing log."""
        ...

    def cancel(self, handle: H) -> None:
        """End the job soon; `poll` then says how."""
        ...

    def slots(self) -> int:
        """How many jobs may run at once."""
        ...
