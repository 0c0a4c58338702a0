"""One trial: run one train.py under a watchdog, and say truthfully how it ended.

`python -m swarm.trial` is the watchdog. It reads a `Job` as one JSON line from stdin, runs it, and
leaves `result.json`. Stdin is its lifeline: when it closes, the runner is gone and the trial ends.
It never outlives its deadline, and nothing the trial started outlives it.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec

from swarm import summary
from swarm.disk import write_whole
from swarm.logfile import CappedLog
from swarm.meter import Meter, children
from swarm.records import TrialFinished
from swarm.sandbox import PRIVATE, Sandbox, limits

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_KILL_GRACE_SECONDS = 5.0
_UNLIMITED = 1 << 62
_READ_BYTES = 1 << 16


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All a trial needs, wherever it runs. `folder` holds its train.py; times are in seconds.

    `evaluator` is the folder of the pristine prepare.py. `seconds` is the training budget,
    `timeout` the limit for everything. `environment` is complete: nothing is inherited. `memory`
    and `disk`, in bytes, and `processes` are what the trial and all it starts may use at a time.
    A trial that is confined sees nothing of `hidden`, wherever that lies.
    """

    trial: str
    folder: str
    evaluator: str
    python: str
    seconds: float
    timeout: float
    environment: dict[str, str]
    cores: tuple[int, ...] = ()
    memory: int = _UNLIMITED
    disk: int = 20_000_000_000
    processes: int = limits.MAX_PROCESSES
    confine: bool = True
    hidden: tuple[str, ...] = ()


class Ending(msgspec.Struct, frozen=True):
    """How the process ended: its exit code, or why it was stopped (and then `excess`: of what)."""

    exit_code: int | None
    stopped: Literal["timeout", "interrupted", "excess"] | None
    seconds: float
    excess: str = ""


def run(job: Job, lifeline: int) -> TrialFinished:
    """Run the job to its end and return the result. `lifeline` is readable once it must end."""
    folder = Path(job.folder)
    attestation = folder / "attested.json"
    attestation.unlink(missing_ok=True)
    with CappedLog(folder / "run.log") as log:
        ending = _watch(job, attestation, log, lifeline)
        _tidy(folder, log)
    return summary.judge(job.trial, job.seconds, job.timeout, ending, log.tail(), attestation)


def write_result(folder: Path, result: TrialFinished) -> None:
    """Leave the result atomically: a reader sees all of it or nothing."""
    write_whole(folder / "result.json", msgspec.json.encode(result))


def read_result(folder: Path) -> TrialFinished | None:
    """The result a watchdog left in a trial folder; `None` when it left none."""
    try:
        return msgspec.json.decode((folder / "result.json").read_bytes(), type=TrialFinished)
    except FileNotFoundError:
        return None


def _watch(job: Job, attestation: Path, log: CappedLog, lifeline: int) -> Ending:
    started = time.monotonic()
    process = _start(job, attestation)
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    meter = Meter(Path(job.folder), job.memory, job.disk, job.processes)
    stopped: Literal["timeout", "interrupted", "excess"] | None = None
    excess = None
    sources = [output, lifeline]
    while process.poll() is None:
        left = started + job.timeout - time.monotonic()
        if left <= 0:
            stopped = "timeout"
            break
        # An exit closes the pipe unless a descendant holds it, so look again every now and then.
        ready, _, _ = select.select(sources, [], [], min(left, 0.5 if output in sources else 0.02))
        if lifeline in ready:
            stopped = "interrupted"
            break
        if output in ready and not _copy(output, log):
            sources.remove(output)
        if excess := meter.excess():
            stopped = "excess"
            break
    seconds = time.monotonic() - started
    _kill_everything(process)
    while _copy(output, log):
        continue
    process.stdout.close()
    return Ending(None if stopped else process.returncode, stopped, seconds, excess or "")


def _start(job: Job, attestation: Path) -> subprocess.Popen[bytes]:
    """Start train.py in a session of its own, confined if the job says so."""
    environment, enter, sandbox = job.environment, _die_with_parent, None
    if job.confine:
        hidden = [Path(path) for path in job.hidden]
        folder, evaluator = Path(job.folder), Path(job.evaluator)
        sandbox = Sandbox.prepare(folder, evaluator, environment, hidden)
        environment, enter = sandbox.environment, sandbox.enter
    own = {
        "PYTHONPATH": job.evaluator,
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SWARM_SECONDS": repr(job.seconds),
        "SWARM_ATTEST": str(attestation),
        "SWARM_DEVICE_LOCKED": "1",
    }
    try:
        return subprocess.Popen(
            [job.python, "train.py"],
            cwd=job.folder,
            env=environment | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=enter,  # safe: the watchdog has one thread
        )
    finally:
        if sandbox:
            sandbox.close()


def _tidy(folder: Path, log: CappedLog) -> None:
    """Leave no trap in a folder whose trial has ended: we and others read and write there by name.

    A link would lead us out of the folder, a named pipe would keep us for ever.
    """
    remove = [PRIVATE, "result.json"]
    lost = not log.is_at(folder / "run.log")
    if lost:
        remove.append("run.log")
    remove += [entry.name for entry in os.scandir(folder) if _is_trap(entry)]
    # `rm`, as folders may be nested deeper than Python's recursion reaches.
    rm = shutil.which("rm", path=os.defpath) or "rm"  # a user's PATH may hold a few tools only
    command = [rm, "-rf", "--", *{str(folder / name) for name in remove}]
    subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if lost:
        log.move_to(folder / "run.log")


def _is_trap(entry: os.DirEntry[str]) -> bool:
    if entry.name.endswith(".part"):
        return True
    return not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False)


def _copy(output: int, log: CappedLog) -> bool:
    """Move what is in the pipe to the log; return whether more may come."""
    try:
        data = os.read(output, _READ_BYTES)
    except BlockingIOError:
        return False
    log.write(data)
    return bool(data)


def _kill_everything(process: subprocess.Popen[bytes]) -> None:
    """Kill the trial's group and every descendant that left it.

    Orphans are adopted by this process (it is a subreaper), so that after each round of kills the
    next generation appears as its children, until there is none.
    """
    deadline = time.monotonic() + _KILL_GRACE_SECONDS
    _kill_group(process.pid)
    while time.monotonic() < deadline:
        for child in children(os.getpid()):
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


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent() -> None:
    limits.die_with_parent(signal.SIGKILL)


def main() -> None:
    """The watchdog process; exits 0 once `result.json` is there."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _adopt_orphans()
    lifeline = sys.stdin.fileno()
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(lifeline, _READ_BYTES)
        if not data:
            return
        line += data
    job = msgspec.json.decode(line, type=Job)
    if job.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores)
    write_result(Path(job.folder), run(job, lifeline))


if __name__ == "__main__":
    main()
