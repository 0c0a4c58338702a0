"""Many simulated swarms at once, and what of a real one would be the first to be too slow."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.records import Note
from swarm.simulate import TRIAL_HOURS, Outcome, Simulation, World, simulate

_APPENDS = 200
_RECORDS_PER_TRIAL = 3
BUSY_SHARE = 0.5
"""A lock or a core that is busy more than this is called too slow: queues grow from there on."""


@dataclass(frozen=True)
class Mean:
    """A mean over swarms and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Summary:
    """What swarms of one world did on average. Shares are of all swarms together.

    `reached` are mean hours until an improvement, over the swarms that reached it, and how many.
    """

    world: World
    swarms: int
    true: Mean
    claimed: Mean
    experiments: float
    keeps: float
    false_keeps: float
    tested: float
    claims: float
    false_claims: float
    replicates: float
    wasted: float
    reached: dict[float, tuple[float, int]]


def sweep(worlds: Iterable[World], swarms: int, processes: int | None = None) -> Iterable[Summary]:
    """Run `swarms` swarms of each world, with seeds 0, 1, …, on all cores; yield as they end."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for world in worlds:
            seeded = [replace(world, seed=seed) for seed in range(swarms)]
            yield summarise(world, pool.map(simulate, seeded, chunksize=1))


def summarise(world: World, outcomes: Sequence[Outcome]) -> Summary:
    """Put the outcomes of one world's swarms together."""
    count = len(outcomes)

    def mean(field: str) -> float:
        return math.fsum(getattr(outcome, field) for outcome in outcomes) / count

    def share(part: str, whole: str) -> float:
        return mean(part) / mean(whole) if mean(whole) else 0.0

    marks = sorted({mark for outcome in outcomes for mark in outcome.reached})
    hours = {mark: [o.reached[mark] for o in outcomes if mark in o.reached] for mark in marks}
    return Summary(
        world=world,
        swarms=count,
        true=_mean([outcome.true for outcome in outcomes]),
        claimed=_mean([outcome.claimed for outcome in outcomes]),
        experiments=mean("experiments"),
        keeps=mean("keeps"),
        false_keeps=share("false_keeps", "keeps"),
        tested=mean("tested"),
        claims=mean("claims"),
        false_claims=share("false_claims", "claims"),
        replicates=mean("replicates"),
        wasted=share("wasted_hours", "device_hours"),
        reached={
            mark: (math.fsum(found) / len(found), len(found)) for mark, found in hours.items()
        },
    )


def _mean(values: Sequence[float]) -> Mean:
    count = len(values)
    mean = math.fsum(values) / count
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Mean(mean, math.sqrt(squares / (count - 1) / count) if count > 1 else math.nan)


@dataclass(frozen=True)
class Limits:
    """What one machine was measured to do, and from how many workers on that is too slow.

    `append` is the seconds the journal's lock is held for a line (with fsync), `fold` those a
    process needs to take in a line, `memory` the bytes it keeps of an experiment.
    """

    append: float
    fold: float
    memory: float
    workers_append: int
    workers_fold: int
    cores: int


def limits(world: World, cores: int, folder: Path | None = None) -> Limits:
    """Measure this machine with a real journal and a simulated night; about ten seconds.

    Each trial writes three lines, and every runner folds the lines of all: the lock's time grows
    with the number of workers, the cores' with its square.
    """
    append = _append_seconds(folder)
    fold, memory = _fold_cost(world)
    lines = _RECORDS_PER_TRIAL / (TRIAL_HOURS * 3600)  # per second and worker
    return Limits(
        append=append,
        fold=fold,
        memory=memory,
        workers_append=int(BUSY_SHARE / (append * lines)),
        workers_fold=int(math.sqrt(BUSY_SHARE * cores / (fold * lines))),
        cores=cores,
    )


def _append_seconds(folder: Path | None) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        journal = Journal(Path(place) / "journal.jsonl")
        started = time.perf_counter()
        for _ in range(_APPENDS):
            journal.append(Note(worker="gpu0", text="x" * 300))
        return (time.perf_counter() - started) / _APPENDS


def _fold_cost(world: World) -> tuple[float, float]:
    """Seconds to fold a line of a simulated night, and bytes of memory per experiment."""
    import tracemalloc

    told = Simulation(world, keep_records=True)
    told.run()
    board = Leaderboard(told.board.journal)
    started = time.perf_counter()
    for record in told.told:
        board.apply(record)
    fold = (time.perf_counter() - started) / len(told.told)
    tracemalloc.start()
    board = Leaderboard(told.board.journal)
    for record in told.told:
        board.apply(record)
    memory = tracemalloc.get_traced_memory()[0] / max(1, len(board.claims))
    tracemalloc.stop()
    return fold, memory
