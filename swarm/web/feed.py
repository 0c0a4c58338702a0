"""What the page shows, read from the journal: blocking, and for one thread at a time."""

from __future__ import annotations

import gzip
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from swarm import drift, snapshots
from swarm.errors import Refused, SwarmError
from swarm.garbage import without_collection
from swarm.journal import utc_now
from swarm.leaderboard import BASELINE
from swarm.paths import Paths
from swarm.standings import DeviceClass, Entry
from swarm.views import documents
from swarm.web import columns, detail, table
from swarm.web.changes import Changes
from swarm.web.columns import OUTCOMES, PURPOSES, VERDICTS
from swarm.web.table import MOST_ROWS, Query

Document = dict[str, Any]
_COMPRESSION = 4  # higher levels take longer than they save, on the way to the same machine
_MOST_SELECTIONS = 8


class Feed:
    """A fold that is kept current, and what a page is told of it.

    A page names the state that it has by `<epoch>-<version>`. The epoch changes when the journal
    had to be read anew, as after it was repaired: then nothing that a page has can be relied on.
    `trouble` says what cannot be read now; what was known before is still told.
    """

    def __init__(self, paths: Paths, clock: Callable[[], datetime] = utc_now) -> None:
        self._paths, self._clock = paths, clock
        self._changes: Changes | None = None
        self._epoch = ""
        self._damaged: tuple[int, int] | None = None
        self._status: Document = {}
        self._drifts: tuple[int, list[Document | None]] = (-1, [])
        self._whole: tuple[str, bytes] = ("", b"")
        self._updates: dict[str, bytes] = {}
        self._found: dict[tuple[object, ...], list[Entry]] = {}
        self._unreadable = self._blind = ""

    @property
    def trouble(self) -> str:
        return self._unreadable or self._blind

    def poll(self) -> bool:
        """Read what is new; return whether a page should be told."""
        before = self._mark, self._status, self.trouble
        self._refresh()
        self._look()
        if (self._mark, self._status, self.trouble) == before:
            return False
        self._updates.clear()
        self._found.clear()
        return True

    def whole(self) -> bytes:
        """All of it, as compressed JSON. Raises `SwarmError` where nothing could be read yet."""
        if self._whole[0] != self._mark or not self._whole[1]:
            with without_collection():
                encoded = msgspec.json.encode(self._since(self._known(), 0))
            self._whole = self._mark, gzip.compress(encoded, _COMPRESSION, mtime=0)
        return self._whole[1]

    def since(self, mark: str) -> tuple[str, bytes]:
        """The state now and, as JSON, what is new to a page that has the state `mark`.

        That is `null` for a state of another epoch: the page has to fetch all of it.
        """
        epoch, _, version = mark.partition("-")
        changes = self._changes
        if changes is None or epoch != self._epoch or not _is_version(version, changes.version):
            return self._mark, b"null"
        if mark not in self._updates:
            self._updates[mark] = msgspec.json.encode(self._since(changes, int(version)))
        return self._mark, self._updates[mark]

    def rows(self, query: Query) -> Document:
        """A page of the table. Raises `Refused` for a device class that does not exist."""
        known = self._class(query.device_class)
        if query.selection not in self._found:
            if len(self._found) >= _MOST_SELECTIONS:
                self._found.clear()
            self._found[query.selection] = table.select(known, query)
        found = self._found[query.selection]
        start = max(0, query.offset)
        wanted = found[start : start + min(MOST_ROWS, max(0, query.limit))]
        return {
            "total": len(found),
            "offset": start,
            "rows": [table.document(known, entry) for entry in wanted],
        }

    def row(self, experiment: str, device_class: int) -> Document:
        """One row. Raises `Refused` where there is none."""
        known = self._class(device_class)
        return table.document(known, self._entry(known, experiment))

    def detail(self, experiment: str, device_class: int) -> Document:
        """All that is known of an experiment. Raises `Refused` where there is none."""
        known = self._class(device_class)
        fold = self._known().fold
        return detail.document(self._paths, fold, known, self._entry(known, experiment))

    def log(self, trial: str) -> Document:
        """The end of a trial's log. Raises `Refused` where there is no such trial."""
        if trial not in self._known().fold.trials:
            raise Refused(f"there is no trial '{trial}'")
        return {"trial": trial, "log": detail.log_of(self._paths, trial)}

    # ---- the fold ------------------------------------------------------------------------------

    @property
    def _mark(self) -> str:
        return f"{self._epoch}-{self._changes.version if self._changes else 0}"

    def _known(self) -> Changes:
        if self._changes is None:
            raise SwarmError(self.trouble or "the journal was not read yet")
        return self._changes

    def _class(self, place: int) -> DeviceClass:
        classes = list(self._known().fold.classes.values())
        if not 0 <= place < len(classes):
            raise Refused(f"there is no device class {place}")
        return classes[place]

    def _entry(self, known: DeviceClass, experiment: str) -> Entry:
        """As measured in this class, or else where it was first measured."""
        fold = self._known().fold
        if experiment not in fold.claims:
            raise Refused(f"there is no experiment '{experiment}'")
        return known.entries.get(experiment) or fold.entry(experiment)

    def _refresh(self) -> None:
        """Fold what is new. A journal that was damaged is read anew once it has changed."""
        try:
            if self._changes is None or self._unreadable:
                self._read_anew()
            elif self._changes.fold.refresh():
                self._changes.take()
        except (SwarmError, OSError):
            self._read_anew()

    def _read_anew(self) -> None:
        """A fold that failed half-way is of no more use; it may have been cut and go on."""
        try:
            state = os.stat(self._paths.journal)
            signature = state.st_size, state.st_mtime_ns
            if signature == self._damaged:
                return
            fold = snapshots.leaderboard(self._paths)
            fold.refresh()
            if fold.swarm is None:
                raise SwarmError(f"{self._paths.journal} says nothing yet")
        except SwarmError as error:
            self._damaged, self._unreadable = signature, str(error)
            return
        except OSError as error:  # which may pass without a change of the journal
            self._damaged, self._unreadable = None, str(error)
            return
        self._changes, self._epoch = Changes(fold), secrets.token_hex(4)
        with without_collection():
            self._changes.take()
        self._damaged, self._unreadable = None, ""

    def _look(self) -> None:
        """See what the workers do now."""
        self._blind = ""
        try:
            if self._changes is not None:
                self._status = self._told(self._changes)
        except (SwarmError, OSError) as error:
            self._blind = str(error)

    # ---- what is told --------------------------------------------------------------------------

    def _since(self, changes: Changes, version: int) -> Document:
        fold = changes.fold
        assert fold.swarm is not None
        began = fold.swarm.time
        workers = {name: place for place, name in enumerate(fold.workers)}
        rows = columns.experiments(changes.rows_since(version), workers, began)
        classes = {name: place for place, name in enumerate(fold.classes)}
        trials = columns.trials(changes.trials_since(version), workers, classes, began)
        return {
            "id": self._mark,
            "trouble": self.trouble,
            "status": self._status or self._told(changes),
            "experiments": rows if rows["row"] else None,
            "trials": trials if trials["row"] else None,
        }

    def _told(self, changes: Changes) -> Document:
        """The document of `swarm status`, with what only people are shown."""
        fold, now = changes.fold, self._clock()
        assert fold.swarm is not None and fold.config is not None and fold.started is not None
        document = documents.status(self._paths, fold, now)
        lives = document["supervisor"] or any(worker["pid"] for worker in document["workers"])
        last = [w.last_result for w in fold.workers.values() if w.last_result]
        end = now if lives and fold.state == "running" else max(last, default=fold.started)
        drifts = self._drift(changes)
        for shown, known, drifted in zip(
            document["device_classes"], fold.classes.values(), drifts, strict=True
        ):
            shown |= {
                "baseline": _scored(known, BASELINE),
                "incumbent": _scored(known, known.incumbent),
                "best": _scored(known, known.best),
                "drift": drifted,
                "experiments": len(known.entries),
            }
        return document | {
            "primary": list(fold.classes).index(fold.primary.name) if fold.primary else 0,
            "began": fold.swarm.time.isoformat(),
            "started": fold.started.isoformat(),
            "lives": lives,
            "elapsed": round((end - fold.swarm.time).total_seconds()),
            "seconds": round((end - fold.started).total_seconds()),
            "trial_seconds": fold.config.seconds,
            "max_hours": fold.config.max_hours,
            "policy": fold.config.policy,
            "lanes": list(fold.workers),
            "words": {"verdicts": VERDICTS, "purposes": PURPOSES, "outcomes": OUTCOMES},
        }

    def _drift(self, changes: Changes) -> list[Document | None]:
        """Looking through all held-out scores takes a while: only when there may be new ones."""
        verified = sum(trial.heldout_bpb is not None for trial in changes.trials)
        if self._drifts[0] != verified or len(self._drifts[1]) != len(changes.fold.classes):
            found = [drift.of(known) for known in changes.fold.classes.values()]
            told = [d and d._asdict() | {"is_real": d.is_real, "text": str(d)} for d in found]
            self._drifts = verified, told
        return self._drifts[1]


def _is_version(text: str, newest: int) -> bool:
    return text.isdecimal() and len(text) < 10 and int(text) <= newest


def _scored(known: DeviceClass, name: str | None) -> Document | None:
    entry = known.entries.get(name or "")
    if entry is None or entry.estimate is None:
        return None
    return {
        "experiment": entry.experiment,
        "confirmed": entry.confirmed,
        "description": entry.claim.description,
        "commit": entry.claim.commit,
        "heldout_bpb": drift.heldout(entry),
        **entry.estimate._asdict(),
    }
