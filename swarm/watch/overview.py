"""The main screen: workers, leaderboard, progress and a log, kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Mapping
from typing import ClassVar, get_args

from textual import on, work
from textual.app import ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer, Input, Static

from swarm.errors import SwarmError
from swarm.watch import cells, curve, screens
from swarm.watch.board import Query, Sort
from swarm.watch.lines import Choices, Lines, Tail
from swarm.watch.observer import Log, Observer, Snapshot

_LEAST_SHARE = 50
"""Of the time at most one part in so many is spent on looking, however large the swarm is."""
_MOST_SECONDS = 20.0
_SORTS: tuple[Sort, ...] = get_args(Sort)
_HELP = (
    ("Tab", "to the next pane; arrows and page keys move in it"),
    ("Enter, d", "the chosen experiment: verdict, why, trials and diff"),
    ("a", "attach to the pane of the chosen worker; Ctrl-b d comes back"),
    ("p", "pause the chosen worker after its trial, or have it go on"),
    ("f", "experiments of the chosen worker only, or of all"),
    ("/", "search: experiments, workers, agents, verdicts, words"),
    ("Escape", "all experiments again"),
    ("s", "best or newest experiments first"),
    ("l", "the log of the worker's pane, or that of its trial"),
    ("c", "the next device class"),
    ("z", "the pane alone, or all of them"),
    ("q", "quit; the swarm goes on"),
    ("", ""),
    ("* +", "incumbent: the search builds on it; best: what is claimed"),
    ("Δ/σ", "distance to the incumbent in SDs of a trial; minus is better"),
    ("n", "so many trials were scored"),
    ("‖", "pauses once its trial has ended"),
)


class Header(Lines, can_focus=False):
    """The swarm on two lines."""


class Curve(Lines, can_focus=False):
    """The curve of a search, drawn for the size there is."""

    found = curve.Progress()

    def draw(self, found: curve.Progress) -> None:
        self.found = found
        self.show(curve.plot(found, self.size.width, self.size.height))

    def on_resize(self) -> None:
        self.draw(self.found)


class Overview(Screen[None]):
    """A swarm on one screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "attach", "attach"),
        Binding("p", "pause", "pause"),
        Binding("d", "diff", "diff"),
        Binding("f", "filter", "filter"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("s", "sort", "sort"),
        Binding("l", "log", "log"),
        Binding("c", "next_class", "class"),
        Binding("z", "zoom", "zoom"),
        Binding("question_mark", "keys", "help", key_display="?"),
        Binding("q", "app.quit", "quit"),
        Binding("escape", "clear", show=False),
    ]

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal"), (120, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (16, "-high")]  # noqa: RUF012

    def __init__(self, observer: Observer, every: float, environment: Mapping[str, str]) -> None:
        super().__init__()
        self._observer, self._every, self._environment = observer, every, environment
        self._query = Query()
        self._seen: Snapshot | None = None
        self._log_name = ""
        self._error = ""
        self._wake = asyncio.Event()
        self._header = Header(id="header")
        self._workers = Choices(cells.WORKERS_HEADING, id="workers")
        self._board = Choices(cells.BOARD_HEADING, id="board")
        self._curve, self._log = Curve(id="curve"), Tail(id="log")
        self._notice = Static(id="notice", markup=False)
        self._input = Input(id="search", placeholder="search", compact=True)

    def compose(self) -> ComposeResult:
        yield self._header
        with Container(id="main"):
            with Container(id="tables"):
                yield self._workers
                yield self._board
            with Container(id="side"):
                yield self._curve
                yield self._log
        yield Static("swarm watch needs 60 × 16 characters", id="small", markup=False)
        yield self._notice
        yield self._input
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self._input.cursor_blink = False
        self._header.show([(("the journal is being read …", "dim"),)])
        self._workers.focus()
        self._follow()

    # ---- what is shown -----------------------------------------------------------------------

    @work
    async def _follow(self) -> None:
        """Look again and again: every so often, and at once when something else is asked for."""
        while True:
            self._wake.clear()
            needed = await self._look()
            pause = min(_MOST_SECONDS, max(self._every, needed * _LEAST_SHARE))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def _look(self) -> float:
        """Show what there is now; return what it took of the CPU, in seconds."""
        try:
            seen = await asyncio.to_thread(self._observer.look, self._query)
        except SwarmError as error:
            self._error = str(error)
            self._tell()
            return 0.0
        self._error = ""
        self._show(seen)
        return seen.seconds

    def _show(self, seen: Snapshot) -> None:
        before, self._seen = self._seen, seen
        self._header.show(cells.swarm(seen.status))
        workers = seen.status["workers"]
        self._workers.offer(
            {found["name"]: cells.worker(found, found["name"] in seen.paused) for found in workers}
        )
        if before is None or before.board is not seen.board:
            rows = seen.board.rows
            self._board.offer({row.experiment: cells.experiment(row) for row in rows})
            self._curve.draw(seen.progress)
        if before is None or before.classes != seen.classes:
            self.refresh_bindings()
        self._show_log(seen.log)
        self._tell()

    def _show_log(self, log: Log) -> None:
        reason = f": {log.reason}" if log.reason else ""
        heading = ((f"{log.name} {log.about}", ""), (reason, ""))
        self._log.show([((line, ""),) for line in log.lines], heading)
        if log.name != self._log_name:
            self._log_name = log.name
            self._log.scroll_end(animate=False)

    def _tell(self) -> None:
        """On a line of its own: what is wrong, else which part of the leaderboard is shown."""
        text = self._error or self._view()
        if text != str(self._notice.content):
            self._notice.update(text)
        self._notice.set_class(bool(text), "-shown")
        self._notice.set_class(bool(self._error), "-error")

    def _view(self) -> str:
        query, board = self._query, self._seen.board if self._seen else None
        if board is None:
            return ""
        parts = [f"only {query.only}"] if query.only else []
        parts += [f"with “{query.search}”"] if query.search else []
        parts += [query.sort] if query.sort != _SORTS[0] else []
        several = self._seen is not None and len(self._seen.classes) > 1
        parts += [f"on {board.device_class}"] if several else []
        if not parts:
            return ""
        shown = "" if len(board.rows) == board.found else f"{len(board.rows)} of "
        return f"experiments {', '.join(parts)}: {shown}{board.found}"

    def _ask(self, query: Query) -> None:
        """Look at something else from now on."""
        if query != self._query:
            self._query = query
            self._wake.set()

    # ---- keys --------------------------------------------------------------------------------

    @on(Choices.Moved, "#workers")
    def _moved(self) -> None:
        only = self._workers.chosen if self._query.only else ""
        self._ask(self._query._replace(worker=self._workers.chosen, only=only))

    @on(Choices.Opened)
    def _opened(self, event: Choices.Opened) -> None:
        experiment = event.choices.chosen
        if event.choices is self._workers:
            workers = self._seen.status["workers"] if self._seen else []
            trial = next(w["trial"] for w in workers if w["name"] == experiment)
            if trial is None:
                self._warn(f"{experiment} trains nothing now")
                return
            experiment = trial["experiment"]
        self._open(experiment)

    def action_diff(self) -> None:
        if self._board.chosen:
            self._open(self._board.chosen)

    @work
    async def _open(self, experiment: str) -> None:
        try:
            found = await asyncio.to_thread(self._observer.experiment, experiment)
        except SwarmError as error:
            self._warn(error)
            return
        self.app.push_screen(screens.experiment(*found, self.size.width))

    @work
    async def action_attach(self) -> None:
        """Leave the terminal to tmux until it is detached from."""
        worker = self._workers.chosen
        try:
            # Textual's stand-in has no encoding, which libtmux asks for when it is imported.
            with contextlib.redirect_stdout(sys.__stdout__):
                command, environment = await asyncio.to_thread(
                    self._observer.attaching, worker, self._environment
                )
            with self.app.suspend():
                done = subprocess.run(command, env=environment, check=False)
        except SwarmError as error:
            self._warn(error)
        except SuspendNotSupported:
            self._warn(f"this terminal cannot be left; swarm attach {worker}")
        else:
            if done.returncode != 0:
                self._warn(f"tmux ended with exit code {done.returncode}")

    @work
    async def action_pause(self) -> None:
        worker = self._workers.chosen
        try:
            action = await asyncio.to_thread(self._observer.toggle, worker)
        except SwarmError as error:
            self._warn(error)
            return
        self.notify(f"{action}: {worker}", markup=False)
        self._wake.set()

    def action_filter(self) -> None:
        only = "" if self._query.only else self._workers.chosen
        self._ask(self._query._replace(only=only))

    def action_sort(self) -> None:
        after = _SORTS[(_SORTS.index(self._query.sort) + 1) % len(_SORTS)]
        self._ask(self._query._replace(sort=after))

    def action_log(self) -> None:
        self._ask(self._query._replace(of_trial=not self._query.of_trial))

    def action_next_class(self) -> None:
        if self._seen:
            names = self._seen.classes
            at = names.index(self._seen.board.device_class)
            self._ask(self._query._replace(device_class=names[(at + 1) % len(names)]))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        several = self._seen is not None and len(self._seen.classes) > 1
        return several if action == "next_class" else True

    def action_zoom(self) -> None:
        if self.maximized:
            self.minimize()
        elif isinstance(self.focused, Lines):
            self.maximize(self.focused, container=False)

    def action_keys(self) -> None:
        self.app.push_screen(screens.keys(_HELP))

    def action_search(self) -> None:
        self._input.add_class("-shown")
        self._input.focus()

    def action_clear(self) -> None:
        """All experiments again."""
        self._input.value = ""
        self._leave_search()
        self._ask(self._query._replace(only="", search=""))

    @on(Input.Changed)
    def _searched(self, event: Input.Changed) -> None:
        self._ask(self._query._replace(search=event.value))

    @on(Input.Submitted)
    def _leave_search(self) -> None:
        if self._input.has_class("-shown"):
            self._input.remove_class("-shown")
            self._board.focus()

    def _warn(self, about: SwarmError | str) -> None:
        hint = about.hint if isinstance(about, SwarmError) else ""
        self.notify("; ".join(filter(None, (str(about), hint))), severity="warning", markup=False)
