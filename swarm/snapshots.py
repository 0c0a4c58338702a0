"""Snapshots of the fold: a reader of a long journal begins there, not at its first line.

A snapshot is a cache, safe to delete: a line of JSON that says which code made it of which bytes of
the journal, and the fold in MessagePack. One by other code, of other bytes or damaged counts as
none.

Whoever can write a snapshot can write the journal beside it, so forging one gains nothing, but that
it leaves no trace once it is gone. So what is claimed rests on none: the supervisor, which moves
`best`, `swarm merge` and `swarm spawn` fold the journal. (A runner that begins with one writes down
facts, of which the journal's own fold says what they are worth.) And only who has folded the
journal from its first line writes one, so a forgery does not live on in the next.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import logging
import os
import stat
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from swarm.disk import write_whole
from swarm.errors import SwarmError
from swarm.frozen import FrozenBoard, freeze, thaw
from swarm.garbage import without_collection
from swarm.journal import Cursor, Journal
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths

SPAN = 20_000
"""So many lines are folded in a fifth of a second: for fewer, nobody needs a snapshot."""
_MOST_HEADER = 1000
_READ_BYTES = 1 << 22
log = logging.getLogger("swarm.snapshots")


class _Header(msgspec.Struct):
    """What a snapshot was made of: `crc` is that of the first `offset` bytes of the journal."""

    code: str
    offset: int
    lines: int
    crc: int
    body_crc: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FrozenBoard)


# ---- to a file and back --------------------------------------------------------------------------


def leaderboard(paths: Paths) -> Leaderboard:
    """The leaderboard of a swarm as it was when a snapshot was taken, or one that knows nothing.

    Either way its `refresh` folds what is missing.
    """
    journal = Journal(paths.journal)
    try:
        with without_collection():
            board = _read(paths.snapshot, journal)
            gc.freeze()  # it stays as long as the process: looking through it is a waste
        return board
    except FileNotFoundError:
        return Leaderboard(journal)
    except _UNUSABLE as error:
        log.debug("%s is not used: %s", paths.snapshot, error)
        return Leaderboard(journal)


_UNUSABLE = (
    OSError, msgspec.MsgspecError, LookupError, TypeError, ValueError, ArithmeticError,
    MemoryError, RecursionError,
)  # fmt: skip
"""What comes of files that are no snapshot, whoever made them."""


def write(path: Path, board: Leaderboard) -> None:
    """Replace the snapshot. Raises `SwarmError` where that is impossible."""
    cursor = board.cursor
    with without_collection():
        body = _encoder.encode(freeze(board))
    header = _Header(_code(), cursor.offset, cursor.lines, cursor.crc, zlib.crc32(body))
    write_whole(path, msgspec.json.encode(header) + b"\n" + body)


class Keeper:
    """Keeps the snapshot near the journal's end, in no more than `share` of the time."""

    def __init__(
        self, path: Path, share: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._share, self._clock = path, share, clock
        self._next = float("-inf")

    def refresh(self, board: Leaderboard) -> None:
        """Write one where it is worth it. Nobody needs it, so nothing fails for want of it."""
        started = self._clock()
        if board.resumed or board.cursor.lines < SPAN or started < self._next:
            return
        try:
            if board.cursor.lines - self._lines() >= SPAN:
                write(self._path, board)
        except SwarmError as error:
            log.debug("no snapshot: %s", error)
        ended = self._clock()
        self._next = ended + (ended - started) / self._share

    def _lines(self) -> int:
        """How many lines of the journal are in the snapshot that lies there."""
        try:
            header, _ = _split(_content(self._path, _MOST_HEADER))
        except _UNUSABLE:
            return 0
        return header.lines if header.code == _code() else 0


def _read(path: Path, journal: Journal) -> Leaderboard:
    header, body = _split(_content(path, 2 * journal.size() + _READ_BYTES))
    if header.code != _code():
        raise ValueError("other code made it")
    if zlib.crc32(body) != header.body_crc:
        raise ValueError("it is damaged")
    if _crc(journal.path, header.offset) != header.crc:
        raise ValueError("it was made of another journal")
    frozen = _decoder.decode(body)
    del body  # it is large
    board = thaw(frozen, journal)
    board.cursor = Cursor(header.offset, header.lines, header.crc)
    return board


def _content(path: Path, most: int) -> bytes:
    """Up to `most` bytes; somebody may have put a pipe there, or something endless."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no file")
        return file.read(most)


def _split(data: bytes) -> tuple[_Header, memoryview]:
    end = data.index(b"\n", 0, _MOST_HEADER)
    return msgspec.json.decode(data[:end], type=_Header), memoryview(data)[end + 1 :]


def _crc(path: Path, size: int) -> int | None:
    """Of the first bytes of a file; `None` where it has not so many."""
    crc = 0
    with open(path, "rb") as file:
        while size > 0 and (data := file.read(min(size, _READ_BYTES))):
            crc = zlib.crc32(data, crc)
            size -= len(data)
    return None if size else crc


@functools.cache
def _code() -> str:
    """Names the code that folds here: no other may go on from its snapshots.

    Asked for when a process begins, so it is the code that runs, even if the files change later.
    """
    package = Path(__file__).parent
    found = hashlib.sha256(f"{sys.version} msgspec {msgspec.__version__}".encode())
    for path in sorted([*package.glob("*.py"), *package.glob("policies/*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()
