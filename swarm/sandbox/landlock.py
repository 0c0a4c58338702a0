"""Landlock: the kernel keeps a process to the folders it was given, without root or a container.

Numbers are those of linux/landlock.h; docs.kernel.org/userspace-api/landlock.html explains them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_GET_VERSION, _PATH_BENEATH = 1, 1
MIN_ABI = 2
"""ABI 1 (Linux 5.13 to 5.18) forbids every rename between folders, which compilers' caches need."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG = (1 << bit for bit in range(4, 9))
_MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(9, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # since ABI 2, 3, 5
_KNOWN_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI: how many of these rights it has; later: 16

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (
    READ | WRITE_FILE | _TRUNCATE | _REFER | _REMOVE_DIR | _REMOVE_FILE
    | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM
)  # fmt: skip
DEVICE = READ_FILE | READ_DIR | WRITE_FILE | _TRUNCATE | _IOCTL_DEV
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
_ALL_TCP = 0b11  # bind and connect, since ABI 4
_SCOPES = 0b11  # abstract unix sockets and signals, since ABI 6


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """The version of Landlock that the kernel speaks; 0 where there is none, or it is off."""
    if sys.platform != "linux":
        return 0
    version = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)
    return max(0, int(version))


def ruleset(grants: Iterable[tuple[Path, int]], version: int) -> int:
    """A file descriptor of the rules: what no grant allows is denied. Raises `OSError`.

    TCP, signals to other processes and foreign abstract sockets are denied where `version` can.
    """
    handled = _handled(version)
    tcp = _ALL_TCP if version >= 4 else 0
    scopes = _SCOPES if version >= 6 else 0
    attributes = _RulesetAttr(handled, tcp, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0)
    try:
        for path, rights in grants:
            _allow(rules, path, rights & handled)
    except BaseException:
        os.close(rules)
        raise
    return rules


def restrict(rules: int) -> None:
    """Bind this process, and all it will start, to the rules. Needs no_new_privs.

    It may still write below its own /proc/<pid>, whose number nobody knew before: CUDA names its
    threads there (`task/<tid>/comm`), and cuInit fails with 304 where it cannot.
    """
    _allow(rules, Path(f"/proc/{os.getpid()}"), (WRITE_FILE | _TRUNCATE) & _handled(abi()))
    _call(_RESTRICT_SELF, rules, 0)


def _handled(version: int) -> int:
    return (1 << _KNOWN_RIGHTS.get(version, 16)) - 1


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or not ours: then there is nothing to allow
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(_PathBeneathAttr(rights, place)), 0)
    except OSError:  # such as a place that is no file: it stays forbidden, and all others hold
        return
    finally:
        os.close(place)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
