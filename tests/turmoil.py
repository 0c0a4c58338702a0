"""Swarms in which everything happens that can, in any order: random journals of every record."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec.structs import replace

from swarm import records
from swarm.journal import Journal
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.policies import Occasion

OCCASIONS: tuple[Occasion, ...] = ("busy", "idle", "ending")


def journal_of(seed: int, policy: str, lines: int) -> bytes:
    """At least so many lines."""
    turmoil = _Turmoil(seed, policy)
    while len(turmoil.lines) < lines:
        turmoil.step()
    return b"".join(turmoil.lines)


class _Turmoil:
    """Tells one record after the other; a fold of them says what may come next."""

    def __init__(self, seed: int, policy: str) -> None:
        self.random, self.policy = random.Random(f"{seed} {policy}"), policy
        self.now = datetime(2026, 11, 20, 21, tzinfo=UTC)
        self.lines: list[bytes] = []
        self.board = Leaderboard(Journal(Path("never read")))
        self.names = tuple(f"gpu{number}" for number in range(self.random.randrange(1, 6)))
        swarm = records.Swarm(
            tag="t", root="0", prepare_sha256="", config=self.config(), version="1",
            workers=self.names,
        )  # fmt: skip
        self.tell(swarm)
        self.tell(self.claim(BASELINE, "", None))
        for name in self.names:
            self.tell(self.worker(name))

    def tell(self, record: records.AnyRecord) -> None:
        self.now += timedelta(seconds=50 * self.random.random())
        record = replace(record, seq=len(self.lines) + 1, time=self.now)
        self.board.apply(record)
        self.lines.append(msgspec.json.encode(record) + b"\n")

    def step(self) -> None:
        """The next record, if what chance chose is possible now."""
        choice, board = self.random.choice, self.board
        worker = choice(list(board.active))
        state, known = board.workers[worker], board.class_of(worker)
        busy, roll = state.open_trial, self.random.random()
        if busy and roll < 0.6:
            self.finish(busy)
        elif not busy and roll < 0.35 and state.queue:
            self.start(worker, next(iter(state.queue)), "experiment")
        elif not busy and roll < 0.5 and (due := board.replicate(worker, choice(OCCASIONS))):
            self.start(worker, due.experiment, due.purpose)
        elif not busy and roll < 0.5 and not known.entries[BASELINE].values:
            self.start(worker, BASELINE, "experiment")
        elif roll < 0.75:
            parent = choice([BASELINE, known.incumbent, known.best, choice(list(board.claims))])
            self.tell(self.claim(f"e{len(board.claims)}", worker, parent or BASELINE))
        elif roll < 0.79 and not busy:
            scored = [name for name, entry in known.entries.items() if entry.values]
            purposes: list[records.Purpose] = ["replicate", "claim", "calibration"]
            if scored:
                self.start(worker, choice(scored), choice(purposes))
        elif roll < 0.98:
            self.tell(choice(self.asides)(worker))
        elif roll < 0.99:
            self.respawn()

    @property
    def asides(self) -> list[Callable[[str], records.AnyRecord]]:
        """What changes no score."""
        choice, request = self.random.choice, f"n{len(self.lines)}"
        return [
            lambda worker: records.Spend(
                worker=worker, model="m", calls=1, output_tokens=choice([0, 100]),
                usd=choice([None, 0.1]), request=choice(["", request]),
            ),
            lambda worker: records.AgentEvent(
                worker=worker, state=choice(["started", "exited", "parked", "nudged"]),
                reason="why", until=choice([None, self.now]),
            ),
            lambda worker: records.Note(worker=worker, text="seen", request=choice(["", request])),
            lambda worker: records.Control(
                action=choice(["pause", "resume", "stop", "sync", "calibrate"]), count=2,
                workers=choice([(), (worker,)]), now=choice([False, True]), reason="why",
            ),
            lambda worker: records.Ended(state=choice(["stopped", "finished"]), reason="over"),
        ]  # fmt: skip

    def respawn(self) -> None:
        """Go on with some of the workers, of which some are on another kind of device now."""
        names = self.random.sample(self.names, self.random.randint(1, len(self.names)))
        self.tell(records.Reconfigured(config=self.config(), workers=tuple(names)))
        for name in names:
            if self.board.workers[name].open_trial is None and self.random.random() < 0.5:
                self.tell(self.worker(name))

    def config(self) -> records.Config:
        choice = self.random.choice
        return records.Config(
            seconds=300.0, timeout=600.0, scale=choice(["full", "small"]), dataset="",
            dataset_fingerprint="", policy=self.policy, islands=choice([1, 2]),
            directions=choice([(), ("a", "b", "c")]), max_usd=choice([None, 1e6]),
        )  # fmt: skip

    def worker(self, name: str) -> records.Worker:
        device = records.Device(name=name, kind="cuda", id=name, model="m")
        return records.Worker(
            worker=name, agent="tuner", device=device, branch="", worktree="",
            device_class=self.random.choice(["A", "A", "B"]),
        )  # fmt: skip

    def claim(self, name: str, worker: str, parent: str | None) -> records.Claim:
        choice, fingerprint = self.random.choice, f"f{self.random.randrange(4000)}"
        return records.Claim(
            experiment=name, worker=worker, agent="tuner", parent=parent, commit=f"{name:0>40}",
            fingerprint=fingerprint, description=f"change {name}", request=choice(["", f"q{name}"]),
            seedless=choice(["", fingerprint]),
        )  # fmt: skip

    def start(self, worker: str, experiment: str, purpose: records.Purpose) -> None:
        known = self.board.class_of(worker)
        if experiment in known.entries:
            trial = f"t{len(self.board.trials)}"
            self.tell(
                records.TrialStarted(
                    trial=trial, experiment=experiment, worker=worker, device_class=known.name,
                    seed=1, purpose=purpose,
                )
            )  # fmt: skip

    def finish(self, trial: str) -> None:
        draw, choice = self.random, self.random.choice
        outcomes: tuple[records.Outcome, ...] = ("crash", "timeout", "rejected", "interrupted")
        if draw.random() < 0.2:
            self.tell(
                records.TrialFinished(
                    trial=trial, outcome=choice(outcomes), seconds=99 * draw.random(),
                    reason="it failed", excused=choice([False, True]),
                )
            )  # fmt: skip
            return
        told = self.board.trials[trial]
        claim, known = self.board.claims[told.experiment], self.board.classes[told.device_class]
        base = known.entries.get(claim.parent or "")
        mean = base.estimate.mean if base and base.estimate else 1.0
        effect = random.Random(told.experiment).gauss(5e-4, 1.5e-3)
        self.tell(
            records.TrialFinished(
                trial=trial, outcome="ok", seconds=300.0, reason="not verified",
                val_bpb=mean + effect + draw.gauss(0, 5e-4), heldout_bpb=choice([None, mean]),
                verified=draw.random() < 0.1, unverified=draw.random() < 0.03,
                metrics=records.Metrics(num_steps=3, batches=choice([None, 900, 905, 910, 600])),
            )
        )  # fmt: skip
