"""The processes of a trial: started, confined, read from, killed with all that they started."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from swarm.job import Job
from swarm.logfile import CappedLog
from swarm.meter import children as children_of
from swarm.sandbox import Sandbox, limits, refused

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_KILL_GRACE_SECONDS = 5.0
_READ_BYTES = 1 << 16
_FOLDERS_AT_ONCE = 100  # of 4,096 bytes each at most: a quarter of the 2 MiB that Linux allows


def start(
    job: Job, command: Sequence[str], folder: Path, own: Mapping[str, str],
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start what may run code of a train.py, in `folder`, confined to it if the job says so.

    `own` goes before the job's environment. Both outputs go into one pipe, which does not block.
    Raises `SwarmError` where it cannot be confined, though the kernel could.
    """
    environment, enter, sandbox = job.environment, _die_with_parent, None
    if job.confine:
        hidden = [Path(path) for path in job.hidden]
        sandbox = Sandbox.prepare(folder, Path(job.evaluator), environment, hidden)
        environment, enter = sandbox.environment, sandbox.enter
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, **harness_environment(job), **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=keep_open,
            preexec_fn=enter,  # safe: who calls this has one thread
        )
    except subprocess.SubprocessError as error:  # `enter` raised
        raise refused(error) from error
    finally:
        if sandbox:
            sandbox.close()
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return process


def start_trusted(
    job: Job, command: Sequence[str], own: Mapping[str, str], keep_open: Sequence[int],
    stdin: IO[bytes], stderr: IO[bytes],
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a program of the harness, which runs no code of a train.py, as we are."""
    process = subprocess.Popen(
        command,
        cwd=job.evaluator,
        env={**job.environment, **harness_environment(job), **own},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        pass_fds=keep_open,
        preexec_fn=_die_with_parent,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return process


def harness_environment(job: Job) -> dict[str, str]:
    """What every process of a trial is told. SWARM_ATTEST also marks it as one: see `strays`."""
    return {
        "PYTHONPATH": job.evaluator,
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SWARM_SECONDS": repr(job.seconds),
        "SWARM_ATTEST": str(Path(job.folder) / "attested.json"),
        "SWARM_DEVICE_LOCKED": "1",
    }


def copy(output: int, log: CappedLog) -> bool:
    """Move what is in the pipe to the log; return whether more may come."""
    try:
        data = os.read(output, _READ_BYTES)
    except BlockingIOError:
        return False
    log.write(data)
    return bool(data)


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders, whatever a trial made of them. Never raises: what cannot go stays.

    Python's recursion has a limit, which `rm` has not; and the arguments of a command have one.
    """
    folders = [str(path) for path in paths if _is_full_folder(path)]
    for start in range(0, len(folders), _FOLDERS_AT_ONCE):
        some = folders[start : start + _FOLDERS_AT_ONCE]
        if not _succeeds("rm", "-rf", "--", *some):  # one that is closed to us, as mode 000 is
            _succeeds("chmod", "-R", "u+rwx", "--", *some)
            _succeeds("rm", "-rf", "--", *some)


def _is_full_folder(path: Path) -> bool:
    """Remove a file, a link or an empty folder; return whether a folder is left."""
    is_folder = False
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
        if is_folder:
            path.rmdir()
        else:
            path.unlink()
    except OSError:
        return is_folder
    return False


def _succeeds(program: str, *arguments: str) -> bool:
    # A user's PATH may hold a few tools only.
    command = [shutil.which(program, path=os.defpath) or program, *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:  # such as no process to be had
        return False
    return done.returncode == 0


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    """Kill the trial's group and every descendant that left it.

    Orphans are adopted by this process (it is a subreaper), so that after each round of kills the
    next generation appears as its children, until there is none.
    """
    deadline = time.monotonic() + _KILL_GRACE_SECONDS
    _kill_group(process.pid)
    while time.monotonic() < deadline:
        for child in children_of(os.getpid()):
            _kill_group(child)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            time.sleep(0.005)
        elif pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
    process.poll()


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # it is not a group leader, or already gone


def adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent() -> None:
    limits.die_with_parent(signal.SIGKILL)
