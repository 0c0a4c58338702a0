"""All facts of a swarm as flat rows: one per experiment and device class, or one per trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from swarm import drift
from swarm.beliefs import belief_of
from swarm.leaderboard import Leaderboard
from swarm.standings import DeviceClass, Entry, Trial

Kind = Literal["text", "number", "count", "flag", "time"]
Cell: TypeAlias = str | float | int | bool | datetime | None
Row: TypeAlias = tuple[Cell, ...]


class Column(NamedTuple):
    """A column of an export: what it holds, its unit (or none), and what that means."""

    name: str
    kind: Kind
    unit: str
    meaning: str


class Table(NamedTuple):
    """Columns, and rows in the order of the journal."""

    columns: Sequence[Column]
    rows: Iterator[Row]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]


_EXPERIMENT: tuple[tuple[Column, Callable[[DeviceClass, Entry], Cell]], ...] = (
    (Column("experiment", "text", "", "its name; e0 is the baseline"),
     lambda _, e: e.experiment),
    (Column("device_class", "text", "", "what makes trials comparable"), lambda k, _: k.name),
    (Column("parent", "text", "", "the experiment whose train.py was changed"),
     lambda _, e: e.claim.parent),
    (Column("base", "text", "", "the experiment that it is judged against"),
     lambda _, e: e.base.experiment if e.base else None),
    (Column("worker", "text", "", "who submitted it; empty for the baseline"),
     lambda _, e: e.claim.worker),
    (Column("agent", "text", "", "the kind of its agent"), lambda _, e: e.claim.agent),
    (Column("commit", "text", "", "git commit"), lambda _, e: e.claim.commit),
    (Column("description", "text", "", "what its agent said of the change"),
     lambda _, e: e.claim.description),
    (Column("time", "time", "UTC", "when it was submitted"), lambda _, e: e.claim.time),
    (Column("verdict", "text", "",
            "keep, discard, candidate, crash, timeout, rejected or interrupted"),
     lambda _, e: e.kind),
    (Column("confirmed", "flag", "", "better than the best before it, by trials made to test that"),
     lambda _, e: e.confirmed),
    (Column("is_incumbent", "flag", "", "the search builds on it"),
     lambda k, e: e.experiment == k.incumbent),
    (Column("is_best", "flag", "", "it is what is claimed"), lambda k, e: e.experiment == k.best),
    (Column("reason", "text", "", "why the verdict is what it is"), lambda _, e: e.reason),
    (Column("val_bpb", "number", "bits per byte", "mean over its replicates; lower is better"),
     lambda _, e: e.estimate.mean if e.estimate else None),
    (Column("replicates", "count", "trials", "trials that count"),
     lambda _, e: e.estimate.replicates if e.estimate else 0),
    (Column("sd", "number", "bits per byte", "sample SD of its replicates"),
     lambda _, e: e.estimate.sd if e.estimate else None),
    (Column("standard_error", "number", "bits per byte",
            "of val_bpb, from the noise of the device class"),
     lambda k, e: k.noise.sd / math.sqrt(e.estimate.replicates) if e.estimate else None),
    (Column("sigma", "number", "bits per byte", "SD of one trial's val_bpb in this device class"),
     lambda k, _: k.noise.sd),
    (Column("p_better", "number", "probability", "that it is better than its base"),
     lambda k, e: belief_of(k, e).better if e.estimate and e.base else None),
    (Column("heldout_bpb", "number", "bits per byte", "mean on the held-out text; not for agents"),
     lambda _, e: drift.heldout(e)),
    (Column("num_steps", "count", "steps", "of its last trial"), lambda _, e: e.metrics.num_steps),
    (Column("batches", "count", "batches", "that the harness handed out in its last trial"),
     lambda _, e: e.metrics.batches),
    (Column("tokens_per_second", "number", "tokens/s", "training speed of its last trial"),
     lambda _, e: e.metrics.tokens_per_second),
    (Column("memory_gb", "number", "GiB", "peak device memory of its last trial"),
     lambda _, e: e.metrics.memory_gb),
    (Column("training_seconds", "number", "s", "of its last trial"),
     lambda _, e: e.metrics.training_seconds),
    (Column("mfu_percent", "number", "%", "model FLOP/s utilisation of its last trial"),
     lambda _, e: e.metrics.mfu_percent),
    (Column("num_params_m", "number", "millions", "parameters"),
     lambda _, e: e.metrics.num_params_m),
    (Column("depth", "count", "layers", "as train.py says"), lambda _, e: e.metrics.depth),
    (Column("device_seconds", "number", "s", "wall-clock time of all its trials"),
     lambda _, e: e.seconds),
    (Column("tokens", "count", "tokens", "that its agent used to come up with it"),
     lambda _, e: e.bill.tokens if e.bill else None),
    (Column("usd", "number", "USD", "what these cost, where prices are known"),
     lambda _, e: e.bill.known_usd if e.bill else None),
)  # fmt: skip

_TRIAL: tuple[tuple[Column, Callable[[Trial], Cell]], ...] = (
    (Column("trial", "text", "", "its name"), lambda t: t.id),
    (Column("experiment", "text", "", "what was trained"), lambda t: t.experiment),
    (Column("device_class", "text", "", "what makes trials comparable"),
     lambda t: t.device_class),
    (Column("worker", "text", "", "on whose device"), lambda t: t.worker),
    (Column("seed", "count", "", "of weights and row order"), lambda t: t.seed),
    (Column("purpose", "text", "", "experiment, replicate, claim, calibration"),
     lambda t: t.purpose),
    (Column("started", "time", "UTC", "when it was started"), lambda t: t.started),
    (Column("seconds", "number", "s", "wall-clock time"), lambda t: t.seconds),
    (Column("outcome", "text", "", "ok, crash, timeout, rejected, interrupted; empty: it runs"),
     lambda t: t.outcome),
    (Column("val_bpb", "number", "bits per byte", "lower is better"), lambda t: t.val_bpb),
    (Column("heldout_bpb", "number", "bits per byte", "on the held-out text; not for agents"),
     lambda t: t.heldout_bpb),
    (Column("batches", "count", "batches", "that the harness handed out"), lambda t: t.batches),
    (Column("counts", "flag", "", "whether it is part of its experiment's score"),
     lambda t: t.val_bpb is not None and not (t.slow or t.unsure)),
    (Column("slow", "flag", "", "it was disturbed: too few batches for its code"),
     lambda t: t.slow),
    (Column("verified", "flag", "", "its weights were evaluated again in a fresh process"),
     lambda t: t.verified),
)  # fmt: skip


def experiments(board: Leaderboard) -> Table:
    """A row per experiment and device class that it was entered in."""
    rows = (
        tuple(read(known, entry) for _, read in _EXPERIMENT)
        for known in board.classes.values()
        for entry in known.entries.values()
    )
    return Table([column for column, _ in _EXPERIMENT], rows)


def trials(board: Leaderboard) -> Table:
    """A row per trial."""
    rows = (tuple(read(trial) for _, read in _TRIAL) for trial in board.trials.values())
    return Table([column for column, _ in _TRIAL], rows)
