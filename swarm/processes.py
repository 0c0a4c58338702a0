"""Other processes: the environment they get from us, and how they are ended for certain."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence

import psutil

_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.01

# What describes the terminal or agent session we were started from, which the pane is not in.
_NOT_INHERITED = re.compile(
    r"TERM|TERM_.*|TERMCAP|COLORTERM|TMUX|TMUX_PANE|STY|WINDOW(ID)?|COLUMNS|LINES"
    r"|CLAUDECODE|CLAUDE_CODE_(ENTRYPOINT|SSE_PORT)"
)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what belongs to the terminal or agent session we were started from."""
    return {key: value for key, value in environ.items() if not _NOT_INHERITED.fullmatch(key)}


def output(argv: Sequence[str], environ: Mapping[str, str], timeout: float) -> tuple[int, str]:
    """Run a short command; return its exit code and what it printed to stdout and stderr.

    Raises `TimeoutError` after `timeout` seconds, even when the command cannot be killed (a driver
    that hangs) or its children keep its output open; `OSError` when it cannot be started.
    """
    with tempfile.TemporaryFile() as file:
        child = subprocess.Popen(
            list(argv),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            _signal_group(child.pid, signal.SIGKILL)
            raise TimeoutError(f"{argv[0]} did not answer within {timeout:g} s") from None
        file.seek(0)
        return code, file.read().decode(errors="replace")


def in_sessions(leaders: Iterable[int]) -> list[psutil.Process]:
    """The processes of the kernel sessions with these leaders, the leaders included."""
    wanted = set(leaders)
    return [process for process in psutil.process_iter() if _session(process) in wanted]


def kill_survivors(processes: Sequence[psutil.Process]) -> None:
    """Give processes that were told to end some time for it, then kill those that are left."""
    for survivor in _survivors(processes):
        try:
            survivor.kill()
        except psutil.NoSuchProcess:
            pass
    _survivors(processes)


def reap(leader: subprocess.Popen[bytes]) -> None:
    """Wait for a child, so that nobody takes a zombie for a living process; then hang up its group.

    That is what the rest of a group gets from a closing terminal, too.
    """
    leader.wait()
    _signal_group(leader.pid, signal.SIGHUP)


def end_groups(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the process groups of our living children to end, then kill what is left of them.

    The group of a child that ended earlier is left alone: its number may be another's by now.
    """
    leaders = [child for child in children if child.poll() is None]
    for leader in leaders:
        _signal_group(leader.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for leader in leaders:
        try:
            leader.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
    for leader in leaders:
        _signal_group(leader.pid, signal.SIGKILL)
        leader.wait()


def _survivors(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after the grace period; a zombie does not run."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while running := [process for process in processes if _runs(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    return running


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
