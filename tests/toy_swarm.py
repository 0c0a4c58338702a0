"""A swarm on the toy repository, written down but not running."""

from __future__ import annotations

import os
from pathlib import Path

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
