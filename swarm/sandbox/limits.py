"""Limits that the kernel keeps for a trial by itself: rlimits, capabilities, who dies first."""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import sys
from pathlib import Path

MAX_FILE_BYTES = 64 << 30
MAX_PROCESSES = 4096
_PR_SET_PDEATHSIG, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 23, 24, 38
_KEPT_CAPABILITIES = 5  # the first: chown, dac_override, dac_read_search, fowner, fsetid
_KILL_FIRST = "1000"  # /proc/self/oom_score_adj: before anything else on the machine


def die_with_parent(signal_number: int) -> None:
    """Get this signal when the parent dies; only Linux has that."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def limit() -> None:
    """Lower what this process may use, for good. What the system does not know is left out."""
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    if sys.platform == "linux":
        lower(resource.RLIMIT_NPROC, _tasks() + MAX_PROCESSES)
        Path("/proc/self/oom_score_adj").write_text(_KILL_FIRST)
        _drop_capabilities()


def forbid_new_privileges() -> None:
    """No setuid program helps from here on; Landlock and seccomp ask for it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def lower(what: int, to: int) -> None:
    """Lower a resource limit to `to`, soft and hard; one that is lower stays."""
    soft, hard = resource.getrlimit(what)
    soft, hard = (
        to if value == resource.RLIM_INFINITY else min(value, to) for value in (soft, hard)
    )
    resource.setrlimit(what, (soft, hard))


def _tasks() -> int:
    """All threads of the machine: the limit counts those of the user, who may have others."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _drop_capabilities() -> None:
    """Of root's capabilities keep those over files, so that it reads what another user prepared."""
    if os.geteuid() == 0:
        number = _KEPT_CAPABILITIES
        while _prctl(_PR_CAPBSET_READ, number) >= 0:
            _prctl(_PR_CAPBSET_DROP, number)
            number += 1


def _prctl(option: int, value: int) -> int:
    if sys.platform != "linux":
        return -1
    return int(_libc().prctl(option, value, 0, 0, 0))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
