"""What a finished trial is worth: its printed summary held against what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import msgspec

from swarm.disk import DISK_FULL, is_full
from swarm.logfile import last_words
from swarm.records import Metrics, Outcome, TrialFinished

PRINTED_TOLERANCE = 1e-4
"""The summary prints six decimals; more than this apart is another number."""
BUDGET_FACTOR = 1.02
LEAST_SLACK, MOST_SLACK = 1.0, 5.0
"""Training may exceed its budget by the factor, plus two batches within these seconds.

A trainer stops at about half a step past its budget, or after one step. With six and more busy
processes on two cores, the real train.py was up to 4.0 s late (a budget of 3 s, one step of 7 s).
"""
_REASON_CHARACTERS = 400
_MAX_COUNT = 10**12
LOWEST_BPB, HIGHEST_BPB = 0.01, 100.0
"""No language model scores outside of these: guessing bytes gives 8, the best ones about 0.5."""
_MAX_ATTESTATION_BYTES = 1 << 18


class Ended(Protocol):
    """How the process ended; see `trial.Ending`."""

    @property
    def exit_code(self) -> int | None: ...
    @property
    def stopped(self) -> str | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def excess(self) -> str: ...


class Attested(msgspec.Struct, frozen=True):
    """What `prepare.evaluate_bpb` measured and wrote itself.

    `training_seconds` is the time from the first rows that the harness gave to the evaluation, or
    from the start of the process where it gave none; older harnesses did not say.
    `row_nats` are those of each row, for an examination; `weights` is why they were not kept.
    """

    val_bpb: float
    training_seconds: float = 0.0
    batches: int = 0
    row_nats: str = ""
    weights: str = ""


def parse(log: str) -> dict[str, str]:
    """The `key: value` lines behind the last line `---`; empty when there is no such line."""
    lines = log.splitlines()
    last = max((i for i, line in enumerate(lines) if line.strip() == "---"), default=None)
    if last is None:
        return {}
    pairs = (line.partition(":") for line in lines[last + 1 :])
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def judge(
    trial: str, seconds: float, timeout: float, ending: Ended, log: str, attestation: Path
) -> TrialFinished:
    """Decide the outcome of a trial from how it ended, what it printed and what was attested."""
    printed = parse(log)
    found = read_attestation(attestation)
    outcome, reason, val_bpb = _outcome(seconds, timeout, ending, log, printed, attestation)
    return TrialFinished(
        trial=trial,
        outcome=outcome,
        seconds=round(ending.seconds, 3),
        val_bpb=val_bpb,
        exit_code=ending.exit_code,
        reason=reason[-_REASON_CHARACTERS:],
        excused=outcome == "interrupted" and DISK_FULL in reason,
        metrics=_metrics(printed, found.batches if found else 0),
    )


def _outcome(
    seconds: float,
    timeout: float,
    ending: Ended,
    log: str,
    printed: dict[str, str],
    attestation: Path,
) -> tuple[Outcome, str, float | None]:
    if ending.stopped == "interrupted":
        return "interrupted", "its runner went away or was stopped", None
    if ending.stopped == "timeout":
        return "timeout", f"no result after {timeout:.0f} s; last line: {last_words(log)}", None
    if ending.stopped == "excess":
        return "crash", ending.excess, None
    # Not on its word alone: a train.py that says so each time would be run again for ever.
    if ending.exit_code != 0 and DISK_FULL in last_words(log) and is_full(attestation.parent):
        return "interrupted", last_words(log), None
    if ending.exit_code != 0:
        return "crash", f"exit code {ending.exit_code}: {last_words(log)}", None
    claimed = _number(printed.get("val_bpb"))
    if claimed is None:
        return "crash", f"ended without a summary: {last_words(log)}", None
    found = read_attestation(attestation)
    if found is None:
        return "rejected", "printed a val_bpb that prepare.evaluate_bpb did not measure", None
    attested = found.val_bpb
    if not LOWEST_BPB <= attested <= HIGHEST_BPB:
        return "rejected", f"val_bpb {attested:g} is no plausible score", None
    if abs(claimed - attested) > PRINTED_TOLERANCE:
        return "rejected", f"printed val_bpb {claimed:.6f}, measured was {attested:.6f}", None
    trained = max(_number(printed.get("training_seconds")) or 0.0, found.training_seconds)
    if trained > longest_training(seconds, trained, found.batches):
        return "rejected", f"trained {trained:.0f} s of a budget of {seconds:.0f} s", None
    return "ok", "", attested


def longest_training(seconds: float, trained: float, batches: int) -> float:
    """Seconds of training that a budget of `seconds` lets by, for who took so many batches."""
    two = 2 * trained / max(1, batches)
    return seconds * BUDGET_FACTOR + min(MOST_SLACK, max(LEAST_SLACK, two))


def read_attestation(attestation: Path) -> Attested | None:
    """What is attested; `None` where that is nothing. A trial may have put anything there."""
    try:
        with open(attestation, "rb") as file:
            return msgspec.json.decode(file.read(_MAX_ATTESTATION_BYTES), type=Attested)
    except (OSError, msgspec.DecodeError):
        return None


def _metrics(printed: dict[str, str], batches: int) -> Metrics:
    training = _number(printed.get("training_seconds"))
    tokens_m = _number(printed.get("total_tokens_M"))
    memory_mb = _number(printed.get("peak_vram_mb"))
    return Metrics(
        num_steps=_integer(printed.get("num_steps")),
        batches=batches if 0 < batches <= _MAX_COUNT else None,
        tokens_per_second=tokens_m * 1e6 / training if tokens_m and training else None,
        memory_gb=memory_mb / 1024 if memory_mb is not None else None,
        training_seconds=training,
        mfu_percent=_number(printed.get("mfu_percent")),
        num_params_m=_number(printed.get("num_params_M")),
        depth=_integer(printed.get("depth")),
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= 1e15 else None


def _integer(text: str | None) -> int | None:
    """A count; `None` for what is none, such as 1e308 steps."""
    value = _number(text)
    return int(value) if value is not None and 0 <= value <= _MAX_COUNT else None
