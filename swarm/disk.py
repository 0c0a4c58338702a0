"""Writing files so that a full disk is one clear error and never a half-written file."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarm.errors import DiskFull, SwarmError

DISK_FULL = os.strerror(errno.ENOSPC)
"""What programs print when it is."""

_NEARLY_NOTHING_BYTES = 1 << 20


def is_full(folder: Path) -> bool:
    """Whether the disk of `folder` has next to no space left for us."""
    return shutil.disk_usage(folder).free < _NEARLY_NOTHING_BYTES


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file at once: a reader sees the old content or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with writing(path):
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate what the system says of a failed write to `path`; `DiskFull` where it is that."""
    try:
        yield
    except OSError as error:
        raise translated(error, path) from error


def translated(error: OSError, path: Path) -> SwarmError:
    """What an `OSError` from writing `path` means to a user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            f"no space left to write {path}", "free some space; nothing recorded is lost"
        )
    return SwarmError(f"cannot write {path}: {error.strerror}", "check the folder's permissions")
