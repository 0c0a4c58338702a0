"""The agent as a child of its runner: started, restarted with backoff, given up on, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from swarm.errors import SwarmError

BACKOFF_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Wait before each restart; after as many exits in a row without an experiment it is parked."""
_TERMINATE_SECONDS = 3.0


class AgentProcess:
    """One agent process, restarted when it exits. Times are seconds of one monotonic clock."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._next_start = 0.0
        self.fruitless_exits = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def is_due(self, now: float) -> bool:
        """Whether it does not run, and its backoff is over."""
        return self._process is None and now >= self._next_start

    def start(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. Raises `SwarmError` when that is not possible.

        In a terminal it becomes the foreground process group, so that a person can type to it.
        """
        try:
            self._process = subprocess.Popen(
                list(argv), cwd=self._cwd, env=dict(environment), process_group=0
            )
        except OSError as error:
            raise SwarmError(
                f"cannot start the agent {argv[0]}: {error.strerror}", "swarm doctor"
            ) from error
        self._to_foreground(self._process.pid)

    def reap(self, now: float) -> int | None:
        """The exit code of an agent that has just exited, else `None`."""
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._process = None
        self.failed(now)
        return code

    def failed(self, now: float) -> None:
        """It ended without having done anything, or could not be started: wait for the next try."""
        wait = BACKOFF_SECONDS[min(self.fruitless_exits, len(BACKOFF_SECONDS) - 1)]
        self._next_start = now + wait
        self.fruitless_exits += 1

    @property
    def hopeless(self) -> bool:
        return self.fruitless_exits > len(BACKOFF_SECONDS)

    def made_progress(self) -> None:
        self.fruitless_exits = 0

    def restart_soon(self) -> None:
        """Forget earlier exits: a person resumed the worker."""
        self.fruitless_exits, self._next_start = 0, 0.0

    def end(self) -> None:
        """End the agent and everything it started."""
        if self._process is None:
            return
        family = _family(self._process.pid)
        for kill, patience in ((signal.SIGTERM, _TERMINATE_SECONDS), (signal.SIGKILL, 5.0)):
            for process in family:
                _signal(process, kill)
            family = psutil.wait_procs(family, timeout=patience)[1]
        self._process.wait()
        self._process = None

    def _to_foreground(self, group: int) -> None:
        if not sys.stdin.isatty():
            return
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            os.tcsetpgrp(sys.stdin.fileno(), group)
        except (ProcessLookupError, PermissionError):
            return  # it has exited already


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
