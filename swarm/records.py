"""The frozen records of the journal: one class per kind of line, facts only, no verdicts."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf, isfinite
from typing import Literal

import msgspec

Outcome = Literal["ok", "crash", "timeout", "rejected", "interrupted"]
AgentState = Literal["started", "exited", "parked", "nudged"]
Action = Literal["pause", "resume", "stop", "sync", "calibrate"]
EndState = Literal["stopped", "finished"]
Purpose = Literal["experiment", "replicate", "claim", "calibration"]

MOST_TOKENS = 10**12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", gc=False):
    """One line of the journal. `seq` counts from 1; both fields are set by `Journal.append`."""

    seq: int = 0
    time: datetime = _EPOCH


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a swarm was started with.

    `seconds` is the training budget of one trial, `timeout` the limit for all of it; `scale` and
    `dataset` go to the trainer as they are. `sync_every` is in seconds. A limit of `None` means
    no limit. `max_usd` is for agents and devices together, `device_hour_usd` what a device costs in
    an hour of trials. `directions` are what workers are asked to look into, in turn. `pass_env`
    names variables that foreign agents get although they look secret.
    """

    seconds: float
    timeout: float
    scale: str
    dataset: str
    dataset_fingerprint: str
    policy: str = "greedy"
    sync_every: float = 1800.0
    max_experiments: int | None = None
    max_hours: float | None = None
    tmux: bool = True
    max_usd: float | None = None
    device_hour_usd: float | None = None
    directions: tuple[str, ...] = ()
    islands: int = 1
    pass_env: tuple[str, ...] = ()


class Metrics(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the trainer measured besides val_bpb; `None` where it did not say.

    `batches` is how many the harness handed out for training, whatever the trainer says.
    """

    num_steps: int | None = None
    batches: int | None = None
    tokens_per_second: float | None = None
    memory_gb: float | None = None
    training_seconds: float | None = None
    mfu_percent: float | None = None
    num_params_m: float | None = None
    depth: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One slot a worker trains on.

    `name` is also the worker's name (`gpu0`, `cpu1`), `id` what pins it: a GPU's UUID where it has
    one, else its index. `cores` are the CPU cores trials may use (empty: any). `locks` names the
    lock files of the device; they are held alone unless `exclusive` is false (oversubscribed CPU).
    """

    name: str
    kind: Literal["cuda", "rocm", "xpu", "hpu", "mps", "cpu"]
    id: str
    model: str
    cores: tuple[int, ...] = ()
    locks: tuple[str, ...] = ()
    exclusive: bool = True


class Swarm(Record, frozen=True, tag="swarm"):
    """The first line: a swarm was created on `root` (a commit) with `config` and `workers`."""

    tag: str
    root: str
    prepare_sha256: str
    config: Config
    version: str
    workers: tuple[str, ...]


class Reconfigured(Record, frozen=True, tag="config"):
    """A stopped swarm was spawned again with `config`, and with these workers only."""

    config: Config
    workers: tuple[str, ...]


class Worker(Record, frozen=True, tag="worker"):
    """A worker exists: one device slot with its worktree and branch. A later line replaces it."""

    worker: str
    agent: str
    device: Device
    device_class: str
    branch: str
    worktree: str


class Claim(Record, frozen=True, tag="experiment"):
    """The intent to try one change: its commit object exists, its ref may not yet.

    `request` is the id of the submission in the worker's mailbox. `parent` is the experiment it
    builds on; `None` for the baseline, whose `worker` is empty. `seedless` is the fingerprint that
    is blind to seeds; version 0.1 wrote none, and its `fingerprint` saw more of the spelling.
    """

    experiment: str
    worker: str
    agent: str
    parent: str | None
    commit: str
    fingerprint: str
    description: str
    request: str = ""
    seedless: str = ""


class TrialStarted(Record, frozen=True, tag="trial"):
    """A trial of an experiment is about to run with `seed` on a worker's device.

    Its purpose is to score a new `experiment`, to `replicate` what the search rests on, to test a
    `claim`, or the `calibration` of the noise.
    """

    trial: str
    experiment: str
    worker: str
    device_class: str
    seed: int
    purpose: Purpose = "experiment"


class TrialFinished(Record, frozen=True, tag="result"):
    """How a trial ended. `val_bpb` is set exactly when the outcome is `ok`; seconds are wall.

    An `excused` interruption (a person stopped the swarm, the disk was full) does not count
    against the experiment: it is queued again however often that happens. `heldout_bpb` is set
    where the trial's weights were `verified`: evaluated again in a fresh process. `unverified`:
    that was tried, and what came of it does not say whether the score holds.
    """

    trial: str
    outcome: Outcome
    seconds: float
    val_bpb: float | None = None
    exit_code: int | None = None
    reason: str = ""
    excused: bool = False
    heldout_bpb: float | None = None
    verified: bool = False
    unverified: bool = False
    metrics: Metrics = Metrics()

    def __post_init__(self) -> None:
        score = self.val_bpb
        finite = score is not None and isfinite(score)
        if finite != (self.outcome == "ok") or not isfinite(self.seconds):
            raise ValueError(f"an {self.outcome} trial cannot have val_bpb {self.val_bpb}")


class AgentEvent(Record, frozen=True, tag="agent"):
    """The agent process of a worker was started, exited, `nudged` because it did nothing, or does
    nothing until `until`, where that is known, or else until a person wants it to (`parked`).
    """

    worker: str
    state: AgentState
    reason: str = ""
    exit_code: int | None = None
    until: datetime | None = None


class Spend(Record, frozen=True, tag="spend"):
    """What an agent has used of `model` in so many `calls` since it last said so.

    The input tokens are without those `cached` (read from the provider's prompt cache) or `written`
    (to it). `usd` is `None` where the price of the model is not known. `request` is the id in the
    worker's mailbox, if it came by there.
    """

    worker: str
    model: str
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    request: str = ""

    def __post_init__(self) -> None:
        counts = (
            self.calls, self.input_tokens, self.cached_tokens, self.written_tokens,
            self.output_tokens,
        )  # fmt: skip
        if min(counts) < 0 or max(counts) > MOST_TOKENS or not 0 <= (self.usd or 0.0) < inf:
            raise ValueError("nobody can have used that")

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.cached_tokens + self.written_tokens + self.output_tokens


class Control(Record, frozen=True, tag="control"):
    """A command to the runners; no `workers` means all of them. `reason` says why a stop came.

    `calibrate` asks for `count` replicates of the incumbent in each of their device classes.
    """

    action: Action
    workers: tuple[str, ...] = ()
    count: int = 0
    now: bool = False
    reason: str = ""


class Note(Record, frozen=True, tag="note"):
    """Something learnt, shared by all workers. `request` is its id in the mailbox, if any."""

    worker: str
    text: str
    request: str = ""


class Ended(Record, frozen=True, tag="end"):
    """The swarm came to rest: `stopped` by a person or `finished` with its budget."""

    state: EndState
    reason: str = ""


AnyRecord = (
    Swarm
    | Reconfigured
    | Worker
    | Claim
    | TrialStarted
    | TrialFinished
    | AgentEvent
    | Spend
    | Control
    | Note
    | Ended
)
