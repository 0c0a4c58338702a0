"""A leaderboard as plain data, and back: what refers to something else does so by its name."""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple

from swarm import records
from swarm.effects import Effects, Learnt
from swarm.journal import Journal
from swarm.leaderboard import Leaderboard, SwarmState
from swarm.noise import Noise
from swarm.pace import Pace
from swarm.policies import Likely
from swarm.standings import Contest, DeviceClass, Entry
from swarm.workers import Tally, WorkerState

_REFERENCES = -3
"""The last fields of an `Entry` refer to others: they are stored beside it."""


class FrozenClass(msgspec.Struct, array_like=True):
    """A `DeviceClass`; a `why` of `None` is `Likely`, which is made from what else is known."""

    name: str
    noise: Noise
    learnt: Learnt
    pace: Pace
    entries: list[Entry]
    whys: list[str | None]
    bases: list[str | None]
    children: dict[str, list[str]]
    kept: list[str]
    doubtful: list[str]
    ranked: list[str] | None
    contest: tuple[str, int] | None
    incumbent: str | None
    best: str | None
    champions: list[str]
    credits: float
    gain: float
    calibrations: int
    verifies: bool
    unverified: str
    noise_version: int
    versioned_sd: float


class FrozenBoard(msgspec.Struct, array_like=True):
    """A `Leaderboard`. Of claims, only those without a worker: the others are in their entries.

    `unprinted` are the claims that their fingerprint does not lead to: it is free, or of another.
    """

    classes: list[FrozenClass]
    claims: list[records.Claim]
    unprinted: set[str]
    unprinted_seedless: set[str]
    waiting: list[tuple[str, str, list[str]]]
    workers: dict[str, WorkerState]
    active: dict[str, None]
    directions: dict[str, Tally]
    aims: dict[str, str]
    swarm: records.Swarm | None
    config: records.Config | None
    state: SwarmState
    ended_because: str
    stopping: Literal["", "soft", "now"]
    stop_reason: str
    started: datetime | None
    requests: dict[str, str]
    notes: list[records.Note]
    spent_experiments: int


_OF_A_CLASS = FrozenClass.__struct_fields__[FrozenClass.__struct_fields__.index("incumbent") :]
_OF_A_BOARD = FrozenBoard.__struct_fields__[FrozenBoard.__struct_fields__.index("swarm") :]


def freeze(board: Leaderboard) -> FrozenBoard:
    """It shares what the board has: write it down before the board folds any further."""
    claims, prints, seedless = board.claims.values(), board.fingerprints, board.seedless
    force, plain = board.workforce, {name: getattr(board, name) for name in _OF_A_BOARD}
    return FrozenBoard(
        classes=[_freeze_class(known) for known in board.classes.values()],
        claims=[claim for claim in claims if not claim.worker],
        unprinted={c.experiment for c in claims if prints.get(c.fingerprint) != c.experiment},
        unprinted_seedless={
            c.experiment for c in claims if seedless.get(c.seedless) != c.experiment
        },
        waiting=[(*key, _names(entries)) for key, entries in board.waiting.items()],
        workers=force.workers,
        active=force.active,
        directions=force.directions,
        aims=force.aims,
        **plain,
    )


def _freeze_class(known: DeviceClass) -> FrozenClass:
    entries = known.entries
    rows: list[Any] = [astuple(entry)[:_REFERENCES] for entry in entries.values()]
    contest = known.contest
    return FrozenClass(
        name=known.name,
        noise=known.noise,
        learnt=known.effects.learnt,
        pace=known.pace,
        entries=rows,
        whys=[None if isinstance(e.why, Likely) else e.reason for e in entries.values()],
        bases=[e.base.experiment if e.base else None for e in entries.values()],
        children={name: _names(e.children) for name, e in entries.items() if e.children},
        kept=list(known.kept),
        doubtful=list(known.doubtful),
        ranked=None if known.ranked is None else _names(known.ranked),
        contest=(contest.contender.experiment, contest.look) if contest else None,
        **{name: getattr(known, name) for name in _OF_A_CLASS},
    )


def _names(entries: list[Entry]) -> list[str]:
    return [entry.experiment for entry in entries]


def thaw(stored: FrozenBoard, journal: Journal) -> Leaderboard:
    """The board again, but for its cursor; what is frozen belongs to it from now on.

    Raises `LookupError` or `ValueError` for what cannot be the fold of any journal.
    """
    board = Leaderboard(journal)
    board.resumed = True
    for name in _OF_A_BOARD:
        setattr(board, name, getattr(stored, name))
    board.classes.update((one.name, _thaw_class(one)) for one in stored.classes)
    claims = stored.claims
    for known in board.classes.values():
        mine = [entry.claim for entry in known.entries.values()]
        claims += mine
        board.home |= {claim.experiment: known.name for claim in mine if claim.worker}
        board.trials |= {t.id: t for entry in known.entries.values() for t in entry.trials}
    claims.sort(key=attrgetter("seq"))
    board.claims = {claim.experiment: claim for claim in claims}
    board.commits = {claim.commit: claim.experiment for claim in claims}
    other, seeded = stored.unprinted, stored.unprinted_seedless
    board.fingerprints = {c.fingerprint: c.experiment for c in claims if c.experiment not in other}
    board.seedless = {c.seedless: c.experiment for c in claims if c.experiment not in seeded}
    for name, base, waiting in stored.waiting:
        known = board.classes[name]
        board.waiting[name, base] = [known.entries[each] for each in waiting]
    force = board.workforce
    force.config, force.active = stored.config, stored.active
    force.directions, force.aims = stored.directions, stored.aims
    force.workers.update(stored.workers)
    _check(board)
    return board


def _thaw_class(stored: FrozenClass) -> DeviceClass:
    entries = {entry.claim.experiment: entry for entry in stored.entries}
    effects = Effects(stored.noise.prior_sd)
    effects.resume(stored.learnt)
    known = DeviceClass(stored.name, stored.noise, effects, stored.pace, entries)
    for name in _OF_A_CLASS:
        setattr(known, name, getattr(stored, name))
    for entry, why, base in zip(stored.entries, stored.whys, stored.bases, strict=True):
        entry.why = Likely(known, entry) if why is None else why
        entry.base = entries[base] if base else None
    for name, children in stored.children.items():
        entries[name].children = [entries[child] for child in children]
    known.kept = {name: entries[name] for name in stored.kept}
    known.doubtful = {name: entries[name] for name in stored.doubtful}
    if stored.ranked is not None:
        known.ranked = [entries[name] for name in stored.ranked]
    if stored.contest:
        contender, look = stored.contest
        known.contest = Contest(entries[contender], look)
    return known


def _check(board: Leaderboard) -> None:
    """Follow the names that everything else relies on."""
    for name, worker in board.workers.items():
        board.class_of(name)
        if worker.open_trial:
            trial = board.trials[worker.open_trial]
            board.classes[trial.device_class].entries[trial.experiment]
        for experiment in worker.queue:
            board.claims[experiment]
    for known in board.classes.values():
        named = [known.top(), known.champion(), *(known.entries[n] for n in known.champions)]
        for entry in (*named, *known.kept.values(), *(known.ranked or ())):
            if entry and entry.estimate is None:
                raise ValueError(f"{entry.experiment} has no score")
