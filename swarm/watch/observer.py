"""What `swarm watch` shows, read from the journal, heartbeats and logs of a swarm.

It is called in threads, so that folding a long journal does not keep anyone from pressing keys.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from swarm import control, logfile, panes, records, snapshots
from swarm.errors import JournalError, Refused, SwarmError
from swarm.journal import Journal, utc_now
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.standings import DeviceClass, Trial
from swarm.views import board as boards
from swarm.views import crew, diff, documents, table
from swarm.views.documents import Document
from swarm.watch import board, curve
from swarm.watch.board import Board, Query
from swarm.watch.cells import clean

_LOG_LINES = 100
_State = tuple[int, str]
"""So many lines of the journal were folded; the name of a device class."""


class Log(NamedTuple):
    """The end of a log; `name` is what the `log` verb calls it, `reason` why its worker waits."""

    name: str = ""
    about: str = ""
    reason: str = ""
    lines: tuple[str, ...] = ()


class Snapshot(NamedTuple):
    """A swarm at a moment. `seconds` of CPU time were needed to put it together."""

    status: Document
    paused: frozenset[str]
    classes: tuple[str, ...]
    board: Board
    progress: curve.Progress
    log: Log
    seconds: float


class Observer:
    """Follows the journal of a swarm. Its methods may be called from several threads."""

    def __init__(
        self,
        paths: Paths,
        clock: Callable[[], datetime] = utc_now,
        cpu_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.paths = paths
        self._clock, self._cpu_time = clock, cpu_time
        self._fold = Leaderboard(Journal(paths.journal))
        self._alone = threading.Lock()
        self._damaged: SwarmError | None = None
        self._damaged_version = (0, 0)
        self._progress_of: _State | None = None
        self._board_of: tuple[_State, Query] | None = None
        self._board, self._progress = Board(), curve.Progress()

    def look(self, query: Query) -> Snapshot:
        """The swarm as it is now. Raises `SwarmError` while its journal is damaged or away."""
        with self._alone, _translated():
            self._refresh()
            began = self._cpu_time()
            fold = self._fold
            status = documents.status(self.paths, fold, self._clock())
            known = self._class(query)
            if known is not None:
                self._survey(known, query._replace(worker="", of_trial=False))
            return Snapshot(
                status,
                frozenset(name for name in fold.active if fold.workers[name].paused),
                tuple(fold.classes),
                self._board,
                self._progress,
                self._log(status, query),
                self._cpu_time() - began,
            )

    def experiment(self, name: str) -> tuple[str, str, str]:
        """What is known of an experiment, its diff, and its verdict in a word."""
        with self._alone:
            if name not in self._fold.claims:
                raise Refused(f"there is no experiment '{name}' now", "the journal was cut")
            entry = self._fold.entry(name)
            told = boards.experiment(self._fold, entry, table.Style(False, 0))
            parent = entry.claim.parent
            base = self._fold.claims[parent].commit if parent else None
            verdict = entry.kind
        found = diff.between(self.paths.root, base, entry.claim.commit) if base else ""
        return told, found, verdict

    def toggle(self, worker: str) -> records.Action:
        """Pause a worker, or have one that is paused or parked go on. Raises `SwarmError`."""
        with self._alone, _translated():
            self._refresh()
            state = self._fold.workers.get(worker)
            goes_on = state is not None and bool(state.paused or state.parked)
            action: records.Action = "resume" if goes_on else "pause"
            control.ask(self.paths, self._fold, action, [worker])
            return action

    def attaching(
        self, worker: str, environment: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        """The command that shows the pane of a worker, and its environment."""
        with self._alone:
            return panes.attaching(self.paths, self._fold, worker, environment)

    def _refresh(self) -> None:
        """Fold what is new. A damaged journal is folded anew once somebody has changed it."""
        found = os.stat(self.paths.journal)
        version = found.st_size, found.st_mtime_ns
        if self._damaged is not None:
            if version == self._damaged_version:
                raise self._damaged
            self._fold = Leaderboard(Journal(self.paths.journal))
            self._board_of = self._progress_of = self._damaged = None
        if self._fold.swarm is None:
            self._fold = snapshots.leaderboard(self.paths)
        try:
            self._fold.refresh()
        except JournalError as error:
            self._damaged, self._damaged_version = error, version
            raise
        if not crew.is_laid_out(self._fold):
            raise SwarmError("the swarm is being laid out")

    def _survey(self, known: DeviceClass, query: Query) -> None:
        """Put together anew what is not as it was: a long journal takes a while."""
        state = self._fold.cursor.lines, known.name
        if state != self._progress_of:
            self._progress, self._progress_of = curve.of(self._fold, known), state
        if (state, query) != self._board_of:
            self._board, self._board_of = board.of(known, query), (state, query)

    def _class(self, query: Query) -> DeviceClass | None:
        return self._fold.classes.get(query.device_class) or self._fold.primary

    def _log(self, status: Document, query: Query) -> Log:
        """The log of the worker that is asked for: what its pane shows, or its last trial's."""
        worker = next((w for w in status["workers"] if w["name"] == query.worker), None)
        if worker is None:
            return Log()
        name, reason = query.worker, clean(worker["agent_reason"] or worker["reason"])
        path, about = self.paths.worker_log(name), "pane"
        if query.of_trial:
            last = self._last_trial(name)
            if last is None:
                return Log(name, "has run no trial yet")
            path, about = self.paths.trial(last.id) / "run.log", f"of {last.experiment} on {name}"
            name, reason = last.id, last.outcome or last.purpose
        text = logfile.last_lines(path, 2 * _LOG_LINES)
        lines = [clean(line) for line in text.splitlines() if line.strip()]
        return Log(name, about, reason, tuple(lines[-_LOG_LINES:]))

    def _last_trial(self, worker: str) -> Trial | None:
        """The trial that runs on a worker's device, else the last that did."""
        running = self._fold.workers[worker].open_trial
        if running is not None:
            return self._fold.trials[running]
        trials = reversed(self._fold.trials.values())
        return next((trial for trial in trials if trial.worker == worker), None)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SwarmError(f"cannot read {error.filename}: {error.strerror}") from error
