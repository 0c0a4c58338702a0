"""What a trial is given: all that whoever runs it must know."""

from __future__ import annotations

import msgspec

from swarm.sandbox import limits

WEIGHTS = "weights.safetensors"
"""The file in a trial's folder where its evaluation keeps the weights."""
_UNLIMITED = 1 << 62


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All a trial needs, wherever it runs. `folder` holds its train.py; times are in seconds.

    `evaluator` is the folder of the pristine prepare.py. `seconds` is the training budget,
    `timeout` the limit for everything. `environment` is complete: nothing is inherited. `memory`
    and `disk`, in bytes, and `processes` are what the trial and all it starts may use at a time.
    A trial that is confined sees nothing of `hidden`, wherever that lies. A score below
    `examine_below` is evaluated again (see `examination`), within `examine_timeout`; what is
    `trusted` keeps its score even where that fails.
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
    examine_below: float = 0.0
    trusted: bool = False
    examine_timeout: float = 300.0
