"""Trials on this machine: one watchdog process each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm import config
from swarm.disk import DISK_FULL
from swarm.errors import SwarmError
from swarm.job import Job
from swarm.logfile import last_words
from swarm.records import TrialFinished
from swarm.trial import read_result


@dataclass(frozen=True)
class LocalHandle:
    """A running watchdog. Its stdin is the lifeline; its stdout closes when it has ended."""

    job: Job
    watchdog: subprocess.Popen[bytes]
    started: float

    def fileno(self) -> int:
        """Readable once the watchdog has ended, for `select`."""
        assert self.watchdog.stdout is not None
        return self.watchdog.stdout.fileno()


class LocalLauncher:
    """Starts watchdogs that hold the device lock too, so it outlives a killed runner."""

    def __init__(self, keep_open: Sequence[int] = ()) -> None:
        self._keep_open = tuple(keep_open)

    def submit(self, job: Job) -> LocalHandle:
        (Path(job.folder) / "result.json").unlink(missing_ok=True)
        try:
            watchdog = subprocess.Popen(
                [sys.executable, "-P", "-m", "swarm.trial"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=job.folder,
                # A trial may be able to read the environment of its parent.
                env=config.trial_environment(config.environ()) | config.own_package(),
                pass_fds=self._keep_open,
                start_new_session=True,
            )
            assert watchdog.stdin is not None
            watchdog.stdin.write(msgspec.json.encode(job) + b"\n")
            watchdog.stdin.flush()
        except OSError as error:
            raise SwarmError(
                f"cannot start trial {job.trial}: {error.strerror}", "see ulimit -u and free memory"
            ) from error
        return LocalHandle(job, watchdog, time.monotonic())

    def poll(self, handle: LocalHandle) -> TrialFinished | None:
        if handle.watchdog.poll() is None:
            return None
        said = self._close(handle)
        result = read_result(Path(handle.job.folder))
        if handle.watchdog.returncode == 0 and result and result.trial == handle.job.trial:
            return result
        return TrialFinished(
            trial=handle.job.trial,
            outcome="interrupted",
            seconds=round(time.monotonic() - handle.started, 3),
            reason=f"its watchdog ended without a result: {last_words(said)}",
            excused=DISK_FULL in said,
        )

    def logs(self, handle: LocalHandle) -> Path:
        return Path(handle.job.folder) / "run.log"

    def cancel(self, handle: LocalHandle) -> None:
        assert handle.watchdog.stdin is not None
        handle.watchdog.stdin.close()

    def slots(self) -> int:
        return 1

    def _close(self, handle: LocalHandle) -> str:
        """Close the pipes; return what the watchdog printed, which is nothing unless it failed."""
        assert handle.watchdog.stdin is not None and handle.watchdog.stdout is not None
        handle.watchdog.stdin.close()
        with handle.watchdog.stdout as output:
            return output.read().decode(errors="replace")
