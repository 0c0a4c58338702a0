"""A trial's score, checked: its weights are evaluated again in processes that never trained.

The examiner, a program of the harness, asks a second process for logits and computes the loss
itself. That second one imports train.py, and is confined like a trial.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import msgspec.structs

from swarm import children
from swarm.config import HARNESS, TRAINER
from swarm.errors import SwarmError
from swarm.job import Job
from swarm.logfile import CappedLog, last_words
from swarm.meter import Meter
from swarm.records import TrialFinished
from swarm.summary import read_attestation

_SPARE_SECONDS = 20.0
"""The examiner ends by itself; so long after that it is ended."""
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Each process waits for the other in turn: threads that spin meanwhile take the other's cores."""
_MAX_FINDING_BYTES = 1 << 16
_LOGITS_BYTES = 8 << 30
"""Of the file that logits pass through, which holds no more than is written. A batch at full scale,
16 rows of 2,048 tokens with 8,192 logits in float32, takes 1 GiB."""


@dataclass(frozen=True)
class Subject:
    """What is examined: the committed train.py, what its trial left behind, and its score."""

    source: bytes
    attestation: Path
    weights: Path
    val_bpb: float | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What an examination found, of so many `rows`: its own score and the one attested for them.

    `refused` says why the score does not hold; `failed` why that is not known.
    """

    rows: int = 0
    val_bpb: float | None = None
    attested_bpb: float | None = None
    heldout_bpb: float | None = None
    heldout_rows: int = 0
    refused: str = ""
    failed: str = ""
    interrupted: bool = False
    seconds: float = 0.0


def is_possible(job: Job) -> bool:
    """Whether the swarm's harness can examine; those of older swarms cannot."""
    return (Path(job.evaluator) / HARNESS / "examine.py").is_file()


def judged(result: TrialFinished, finding: Finding, trusted: bool) -> TrialFinished:
    """The result of an ok trial, once examined; one that is `trusted` is at worst not verified."""
    seconds = round(result.seconds + finding.seconds, 3)
    if finding.interrupted:
        why = "its runner went away or was stopped"
        return msgspec.structs.replace(
            result, outcome="interrupted", val_bpb=None, reason=why, seconds=seconds
        )
    if finding.refused and not trusted:
        return msgspec.structs.replace(
            result, outcome="rejected", val_bpb=None, reason=finding.refused, seconds=seconds
        )
    if finding.refused or finding.failed:
        why = f"not verified: {finding.refused or finding.failed}"
        return msgspec.structs.replace(result, reason=why, seconds=seconds, unverified=True)
    return msgspec.structs.replace(
        result, verified=True, heldout_bpb=finding.heldout_bpb, seconds=seconds
    )


def examine(job: Job, subject: Subject, lifeline: int) -> Finding:
    """Evaluate the kept weights again. `lifeline` is readable once that must end.

    Everything that was started has ended on return. The caller adopts orphans, has one thread and
    no other children.
    """
    started = time.monotonic()
    attested = read_attestation(subject.attestation)
    if attested is None or attested.val_bpb != subject.val_bpb:
        return Finding(refused=f"val_bpb {subject.val_bpb} is not what its folder attests")
    if attested.weights or not subject.weights.is_file():
        why = attested.weights or "there are none"
        return Finding(refused=f"its weights were not kept, so nothing verifies its score: {why}")
    request = {
        "val_bpb": attested.val_bpb,
        "row_nats": attested.row_nats,
        "limit": job.examine_timeout,
    }
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(_scratch(Path(job.folder), subject.source))
            weights = stack.enter_context(_weights(subject.weights))
            log = stack.enter_context(CappedLog(Path(job.folder) / "examination.log"))
            finding = _run(job, folder, request, weights, log, lifeline)
    except OSError as error:  # such as a full disk
        finding = Finding(failed=f"{error.strerror} ({error.filename})")
    except SwarmError as error:
        finding = Finding(failed=str(error))
    return msgspec.structs.replace(finding, seconds=time.monotonic() - started)


def _run(
    job: Job, folder: Path, request: dict[str, object], weights: int, log: CappedLog, lifeline: int
) -> Finding:
    """Start both processes, and let the examiner end or end it."""
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        _shared_file() as logits,
        tempfile.TemporaryFile() as asked,
        tempfile.TemporaryFile() as errors,
    ):
        request |= {"channel": ours.fileno(), "logits": logits}
        asked.write(msgspec.json.encode(request))
        asked.seek(0)
        program = [job.python, "-P", "-m"]
        files = (theirs.fileno(), logits, weights)
        served = [*program, "swarm.harness.served", *map(str, files)]
        model = children.start(job, served, folder, _ENVIRONMENT, files)
        examiner = None
        try:
            examiner = children.start_trusted(
                job,
                [*program, "swarm.harness.examine"],
                _ENVIRONMENT,
                (ours.fileno(), logits),
                asked,
                errors,
            )
            theirs.close()  # so that the examiner hears when the model's process has ended
            ours.close()
            return _await(job, folder, model, examiner, errors, log, lifeline)
        finally:
            children.kill_everything(model)
            for process in (model, examiner):
                if process is not None and process.stdout is not None:
                    process.stdout.close()


def _await(
    job: Job, folder: Path, model: subprocess.Popen[bytes], examiner: subprocess.Popen[bytes],
    errors: IO[bytes], log: CappedLog, lifeline: int,
) -> Finding:  # fmt: skip
    assert model.stdout is not None and examiner.stdout is not None
    said, words = examiner.stdout.fileno(), model.stdout.fileno()
    deadline = time.monotonic() + job.examine_timeout + _SPARE_SECONDS
    meter = Meter(folder, job.memory, job.disk, job.processes)
    sources, found = [said, words, lifeline], b""
    while said in sources:
        left = deadline - time.monotonic()
        if left <= 0:
            return Finding(failed="its examination did not end")
        ready, _, _ = select.select(sources, [], [], min(left, 0.5))
        if lifeline in ready:
            return Finding(interrupted=True)
        if words in ready and not children.copy(words, log):
            sources.remove(words)
        if said in ready:
            part = os.read(said, _MAX_FINDING_BYTES)
            found += part
            if not part:
                sources.remove(said)
        if excess := meter.excess():
            return Finding(refused=f"when its score was verified it {excess}")
    if examiner.wait() == 0:
        return msgspec.json.decode(found, type=Finding)
    errors.seek(0)
    return Finding(failed=last_words(errors.read(_MAX_FINDING_BYTES).decode(errors="replace")))


@contextmanager
def _scratch(folder: Path, source: bytes) -> Iterator[Path]:
    """A folder with train.py alone, for the process that imports it."""
    scratch = Path(tempfile.mkdtemp(prefix="examination.", dir=folder))
    try:
        (scratch / TRAINER).write_bytes(source)
        yield scratch
    finally:
        children.remove([scratch])


@contextmanager
def _weights(path: Path) -> Iterator[int]:
    """The weights, open: wherever they are, the process that gets the file reads it."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _shared_file() -> Iterator[int]:
    """A file without a name, in memory where the system has that."""
    if sys.platform == "linux":
        file = os.memfd_create("logits")
    else:
        file, name = tempfile.mkstemp()
        os.unlink(name)  # noqa: PTH108  it is a string
    try:
        os.ftruncate(file, _LOGITS_BYTES)
        yield file
    finally:
        os.close(file)
