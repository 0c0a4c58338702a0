"""Experiments and trials as columns: what the plots of the page need of each, and no more.

A hundred thousand rows are a few megabytes that way, and a few hundred kilobytes compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, get_args

from swarm import drift
from swarm.decide import VerdictKind
from swarm.records import Outcome, Purpose
from swarm.standings import Entry, Trial

Columns = dict[str, list[Any]]
VERDICTS: tuple[str, ...] = get_args(VerdictKind)
PURPOSES: tuple[str, ...] = get_args(Purpose)
OUTCOMES: tuple[str, ...] = get_args(Outcome)
_DIGITS = 6
_VERDICT = {name: place for place, name in enumerate(VERDICTS)}
_PURPOSE = {name: place for place, name in enumerate(PURPOSES)}
_OUTCOME = {name: place for place, name in enumerate(OUTCOMES)} | {None: -1}


class Row(NamedTuple):
    """An experiment as measured on the device class at this place."""

    device_class: int
    entry: Entry


def number(experiment: str | None) -> int:
    """17 for e17, -1 for none."""
    return int(experiment[1:]) if experiment else -1


def experiments(
    rows: Iterable[tuple[int, Row]], workers: Mapping[str, int], began: datetime
) -> Columns:
    """`row` is the place of each; `time` is in seconds since `began`; numbers name experiments."""
    found = list(rows)
    entries = [row.entry for _, row in found]
    claims = [entry.claim for entry in entries]
    estimates = [entry.estimate for entry in entries]
    return {
        "row": [place for place, _ in found],
        "device_class": [row.device_class for _, row in found],
        "number": [number(claim.experiment) for claim in claims],
        "parent": [number(claim.parent) for claim in claims],
        "worker": [workers.get(claim.worker, -1) for claim in claims],
        "time": [round((claim.time - began).total_seconds(), 1) for claim in claims],
        "verdict": [_VERDICT[entry.kind] for entry in entries],
        "confirmed": [int(entry.confirmed) for entry in entries],
        "val_bpb": [_rounded(e.mean if e else None) for e in estimates],
        "replicates": [e.replicates if e else 0 for e in estimates],
        "sd": [_rounded(e.sd if e else None) for e in estimates],
        "heldout_bpb": [_rounded(drift.heldout(entry)) for entry in entries],
    }


def trials(
    found: Iterable[tuple[int, Trial]],
    workers: Mapping[str, int],
    classes: Mapping[str, int],
    began: datetime,
) -> Columns:
    """`start` is in seconds since `began`; the outcome of a running one is -1."""
    numbered = list(found)
    told = [trial for _, trial in numbered]
    return {
        "row": [place for place, _ in numbered],
        "experiment": [number(trial.experiment) for trial in told],
        "worker": [workers[trial.worker] for trial in told],
        "device_class": [classes[trial.device_class] for trial in told],
        "start": [round((trial.started - began).total_seconds(), 1) for trial in told],
        "seconds": [round(trial.seconds, 1) for trial in told],
        "purpose": [_PURPOSE[trial.purpose] for trial in told],
        "outcome": [_OUTCOME[trial.outcome] for trial in told],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
