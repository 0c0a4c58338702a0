"""What is known of trials, experiments, device classes and workers: the state that is folded.

There are as many trials and entries as experiments, so they are structs, which are made fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from swarm import decide, records
from swarm.decide import Comparison, Estimate, Verdict, VerdictKind
from swarm.records import Metrics, Outcome

_NO_METRICS = Metrics()


class Trial(msgspec.Struct, gc=False):
    """One execution of an experiment; `outcome` is `None` while it runs."""

    id: str
    experiment: str
    worker: str
    device_class: str
    seed: int
    started: datetime
    outcome: Outcome | None = None
    val_bpb: float | None = None
    seconds: float = 0.0


class Entry(msgspec.Struct):
    """An experiment as measured on one device class. `values` are the val_bpb of its trials."""

    claim: records.Claim
    values: list[float] = msgspec.field(default_factory=list)
    estimate: Estimate | None = None
    trials: list[str] = msgspec.field(default_factory=list)
    running: int = 0
    interruptions: int = 0
    kind: VerdictKind = "candidate"
    why: str | Comparison = "waits for its trial"
    confirmed: bool = False
    metrics: Metrics = _NO_METRICS
    seconds: float = 0.0

    @property
    def experiment(self) -> str:
        return self.claim.experiment

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, for a person."""
        return str(self.why)

    def score(self, val_bpb: float) -> None:
        self.values.append(val_bpb)
        self.estimate = decide.estimate(self.values)

    def judge(self, verdict: Verdict) -> None:
        self.kind, self.why, self.confirmed = verdict.kind, verdict.why, verdict.confirmed


@dataclass(slots=True)
class DeviceClass:
    """The comparable experiments: those measured on the same kind of device.

    `incumbent` is what the search builds on; `best` is what is claimed. The greedy policy claims
    what it keeps, unconfirmed, so there they are the same.
    """

    name: str
    entries: dict[str, Entry] = field(default_factory=dict)
    incumbent: str | None = None
    best: str | None = None

    @property
    def sigma(self) -> float | None:
        return decide.pooled_sigma([entry.values for entry in self.entries.values()])


@dataclass(slots=True)
class WorkerState:
    """A worker with what it has done so far.

    `device_seconds` counts all its finished trials; `busy_seconds` and the times those since the
    swarm was last spawned.
    """

    joined: records.Worker
    experiments: int = 0
    best_val_bpb: float | None = None
    device_seconds: float = 0.0
    busy_seconds: float = 0.0
    first_trial: datetime | None = None
    last_result: datetime | None = None
    open_trial: str | None = None
    parked: str | None = None
    paused: bool = False
    sync_asked: int = 0
    queue: dict[str, None] = field(default_factory=dict)
