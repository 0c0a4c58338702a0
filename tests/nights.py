"""Nights of swarms that never ran: simulated by the code of real ones, told as journals on disk.

Their numbers are those of published swarms (σ, effects, crashes); their words are made up.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import toy
from msgspec.structs import replace

from swarm import records
from swarm.paths import Paths
from swarm.simulate import TRIAL_HOURS, Simulation, World

MODEL = "NVIDIA H100 80GB HBM3"
BEGAN = datetime(2026, 11, 20, 21, 0, tzinfo=UTC)
AGENTS = ("claude", "codex", "anthropic:claude-sonnet-5-5", "tuner")
IDEAS = (
    "MATRIX_LR 0.04 → {x:.3f}", "wider MLP: 4 → {n} times the model's width",
    "WARMDOWN_RATIO 0.5 → {x:.2f}", "depth 8 → {n}", "squared ReLU → SwiGLU with {n}/3 hidden size",
    "weight decay {x:.2f} on matrices only", "batch of 2^{n} tokens", "remove the value residual",
    "sliding window of {n} × 128 tokens in every second layer",
    "cosine instead of linear warm-down",
    "logits capped at {n}", "EMBEDDING_LR 0.6 → {x:.2f}", "beta2 0.95 → 0.9{n}",
)  # fmt: skip
FAILURES = (
    "CUDA out of memory. Tried to allocate 2.50 GiB", "loss is nan at step 41",
    "RuntimeError: shape '[8, 2048, 6, 128]' is invalid for input of size 8388608",
)  # fmt: skip


def tell(
    root: Path, experiments: int, workers: int = 8, tag: str = "night", over: bool = True,
    began: datetime = BEGAN, seed: int = 0,
) -> Paths:  # fmt: skip
    """Write the journal of a swarm of about so many experiments; `over`: it has finished.

    The repository at `root` is made where there is none. Only the commit of the baseline exists.
    """
    if not (root / ".git").exists():
        toy.make_repository(root)
    paths = Paths(root, tag)
    paths.home.mkdir(parents=True)
    hours = max(1.0, experiments * 1.06 * TRIAL_HOURS / workers)
    simulation = Simulation(World(workers=workers, hours=hours, seed=seed), keep_records=True)
    simulation.run()
    teller = _Teller(paths, began, random.Random(seed))
    with open(paths.journal, "wb") as file:
        for number, record in enumerate(teller.told(simulation.told, over), start=1):
            file.write(msgspec.json.encode(replace(record, seq=number)) + b"\n")
    return paths


class _Teller:
    """Puts words and measurements to the records of a simulation."""

    def __init__(self, paths: Paths, began: datetime, random: random.Random) -> None:
        self.paths, self.began, self.random = paths, began, random
        self.commit = toy.git(paths.root, "rev-parse", "HEAD")
        self.started: dict[str, datetime] = {}
        self.agents: dict[str, str] = {}

    def told(self, lines: list[records.AnyRecord], over: bool) -> Iterator[records.AnyRecord]:
        first = lines[0].time
        last = self.began
        for line in lines:
            last = self.began + (line.time - first) + timedelta(seconds=len(self.agents))
            yield from (replace(found, time=last) for found in self.words(line, last))
        if over:
            ended = records.Ended(state="finished", reason=f"all {len(self.agents)} are used")
            yield replace(ended, time=last + timedelta(seconds=5))

    def words(self, line: records.AnyRecord, now: datetime) -> Iterator[records.AnyRecord]:
        if isinstance(line, records.Swarm):
            config = replace(line.config, device_hour_usd=2.5, dataset="climbmix")
            yield replace(line, tag=self.paths.tag, root=self.commit, config=config)
        elif isinstance(line, records.Worker):
            place = int(line.worker.removeprefix("gpu"))
            device = replace(line.device, id=f"GPU-{place:04d}", model=MODEL)
            agent = self.agents[line.worker] = AGENTS[place % len(AGENTS)]
            yield replace(
                line, agent=agent, device=device, device_class=MODEL,
                branch=self.paths.branch(line.worker),
                worktree=str(self.paths.worktree(line.worker)),
            )  # fmt: skip
            yield records.AgentEvent(worker=line.worker, state="started")
        elif isinstance(line, records.Claim):
            yield from self.claim(line)
        elif isinstance(line, records.TrialStarted):
            self.started[line.trial] = now
            yield replace(line, device_class=MODEL, seed=self.random.randrange(1000))
        elif isinstance(line, records.TrialFinished):
            yield self.result(line, now)
        else:
            yield line

    def claim(self, line: records.Claim) -> Iterator[records.AnyRecord]:
        if not line.worker:
            yield replace(line, agent="", commit=self.commit, description="baseline")
            return
        agent = self.agents[line.worker]
        if agent != "tuner":
            tokens = self.random.randrange(20_000, 120_000)
            yield records.Spend(
                worker=line.worker, model="a-model", calls=6, cached_tokens=tokens,
                output_tokens=tokens // 20, usd=round(tokens * 1.1e-6, 4),
            )  # fmt: skip
        idea = self.random.choice(IDEAS)
        text = idea.format(x=self.random.uniform(0.01, 0.9), n=self.random.randrange(3, 9))
        number = int(line.experiment.removeprefix("e"))
        yield replace(
            line, agent=agent, commit=_hash(line.experiment), description=text,
            fingerprint=f"{number:032x}", seedless=f"{number:032x}",
        )  # fmt: skip

    def result(self, line: records.TrialFinished, now: datetime) -> records.TrialFinished:
        seconds = (now - self.started.pop(line.trial)).total_seconds()
        if line.outcome == "crash":
            return replace(
                line, seconds=seconds, exit_code=1,
                reason=f"exit code 1: {self.random.choice(FAILURES)}",
            )  # fmt: skip
        if line.val_bpb is None:
            return replace(line, seconds=seconds)
        steps = self.random.randrange(930, 970)
        verified = self.random.random() < 0.05
        return replace(
            line, seconds=seconds, verified=verified,
            heldout_bpb=line.val_bpb + 0.004 + self.random.gauss(0, 3e-4) if verified else None,
            metrics=records.Metrics(
                num_steps=steps, batches=steps * 8, tokens_per_second=steps * 524288 / 300,
                memory_gb=44.0, training_seconds=300.0, mfu_percent=39.8, num_params_m=50.3,
                depth=8,
            ),
        )  # fmt: skip


def _hash(name: str) -> str:
    """What looks like a commit."""
    return hashlib.sha1(name.encode()).hexdigest()
