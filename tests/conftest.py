"""What the tests share: a place with an awkward name, and swarms that are always ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import toy

# A shell in the background ignores Ctrl-C, and so would all processes that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose cache and tmux sockets belong to this test alone."""
    sockets = tempfile.mkdtemp(prefix="sw", dir="/tmp")  # short: socket paths end at 108 bytes
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "TMUX", "CUDA"))
    }
    yield inherited | {
        "SWARM_CACHE": str(tmp_path / "the cache"),
        "TMUX_TMPDIR": sockets,
        "TMPDIR": sockets,
    }
    reap(sockets)
    shutil.rmtree(sockets, ignore_errors=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The toy repository in a folder with a space and a quote in its name."""
    return toy.make_repository(tmp_path / "a user's repo")


@pytest.fixture
def run(
    repository: Path, environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run("status", "--json")`: the command line in the toy repository."""

    def call(
        *arguments: str, cwd: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = toy.swarm(cwd or repository, *arguments, environment=environment)
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stderr}{done.stdout}"
        return done

    return call


def wait_for(what: Callable[[], object], timeout: float = 30.0, every: float = 0.05) -> object:
    """Poll until `what()` is true and return it; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < deadline, f"still not so after {timeout} s"
        time.sleep(every)
    return found


def processes_of(mark: str) -> list[psutil.Process]:
    """Every living process whose environment mentions `mark`, but for this one's own."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(mark in value for value in process.environ().values()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def command_of(process: psutil.Process) -> str:
    """The command line of a process; empty when it has gone."""
    try:
        gone = process.status() == psutil.STATUS_ZOMBIE
        return "" if gone else " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def reap(mark: str) -> None:
    """Kill what a test left running."""
    servers = [process for process in psutil.process_iter() if mark in command_of(process)]
    for process in processes_of(mark) + servers:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if sys.platform == "linux":
        psutil.wait_procs(processes_of(mark), timeout=5)
