"""What a trial uses while it runs: memory and processes of all its descendants, and disk."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_PERIOD_SECONDS = 0.5
_DISK_PERIOD_SECONDS = 2.0
_BLOCK_BYTES = 512  # the unit of st_blocks, on every file system
_MAX_FILES = 200_000


class Meter:
    """Looks now and then whether the descendants of this process stay within their limits.

    `memory` and `disk` are bytes. Files that are mapped, such as the dataset, are no memory of the
    trial: the kernel drops them when it needs the room.
    """

    def __init__(self, folder: Path, memory: int, disk: int, processes: int) -> None:
        self._folder, self._memory, self._disk = folder, memory, disk
        self._processes = processes
        self._next_look = time.monotonic()
        self._next_disk_look = self._next_look + _DISK_PERIOD_SECONDS

    def excess(self) -> str | None:
        """Why the trial must end, if it must. Looks at most twice a second; else costs nothing."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + _PERIOD_SECONDS
        running = list(descendants(os.getpid(), self._processes + 1))
        if len(running) > self._processes:
            return f"started more than {self._processes} processes"
        if memory_use(running, self._memory) > self._memory:
            size = f"{self._memory / 1e9:.1f} GB"
            return f"used more than {size} of memory (its share of this machine)"
        if now < self._next_disk_look:
            return None
        used, files = disk_use(self._folder)
        taken = time.monotonic() - now
        self._next_disk_look = now + max(_DISK_PERIOD_SECONDS, 20 * taken)
        if used > self._disk:
            return f"wrote more than {self._disk / 1e9:.1f} GB into its folder"
        if files >= _MAX_FILES:
            return f"made more than {_MAX_FILES} files in its folder"
        return None


def memory_use(running: Sequence[int], limit: int) -> int:
    """Bytes of memory of these processes; exact only where it matters, above `limit`.

    Pages that forked processes share are counted once only by the exact way, which is slow.
    """
    if sys.platform != "linux":
        return sum(map(_resident_bytes, running))
    simply = sum(map(private_bytes, running))
    return simply if simply <= limit else sum(map(exact_bytes, running))


def children(parent: int) -> list[int]:
    """Direct children of a process, from /proc; empty where there is no /proc."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208  twice a second
            found += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text().split())
    except OSError:  # it ended meanwhile
        pass
    return found


def descendants(ancestor: int, at_most: int) -> Iterator[int]:
    """The processes that `ancestor` started, and those that they started."""
    if sys.platform != "linux":
        yield from _portable_descendants(ancestor)
        return
    unseen, seen = children(ancestor), 0
    while unseen and seen < at_most:
        process = unseen.pop()
        yield process
        seen += 1
        unseen += children(process)


def _portable_descendants(ancestor: int) -> list[int]:
    import psutil  # late: Linux does without, and a trial starts 20 ms sooner

    return [child.pid for child in psutil.Process(ancestor).children(recursive=True)]


def _resident_bytes(process: int) -> int:
    import psutil

    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:  # it ended meanwhile
        return 0


def private_bytes(process: int) -> int:
    """Memory and swap of a process that hold no file; shared pages count in full."""
    names = "RssAnon|RssShmem|VmSwap"
    return _kilobytes(Path(f"/proc/{process}/status"), names)


def exact_bytes(process: int) -> int:
    """The same, with a page that n processes share counted as 1/n; slow for a large process."""
    rollup = Path(f"/proc/{process}/smaps_rollup")
    return _kilobytes(rollup, "Pss_Anon|Pss_Shmem|SwapPss")


def disk_use(folder: Path) -> tuple[int, int]:
    """Bytes on disk and number of files in a folder; counts `_MAX_FILES` at most."""
    used = files = 0
    unseen = [os.fspath(folder)]
    while unseen and files < _MAX_FILES:
        try:
            with os.scandir(unseen.pop()) as entries:
                for entry in entries:
                    files += 1
                    used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        unseen.append(entry.path)
        except OSError:  # removed meanwhile, or closed to us
            continue
    return used, files


def _kilobytes(path: Path, names: str) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0
    return 1024 * sum(map(int, re.findall(rf"^(?:{names}):\s+(\d+) kB", text, re.MULTILINE)))
