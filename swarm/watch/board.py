"""The part of the leaderboard that somebody wants to see."""

from __future__ import annotations

import heapq
import math
from typing import Literal, NamedTuple

from swarm.standings import DeviceClass, Entry
from swarm.views import history

Sort = Literal["best first", "newest first"]
MOST_ROWS = 200


class Query(NamedTuple):
    """What a person wants to see.

    `worker` has its log shown (that of its trial: `of_trial`), `only` its experiments alone.
    """

    worker: str = ""
    of_trial: bool = False
    only: str = ""
    search: str = ""
    sort: Sort = "best first"
    device_class: str = ""


class Row(NamedTuple):
    """An experiment; `sigmas` is its distance to the incumbent in SDs of a trial.

    `marks` has `*` for the incumbent, which the search builds on, and `+` for the best.
    """

    experiment: str
    marks: str
    val_bpb: float | None
    sigmas: float | None
    replicates: int
    verdict: str
    worker: str
    description: str


class Board(NamedTuple):
    """The rows of a device class that a query asks for: at most `MOST_ROWS` of `found`."""

    device_class: str = ""
    rows: tuple[Row, ...] = ()
    found: int = 0


def of(known: DeviceClass, query: Query) -> Board:
    """What a query asks for of a device class; experiments without a score come last."""
    found = [entry for entry in known.entries.values() if _is_asked_for(entry, query)]
    if query.sort == "newest first":
        shown = found[::-1][:MOST_ROWS]
    else:
        shown = heapq.nsmallest(MOST_ROWS, found, key=_mean)
    return Board(known.name, tuple(_row(known, entry) for entry in shown), len(found))


def _row(known: DeviceClass, entry: Entry) -> Row:
    name, estimate = entry.experiment, entry.estimate
    return Row(
        name,
        "*" * (name == known.incumbent) + "+" * (name == known.best),
        estimate.mean if estimate else None,
        history.in_sigmas(known, entry),
        estimate.replicates if estimate else 0,
        "confirmed" if entry.confirmed else entry.kind,
        entry.claim.worker,
        entry.claim.description,
    )


def _mean(entry: Entry) -> float:
    return entry.estimate.mean if entry.estimate else math.inf


def _is_asked_for(entry: Entry, query: Query) -> bool:
    claim = entry.claim
    if query.only and claim.worker != query.only:
        return False
    words = (claim.experiment, claim.worker, claim.agent, entry.kind, claim.description)
    wanted = query.search.casefold()
    return not wanted or any(wanted in word.casefold() for word in words)
