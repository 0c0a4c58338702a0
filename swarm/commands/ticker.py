"""How far running trials are, while a command waits for them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.views import crew
from swarm.views.table import fit

_PERIOD_SECONDS = 1.0
_PLAIN_SECONDS = 60.0
_CELLS = 12


class Ticker:
    """The last line of a terminal, redrawn every second; elsewhere a plain line in a minute in
    which nothing else was said. `stream` is where it goes; what is `said` stays above it.
    """

    def __init__(
        self, paths: Paths, fold: Leaderboard, stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.paths, self.fold = paths, fold
        self.stream, self.clock = stream, clock
        self.live = stream.isatty()
        self.drawn, self.due = False, clock() + self.every

    @property
    def every(self) -> float:
        return _PERIOD_SECONDS if self.live else _PLAIN_SECONDS

    def __enter__(self) -> Ticker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._clear()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(text, file=self.stream, flush=True)
        self.due = self.clock() + (0.0 if self.live else self.every)

    def tick(self, workers: Sequence[str] = ()) -> None:
        """Tell how far the trials of these workers are, or of all, if it is time to.

        The fold is as fresh as its owner keeps it.
        """
        if self.clock() < self.due:
            return
        self.due = self.clock() + self.every
        text = line(self.paths, self.fold, workers or tuple(self.fold.active), self.live)
        if not self.live:
            print(text, file=self.stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        self._clear()
        self.stream.write(fit(text, width))
        self.stream.flush()
        self.drawn = True

    def _clear(self) -> None:
        if self.drawn:
            self.stream.write("\r\033[K")
            self.stream.flush()
            self.drawn = False


def line(paths: Paths, fold: Leaderboard, workers: Sequence[str], bars: bool) -> str:
    """`3 of 12 experiments | cpu0 e3 ████░░░░ 43%, 7 s left | cpu1 e4 starting`."""
    limit = fold.config.max_experiments if fold.config else None
    parts = [f"{fold.spent_experiments:,}{f' of {limit:,}' if limit else ''} experiments"]
    now = datetime.now(UTC)
    for name in workers:
        trial = crew.trial(paths, fold, fold.workers[name], now)
        parts.append(f"{name} {_told(trial, bars)}" if trial else f"{name} {_WAITS}")
    return " | ".join(parts)


_WAITS = "waits for its agent"


def _told(trial: crew.Document, bars: bool) -> str:
    if trial["phase"] != "training":
        return f"{trial['experiment']} {trial['phase']}"
    done = round(trial["percent"] / 100 * _CELLS)
    bar = f" {'█' * done}{'░' * (_CELLS - done)}" if bars else ""
    left = trial["seconds_left"]
    rest = "" if left is None else f", {left:.0f} s left"
    return f"{trial['experiment']}{bar} {trial['percent']:.0f}%{rest}"
