"""The append-only journal: the only truth of a swarm, one JSON object per line."""

from __future__ import annotations

import errno
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import msgspec.structs

from swarm.disk import translated
from swarm.errors import JournalError
from swarm.locks import waiting_lock
from swarm.records import AnyRecord

_TAIL_BYTES = 4096
_READ_BYTES = 1 << 22
"""So much of a long journal is decoded at a time: all at once would take memory for good."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyRecord)


class _Seq(msgspec.Struct):
    seq: int


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Cursor:
    """How far a reader has come: byte offset, the number of lines before it and their CRC-32."""

    offset: int = 0
    lines: int = 0
    crc: int = 0


class Journal:
    """Appends records durably and reads them incrementally.

    Writers take the kernel lock of `journal.jsonl.lock`; readers take none. An append is
    acknowledged only after `fsync`. What a killed writer left behind (an unterminated tail) is
    invisible to readers and cut by the next writer.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self.path = path
        self._clock = clock
        self._lock = path.with_name(f"{path.name}.lock")

    def append(self, record: AnyRecord) -> AnyRecord:
        """Write one record and return it with its `seq` and `time`.

        Raises `DiskFull` with the file as it was before, `JournalError` on a damaged last line.
        """
        with self.transaction() as append:
            return append(record)

    @contextmanager
    def transaction(self) -> Iterator[Callable[[AnyRecord], AnyRecord]]:
        """Hold the lock, so that what is read inside is still true when appending."""
        with waiting_lock(self._lock):
            yield self._append_locked

    def read(self, cursor: Cursor) -> list[AnyRecord]:
        """Return the complete records behind `cursor` and move it past them; see `batches`."""
        return list(itertools.chain.from_iterable(self.batches(cursor)))

    def batches(self, cursor: Cursor) -> Iterator[list[AnyRecord]]:
        """The complete records behind `cursor`, some at a time; it moves past each batch.

        An unterminated last line is not yet there. Raises `JournalError` naming file and line for
        a line that is not a record, or does not carry the next sequence number.
        """
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size < cursor.offset:
                raise JournalError(f"{self.path} is shorter than when it was last read", _RESTORE)
            file.seek(cursor.offset)
            rest = b""
            while data := file.read(_READ_BYTES):
                lines, newline, rest = (rest + data).rpartition(b"\n")
                if newline:
                    yield self._decoded(lines + newline, cursor)

    def _decoded(self, data: bytes, cursor: Cursor) -> list[AnyRecord]:
        """The records of whole lines; moves the cursor past them."""
        numbers = range(cursor.lines + 1, cursor.lines + 1 + data.count(b"\n"))
        try:
            records = _decoder.decode_lines(data)
        except (msgspec.DecodeError, ValueError) as error:
            raise self._first_damage(data, cursor.lines) from error
        if [record.seq for record in records] != list(numbers):
            raise self._first_damage(data, cursor.lines)
        cursor.offset += len(data)
        cursor.lines += len(records)
        cursor.crc = zlib.crc32(data, cursor.crc)
        return records

    def _first_damage(self, data: bytes, before: int) -> JournalError:
        for number, line in enumerate(data.split(b"\n"), start=before + 1):
            try:
                record = _decoder.decode(line)
            except (msgspec.DecodeError, ValueError) as error:
                return self._damaged(number, str(error))
            if record.seq != number:
                break
        return self._damaged(number, f"it carries seq {record.seq}")

    def size(self) -> int:
        """Bytes in the file now; a cheap way to see that nothing is new."""
        return os.stat(self.path).st_size

    def _append_locked(self, record: AnyRecord) -> AnyRecord:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise translated(error, self.path) from error
        try:
            end, last = self._repaired_end(descriptor)
            record = msgspec.structs.replace(record, seq=last + 1, time=self._clock())
            self._write_durably(descriptor, end, _encoder.encode(record) + b"\n")
        finally:
            os.close(descriptor)
        return record

    def _write_durably(self, descriptor: int, end: int, line: bytes) -> None:
        try:
            written = os.write(descriptor, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, "no space left on device")
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, end)
            raise translated(error, self.path) from error

    def _repaired_end(self, descriptor: int) -> tuple[int, int]:
        """Cut an unterminated tail; return the size then and the last sequence number."""
        size = os.fstat(descriptor).st_size
        span = _TAIL_BYTES
        while True:
            start = max(0, size - span)
            tail = os.pread(descriptor, size - start, start)
            end = tail.rfind(b"\n") + 1
            begin = tail.rfind(b"\n", 0, end - 1) + 1 if end else 0
            if (end and begin) or start == 0:
                break
            span *= 4
        if end != len(tail):
            os.ftruncate(descriptor, start + end)
        if end == 0:
            return start, 0
        try:
            return start + end, msgspec.json.decode(tail[begin:end], type=_Seq).seq
        except msgspec.DecodeError as error:
            raise JournalError(
                f"{self.path}: the last line is damaged: {error}", _RESTORE
            ) from error

    def _damaged(self, line: int, why: str) -> JournalError:
        return JournalError(f"{self.path}, line {line} is damaged: {why}", _RESTORE)


_RESTORE = "nothing was changed; restore that line from a backup, or cut the file before it"
