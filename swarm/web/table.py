"""The table of experiments, searched and sorted here: a page of rows at a time goes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from swarm import drift
from swarm.leaderboard import BASELINE
from swarm.standings import DeviceClass, Entry
from swarm.views import documents
from swarm.web.columns import VERDICTS, number

Sort = Literal[
    "experiment", "val_bpb", "replicates", "verdict", "worker", "parent", "seconds", "usd",
    "tokens_per_second", "heldout_bpb", "description",
]  # fmt: skip
MOST_ROWS = 200


class Query(msgspec.Struct, frozen=True):
    """Which rows are asked for, as the parameters of a URL; `search` looks at what a row says."""

    device_class: int = 0
    search: str = ""
    verdict: str = ""
    sort: Sort = "val_bpb"
    descending: bool = False
    offset: int = 0
    limit: int = 100

    @property
    def selection(self) -> tuple[object, ...]:
        """What decides on rows and order, without the page of them."""
        return self.device_class, self.search, self.verdict, self.sort, self.descending


_KEYS: dict[str, Callable[[Entry], Any]] = {
    "experiment": lambda entry: number(entry.experiment),
    "val_bpb": lambda entry: entry.estimate and entry.estimate.mean,
    "replicates": lambda entry: entry.estimate.replicates if entry.estimate else 0,
    "verdict": lambda entry: (VERDICTS.index(entry.kind), not entry.confirmed),
    "worker": lambda entry: (len(entry.claim.worker), entry.claim.worker),
    "parent": lambda entry: number(entry.claim.parent),
    "seconds": lambda entry: entry.seconds,
    "usd": lambda entry: entry.bill and entry.bill.known_usd,
    "tokens_per_second": lambda entry: entry.metrics.tokens_per_second,
    "heldout_bpb": drift.heldout,
    "description": lambda entry: entry.claim.description.casefold(),
}


def select(known: DeviceClass, query: Query) -> list[Entry]:
    """The entries that `query` finds, in its order; those without a value come last."""
    words = query.search.casefold().split()
    found = [entry for entry in known.entries.values() if _matches(entry, words, query.verdict)]
    key = _KEYS[query.sort]
    keyed = [(key(entry), entry) for entry in found]
    valued = [pair for pair in keyed if pair[0] is not None]
    valued.sort(key=lambda pair: pair[0], reverse=query.descending)
    return [entry for _, entry in valued] + [entry for value, entry in keyed if value is None]


def document(known: DeviceClass, entry: Entry) -> documents.Document:
    """A row: what `swarm board --json` says of it, with what is for people only."""
    baseline = known.entries[BASELINE].estimate if BASELINE in known.entries else None
    mean = entry.estimate.mean if entry.estimate else None
    return documents.experiment(known, entry) | {
        "heldout_bpb": drift.heldout(entry),
        "gain": baseline.mean - mean if baseline and mean is not None else None,
        "running": entry.running,
    }


def _matches(entry: Entry, words: list[str], verdict: str) -> bool:
    if verdict and not (entry.kind == verdict or (verdict == "confirmed" and entry.confirmed)):
        return False
    if not words:
        return True
    claim = entry.claim
    text = f"{claim.experiment} {claim.worker} {claim.agent} {claim.commit[:12]} {entry.kind}"
    told = f"{text} {claim.description}".casefold()
    return all(word in told for word in words)
