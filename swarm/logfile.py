"""A log that cannot fill the disk: its first part, a mark, and its last part are kept."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path
from types import TracebackType

HEAD_BYTES = 4 << 20
TAIL_BYTES = 256 << 10

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_LAST_BYTES = 8192


def last_words(log: str) -> str:
    """The last line of a log that says something; of an `error:` with its `hint:`, the error."""
    lines = [line.strip() for line in _ESCAPES.sub("", log).splitlines() if line.strip()]
    if len(lines) > 1 and lines[-1].startswith("hint: ") and lines[-2].startswith("error: "):
        lines.pop()
    return lines[-1] if lines else "(it printed nothing)"


def last_words_of(path: Path) -> str:
    """The same of a file, which need not be there."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            return last_words(file.read().decode(errors="replace"))[:200]
    except FileNotFoundError:
        return last_words("")


def last_lines(path: Path, count: int, since: int = 0) -> str:
    """The last lines of a log file without escape sequences; nothing where there is no file.

    Of a log that was `since` bytes long at some time only those that came later.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(since, path.stat().st_size - _LAST_BYTES))
            text = _ESCAPES.sub("", file.read().decode(errors="replace"))
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-count:])


class CappedLog:
    """Writes to `path` up to `HEAD_BYTES`; of what follows the last `TAIL_BYTES` are kept."""

    def __init__(self, path: Path, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115  closed by __exit__
        self._head_left = head
        self._tail_size = tail
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._cut = 0

    def __enter__(self) -> CappedLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._cut:
            self._file.write(b"\n[... %d bytes cut ...]\n" % (self._cut - len(self._overflow())))
            self._file.write(self._overflow())
        self._file.close()

    def write(self, data: bytes) -> None:
        head, overflow = data[: self._head_left], data[self._head_left :]
        if head:
            self._file.write(head)
            self._head_left -= len(head)
        self._cut += len(overflow)
        self._remember(data)

    def is_at(self, path: Path) -> bool:
        """Whether the file of that name is this log, and nobody else wrote to it."""
        try:
            there = path.lstat()
        except FileNotFoundError:
            return False
        ours = os.fstat(self._file.fileno())
        same = (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
        return same and ours.st_size == self._file.tell()

    def move_to(self, path: Path) -> None:
        """Write the log anew to a name that is free, and go on there. Raises `OSError`."""
        there = open(path, "xb", buffering=0)  # noqa: SIM115  closed by __exit__
        size = self._file.tell()
        self._file.seek(0)
        content = self._file.read(size)
        self._file.close()
        self._file = there
        self._file.write(content)

    def tail(self) -> str:
        """The last `TAIL_BYTES` of everything written, as text."""
        return b"".join(self._tail)[-self._tail_size :].decode(errors="replace")

    def _overflow(self) -> bytes:
        return b"".join(self._tail)[-min(self._cut, self._tail_size) :]

    def _remember(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= self._tail_size:
            self._tail_bytes -= len(self._tail.popleft())
