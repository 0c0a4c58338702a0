"""The story of a swarm in numbers: all that its report says, before anything is worded or drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from swarm import drift, hyperparameters, records
from swarm.errors import SwarmError
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.noise import Noise
from swarm.report import attendance, contributions, failures, result, simplicity
from swarm.report.attendance import Attendance
from swarm.report.contributions import Contribution
from swarm.report.failures import Failures
from swarm.report.result import Measured, Result
from swarm.report.simplicity import Doubt, SourceOf
from swarm.standings import DeviceClass
from swarm.views import documents, history
from swarm.workers import WorkerState


@dataclass(frozen=True)
class Dot:
    """An experiment in the plot: when it came, its mean val_bpb and what became of it."""

    number: int
    experiment: str
    val_bpb: float | None
    kept: bool
    confirmed: bool


@dataclass(frozen=True)
class Lineage:
    """A point of the line in the plot: the baseline, and what led from it to the incumbent."""

    number: int
    experiment: str
    description: str
    val_bpb: Measured
    confirmed: bool
    heldout: float | None


@dataclass(frozen=True)
class Chapter:
    """What there is to say of one device class.

    `false_keeps` of the `keeps` are expected to be no improvement, `false_claims` of the `claims`
    (of what was the best before).
    `workers` train on it, or have submitted something there before they were spawned for another.
    `duty` is the share of their time that its devices spent in trials, `idle` the rest in seconds.
    `seeds` are those of the result's trials.
    """

    name: str
    workers: frozenset[str]
    noise: Noise
    experiments: int
    scored: int
    trials: int
    keeps: int
    confirmed: int
    claims: int
    false_keeps: float
    false_claims: float
    result: Result
    doubts: tuple[Doubt, ...]
    failures: Failures
    drift: drift.Drift | None
    duty: float | None
    idle: float
    seeds: tuple[int, ...]
    dots: tuple[Dot, ...]
    lineage: tuple[Lineage, ...]


@dataclass(frozen=True)
class Story:
    """A swarm's story. `chapters` are its device classes, that of the first worker first."""

    tag: str
    over: bool
    why_over: str
    version: str
    config: records.Config
    attendance: Attendance
    experiments: int
    trials: int
    spend: documents.Document
    workers: tuple[Contribution, ...]
    agents: tuple[Contribution, ...]
    directions: tuple[tuple[str, int, int], ...]
    chapters: tuple[Chapter, ...]
    asked: str | None = None

    @property
    def dataset(self) -> str:
        """The name of the dataset's folder: where that lies is nobody's business."""
        return PurePath(self.config.dataset).name or "the prepared dataset"

    @property
    def agent_seconds(self) -> float | None:
        """The time that agents were at work, all together; `None` where it was not recorded."""
        hours = self.attendance.agents
        return sum(hours.values()) if hours else None


def tell(
    board: Leaderboard,
    told: Iterable[records.AnyRecord],
    source_of: SourceOf,
    asked: str | None = None,
) -> Story:
    """The story of a swarm, of its result or of the experiment that is `asked` for.

    `told` is its journal, `source_of(experiment)` its train.py (`None`: the commit is lost).
    """
    assert board.config is not None and board.swarm is not None
    times = attendance.of(told)
    constants = _constants(source_of(BASELINE), board.config.scale)
    classes = _in_order(board)
    home = board.home_class(asked) if asked else None
    chapters = tuple(
        _chapter(board, known, source_of, constants, asked if known.name == home else None)
        for known in classes
    )
    results = [chapter.result for chapter in chapters]
    return Story(
        tag=board.swarm.tag,
        over=board.state != "running",
        why_over=board.ended_because,
        version=board.swarm.version,
        config=board.config,
        attendance=times,
        experiments=board.spent_experiments,
        trials=len(board.trials),
        spend=documents.spend(board),
        workers=tuple(contributions.by_worker(board, results, times.agents)),
        agents=tuple(contributions.by_agent(board, results, times.agents)),
        directions=tuple(
            (name, tally.tried, tally.kept) for name, tally in board.workforce.directions.items()
        ),
        chapters=chapters,
        asked=asked,
    )


def _in_order(board: Leaderboard) -> list[DeviceClass]:
    first = board.primary
    return sorted(board.classes.values(), key=lambda known: known is not first)


def _constants(source: str | None, scale: str) -> set[str]:
    """The tunable constants of the baseline's train.py, where it has any that can be read."""
    try:
        return set(hyperparameters.parse(source, scale)) if source else set()
    except SwarmError:
        return set()


def _chapter(
    board: Leaderboard,
    known: DeviceClass,
    source_of: SourceOf,
    constants: set[str],
    asked: str | None,
) -> Chapter:
    found = result.of(known, asked)
    tried = [entry for entry in known.entries.values() if entry.claim.parent]
    kept = [
        1 - result.chance_better(known, entry, base)
        for entry in tried
        if entry.kind == "keep" and entry.estimate
        if (base := entry.base or known.entries.get(entry.claim.parent or ""))
        if base.estimate
    ]
    claims = result.claims(known)
    states = [s for s in board.workers.values() if s.joined.device_class == known.name]
    busy, elapsed = _occupancy(states)
    return Chapter(
        name=known.name,
        workers=frozenset(s.joined.worker for s in states) | {e.claim.worker for e in tried},
        noise=known.noise,
        experiments=len(tried),
        scored=sum(entry.estimate is not None for entry in tried),
        trials=sum(len(entry.trials) for entry in known.entries.values()),
        keeps=sum(entry.kind == "keep" for entry in tried),
        confirmed=sum(entry.confirmed for entry in tried),
        claims=len(claims),
        false_keeps=math.fsum(kept),
        false_claims=math.fsum(claims),
        result=found,
        doubts=simplicity.doubts(found, source_of),
        failures=failures.of(known, constants),
        drift=drift.of(known),
        duty=min(1.0, busy / elapsed) if elapsed else None,
        idle=max(0.0, elapsed - busy),
        seeds=_seeds(known, found),
        dots=tuple(_dots(known)),
        lineage=tuple(_lineage(known, asked or known.incumbent)),
    )


def _occupancy(states: Iterable[WorkerState]) -> tuple[float, float]:
    """Seconds that devices spent in trials that ended, and that passed from the start of the first
    to the end of the last of them, since the swarm was last spawned."""
    busy = elapsed = 0.0
    for state in states:
        if state.first_trial and state.last_result:
            busy += state.busy_seconds
            elapsed += (state.last_result - state.first_trial).total_seconds()
    return busy, elapsed


def _seeds(known: DeviceClass, found: Result) -> tuple[int, ...]:
    score = found.final or found.baseline
    trials = known.entries[score.experiment].trials if score else ()
    return tuple(trial.seed for trial in trials if trial.val_bpb is not None)


def _dots(known: DeviceClass) -> Iterable[Dot]:
    for number, entry in enumerate(known.entries.values()):
        if entry.estimate or entry.kind not in ("candidate", "interrupted"):
            mean = entry.estimate.mean if entry.estimate else None
            kept = entry.kind == "keep"
            yield Dot(number, entry.experiment, mean, kept, entry.confirmed)


def _lineage(known: DeviceClass, experiment: str | None) -> Iterable[Lineage]:
    numbers = {name: number for number, name in enumerate(known.entries)}
    for entry in history.lineage(known, experiment):
        assert entry.estimate is not None
        error = known.noise.sd / math.sqrt(entry.estimate.replicates)
        yield Lineage(
            numbers[entry.experiment], entry.experiment, entry.claim.description,
            Measured(entry.estimate.mean, error), entry.confirmed, drift.heldout(entry),
        )  # fmt: skip
