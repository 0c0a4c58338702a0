"""What changed when: so that a page is sent what is new to it, however long it was away."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from swarm.leaderboard import Leaderboard
from swarm.standings import Trial
from swarm.web.columns import Row


class Changes:
    """Numbers the states of a fold (`version`), and knows in which each row last changed.

    A page says which version it has. So there is no queue per page that a slow one could fill.
    """

    def __init__(self, fold: Leaderboard) -> None:
        self.fold = fold
        self.version = 0
        self.rows: list[Row] = []
        self.trials: list[Trial] = []
        self._marks: list[tuple[Any, ...]] = []
        self._rows_changed: list[int] = []
        self._trials_changed: list[int] = []
        self._entries_seen: dict[str, int] = {}
        self._running: dict[int, Trial] = {}

    def take(self) -> None:
        """The fold has learnt something."""
        self.version += 1
        self._take_rows()
        self._take_trials()

    def rows_since(self, version: int) -> Iterator[tuple[int, Row]]:
        for place, changed in enumerate(self._rows_changed):
            if changed > version:
                yield place, self.rows[place]

    def trials_since(self, version: int) -> Iterator[tuple[int, Trial]]:
        for place, changed in enumerate(self._trials_changed):
            if changed > version:
                yield place, self.trials[place]

    def _take_rows(self) -> None:
        for place, known in enumerate(self.fold.classes.values()):
            seen = self._entries_seen.get(known.name, 0)
            new = islice(known.entries.values(), seen, None)
            self.rows += [Row(place, entry) for entry in new]
            self._entries_seen[known.name] = len(known.entries)
        # A result may change the verdicts of experiments that were scored long before.
        marks: list[tuple[Any, ...]] = [
            (entry.kind, entry.confirmed, entry.estimate, entry.running, len(entry.trials))
            for _, entry in self.rows
        ]
        for place, (old, new_mark) in enumerate(zip(self._marks, marks, strict=False)):
            if old != new_mark:
                self._rows_changed[place] = self.version
        self._rows_changed += [self.version] * (len(self.rows) - len(self._rows_changed))
        self._marks = marks

    def _take_trials(self) -> None:
        for place, trial in list(self._running.items()):
            if trial.outcome is not None:
                self._trials_changed[place] = self.version
                del self._running[place]
        for trial in islice(self.fold.trials.values(), len(self.trials), None):
            if trial.outcome is None:
                self._running[len(self.trials)] = trial
            self.trials.append(trial)
            self._trials_changed.append(self.version)
