"""Kernel locks that die with their process: who trains on a device, which process is alive."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarm.errors import Refused, SwarmError
from swarm.records import Device

_POLL_SECONDS = 0.02
_PROBE_PATIENCE_SECONDS = 0.2
_PROBE_POLL_SECONDS = 0.001
_HOLDER_BYTES = 500
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


class DeviceLock:
    """The right to train on a device: one `flock` per lock key, `<folder>/<key>.lock`.

    The lock belongs to the open files, not to this object: a child that got `filenos` (as
    `pass_fds`) goes on holding it when this process is gone, until it exits too. Files are locked
    in sorted order, so two devices that share keys cannot wait for each other.
    """

    def __init__(self, folder: Path, device: Device) -> None:
        self.folder = folder
        self.device = device
        self._files: list[int] = []

    @property
    def filenos(self) -> tuple[int, ...]:
        """The open lock files; empty when the lock is not held."""
        return tuple(self._files)

    def acquire(self, wait: float, holder: str) -> None:
        """Take the lock within `wait` seconds, and say in its files that `holder` has it.

        Raises `Refused`, holding nothing, when another process trains there.
        """
        if self._files:
            return
        deadline = time.monotonic() + wait
        try:
            for path in self._paths():
                self._files.append(_open(path, create=True))
                self._lock_until(deadline, path)
            self._sign(holder)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Close the files; whoever inherited them still holds the lock."""
        while self._files:
            os.close(self._files.pop())

    def _paths(self) -> list[Path]:
        return [self.folder / f"{key}.lock" for key in sorted(set(self.device.locks))]

    def _lock_until(self, deadline: float, path: Path) -> None:
        mode = fcntl.LOCK_EX if self.device.exclusive else fcntl.LOCK_SH
        while not _try_flock(self._files[-1], mode, path):
            if time.monotonic() >= deadline:
                raise self._refusal(self._files[-1])
            time.sleep(_POLL_SECONDS)

    def _sign(self, holder: str) -> None:
        """Sharers leave the files empty: any holder named there is gone, and they are several."""
        line = f"pid {os.getpid()}, {holder}\n".encode() if self.device.exclusive else b""
        for file in self._files:
            os.ftruncate(file, 0)
            os.pwrite(file, line, 0)

    def _refusal(self, file: int) -> Refused:
        holder = os.pread(file, _HOLDER_BYTES, 0).decode(errors="replace").strip()
        return Refused(
            f"device {self.device.name} ({self.device.model}) is already training: "
            f"{' '.join(holder.split()) or 'another process, which did not say its name'}",
            "wait until it ends, or choose other devices with --devices",
        )


class ProcessLock:
    """Held by a process for as long as it lives, so that others can see that it does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock unless someone has it; true also when this object already does."""
        if self._file is not None:
            return True
        file = _open(self.path, create=True)
        # Someone's `is_held` may have the lock for some microseconds: that is not a holder.
        deadline = time.monotonic() + _PROBE_PATIENCE_SECONDS
        while not _try_flock(file, fcntl.LOCK_EX, self.path):
            if time.monotonic() >= deadline:
                os.close(file)
                return False
            time.sleep(_PROBE_POLL_SECONDS)
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the kernel lock of `path`, waiting for it in line.

    The kernel wakes the waiters in their order. Polling, as filelock does, lets whoever released
    last win again: with 64 processes it made an eighth of the appends and some waited 0.7 s.
    """
    file = _open(path, create=True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def is_held(path: Path) -> bool:
    """Whether some process holds the `ProcessLock` of `path`; false when there is no such file."""
    try:
        file = _open(path, create=False)
    except FileNotFoundError:
        return False
    try:
        return not _try_flock(file, fcntl.LOCK_SH, path)
    finally:
        os.close(file)


def _open(path: Path, *, create: bool) -> int:
    """Open a lock file, not inherited by children unless they are given it."""
    try:
        if not create:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        raise  # `is_held` takes it for an answer
    except OSError as error:
        raise _translated(error, path) from error


def _try_flock(file: int, mode: int, path: Path) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise _translated(error, path) from error
    return True


def _translated(error: OSError, path: Path) -> SwarmError:
    return SwarmError(
        f"cannot lock {path}: {error.strerror}",
        "the folder must be writable and on a local disk; SWARM_CACHE chooses another one",
    )
