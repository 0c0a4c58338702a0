"""One trial: run one train.py under a watchdog, and say truthfully how it ended.

`python -m swarm.trial` is the watchdog. It reads a `Job` as one JSON line from stdin, runs it, and
leaves `result.json`. Stdin is its lifeline: when it closes, the runner is gone and the trial ends.
It never outlives its deadline, and nothing the trial started outlives it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec

from swarm import children, examination, summary
from swarm.config import TRAINER
from swarm.disk import write_whole
from swarm.errors import SwarmError
from swarm.job import WEIGHTS, Job
from swarm.logfile import CappedLog
from swarm.meter import Meter
from swarm.records import TrialFinished

_READ_BYTES = 1 << 16
_KEPT = (TRAINER, "run.log", "attested.json", WEIGHTS)
"""The files of a trial that has ended. `examination.log` and `result.json` come later, from us."""


class Ending(msgspec.Struct, frozen=True):
    """How the process ended: its exit code, or why it was stopped (and then `excess`: of what)."""

    exit_code: int | None
    stopped: Literal["timeout", "interrupted", "excess"] | None
    seconds: float
    excess: str = ""


def run(job: Job, lifeline: int) -> TrialFinished:
    """Run the job to its end and return the result. `lifeline` is readable once it must end."""
    folder = Path(job.folder)
    source = (folder / TRAINER).read_bytes()  # before the trial, which may write there
    attestation = folder / "attested.json"
    attestation.unlink(missing_ok=True)
    with CappedLog(folder / "run.log") as log:
        try:
            ending = _watch(job, log, lifeline)
        except SwarmError as error:  # such as a confinement that cannot be had
            return TrialFinished(
                trial=job.trial, outcome="interrupted", seconds=0.0, reason=f"not started: {error}"
            )
        _tidy(folder, log)
    result = summary.judge(job.trial, job.seconds, job.timeout, ending, log.tail(), attestation)
    noteworthy = result.val_bpb is not None and result.val_bpb < job.examine_below
    if noteworthy and examination.is_possible(job):
        subject = examination.Subject(source, attestation, folder / WEIGHTS, result.val_bpb)
        finding = examination.examine(job, subject, lifeline)
        result = examination.judged(result, finding, job.trusted)
    return result


def write_result(folder: Path, result: TrialFinished) -> None:
    """Leave the result atomically: a reader sees all of it or nothing."""
    write_whole(folder / "result.json", msgspec.json.encode(result))


def read_result(folder: Path) -> TrialFinished | None:
    """The result a watchdog left in a trial folder; `None` when it left none."""
    try:
        return msgspec.json.decode((folder / "result.json").read_bytes(), type=TrialFinished)
    except FileNotFoundError:
        return None


def _watch(job: Job, log: CappedLog, lifeline: int) -> Ending:
    started = time.monotonic()
    process = children.start(
        job, [job.python, TRAINER], Path(job.folder), {"SWARM_WEIGHTS": WEIGHTS}
    )
    assert process.stdout is not None
    output = process.stdout.fileno()
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
        if output in ready and not children.copy(output, log):
            sources.remove(output)
        if excess := meter.excess():
            stopped = "excess"
            break
    seconds = time.monotonic() - started
    children.kill_everything(process)
    while children.copy(output, log):
        continue
    process.stdout.close()
    return Ending(None if stopped else process.returncode, stopped, seconds, excess or "")


def _tidy(folder: Path, log: CappedLog) -> None:
    """Of what a trial that has ended left in its folder, keep `_KEPT` and remove all else.

    We and others read and write there by name: a link would lead us out of the folder, a named pipe
    would keep us for ever, a folder would be in the way. And a checkpoint would fill the disk.
    """
    path = folder / "run.log"
    lost = True
    with contextlib.suppress(OSError):  # the result of the trial counts for more
        _open_up(folder, 0o700)
        lost = not log.is_at(path)
        with os.scandir(folder) as entries:
            left = [entry for entry in entries if not _is_kept(entry)]
        children.remove(folder / entry.name for entry in left)
    if lost:
        children.remove([path])
        with contextlib.suppress(OSError):
            log.move_to(path)


def _is_kept(entry: os.DirEntry[str]) -> bool:
    if entry.name not in _KEPT or not entry.is_file(follow_symlinks=False):
        return False
    _open_up(Path(entry.path), 0o600)
    return True


def _open_up(path: Path, mode: int) -> None:
    """Give ourselves these rights to our own file or folder, should a trial have taken them."""
    now = stat.S_IMODE(path.lstat().st_mode)
    if now & mode != mode:
        with contextlib.suppress(OSError):
            path.chmod(now | mode)


def main() -> None:
    """The watchdog process; exits 0 once `result.json` is there."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children.adopt_orphans()
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
