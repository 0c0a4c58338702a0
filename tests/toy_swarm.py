"""A swarm on the toy repository, written down but not running; and one that is told."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import toy

from swarm import records
from swarm.experiment import Bench
from swarm.fingerprint import first_fingerprint, prints
from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.worktree import Worktree, add_worktree


def begin(root: Path, workers: list[str], old: bool = False) -> Paths:
    """A swarm with these workers, as `swarm spawn` would lay it out; `old`: as version 0.1 did."""
    paths = Paths(toy.make_repository(root), "race")
    commit = toy.git(root, "rev-parse", "HEAD")
    config = records.Config(
        seconds=1.0, timeout=9.0, scale="small", dataset="", dataset_fingerprint=""
    )
    journal = Journal(paths.journal)
    paths.home.mkdir(parents=True)
    journal.append(
        records.Swarm(
            tag="race", root=commit, prepare_sha256="", config=config, version="",
            workers=tuple(workers),
        )
    )  # fmt: skip
    now = prints(toy.TRAIN)
    mark, seedless = (first_fingerprint(toy.TRAIN), "") if old else (now.fingerprint, now.seedless)
    journal.append(
        records.Claim(
            experiment="e0", worker="", agent="", parent=None, commit=commit,
            fingerprint=mark, seedless=seedless, description="baseline",
        )
    )  # fmt: skip
    for worker in workers:
        add_worktree(root, paths.worktree(worker), paths.branch(worker), commit, paths.git_lock)
        device = records.Device(name=worker, kind="cpu", id=worker, model="CPU")
        journal.append(
            records.Worker(
                worker=worker, agent="tuner", device=device, device_class="CPU",
                branch=paths.branch(worker), worktree=str(paths.worktree(worker)),
            )
        )  # fmt: skip
    return paths


def bench_of(paths: Paths, worker: str) -> Bench:
    board = Leaderboard(Journal(paths.journal))
    board.refresh()
    worktree = Worktree(paths.worktree(worker), paths.branch(worker))
    return Bench(paths, worker, board.journal, board, worktree, os.environ)


WORKERS = ["cpu0", "cpu1", "cpu2", "cpu3"]


class Story:
    """A swarm told line by line: experiments with scores, and what agents spend."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.paths = begin(folder, WORKERS)
        self.journal = Journal(self.paths.journal)
        self.board = Leaderboard(self.journal)
        self.board.refresh()
        assert self.board.config is not None
        config = msgspec.structs.replace(self.board.config, **settings)
        self.tell(records.Reconfigured(config=config, workers=tuple(WORKERS)))
        self.trial("e0", "cpu0", 1.0)

    def tell(self, *lines: records.AnyRecord) -> None:
        for line in lines:
            self.journal.append(line)
        self.board.refresh()

    def claim(self, worker: str, parent: str = "e0") -> str:
        name = f"e{len(self.board.claims)}"
        self.tell(
            records.Claim(
                experiment=name, worker=worker, agent="x", parent=parent, commit=name,
                fingerprint=name, seedless=name, description="",
            )
        )  # fmt: skip
        return name

    def trial(self, experiment: str, worker: str, val_bpb: float | None) -> None:
        trial = f"t{len(self.board.trials)}"
        self.tell(
            records.TrialStarted(
                trial=trial, experiment=experiment, worker=worker, device_class="CPU", seed=1
            ),
            records.TrialFinished(
                trial=trial, outcome="crash" if val_bpb is None else "ok", seconds=36.0,
                val_bpb=val_bpb,
            ),
        )  # fmt: skip

    def experiment(self, worker: str, val_bpb: float | None, parent: str = "e0") -> str:
        name = self.claim(worker, parent)
        self.trial(name, worker, val_bpb)
        return name

    def spend(self, worker: str, usd: float | None, tokens: int = 100) -> None:
        self.tell(records.Spend(worker=worker, model="m", input_tokens=tokens, usd=usd))
