"""`swarm watch`: the real program on real journals and files, and once in a real terminal."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import nights
import pytest
import toy
from conftest import wait_for
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from toy_swarm import WORKERS, Story

from swarm import heartbeat, records
from swarm.heartbeat import Heartbeat
from swarm.journal import Cursor, Journal
from swarm.locks import ProcessLock
from swarm.paths import Paths
from swarm.watch import cells, curve
from swarm.watch.app import Watch
from swarm.watch.board import Query
from swarm.watch.lines import Lines
from swarm.watch.observer import Observer

Run = Callable[..., subprocess.CompletedProcess[str]]
STEP = "step 00041 (50.0 %) | loss 3.2132 | lr × 1.00 | 264 ms | 1,234,567 tok/s | 259 s left\n"
HOSTILE = "[bold red]x[/] [link=file:///]y[/] \x1b[2J\x1b]0;z\x07 日本語" + "w" * 300


class Terminal:
    """The program, as a person sees and uses it."""

    def __init__(self, app: Watch, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    def pane(self, name: str) -> str:
        """What is drawn of a pane."""
        return self.drawn(self.app.screen.query_one(f"#{name}", Lines))

    def page(self) -> str:
        """What is drawn on the screen that covers the panes."""
        return "".join(map(self.drawn, self.app.screen.query(Lines).results()))

    def drawn(self, lines: Lines) -> str:
        return "\n".join(lines.render_line(y).text for y in range(lines.size.height))

    def text(self, name: str) -> str:
        return str(self.app.screen.query_one(f"#{name}").render())

    def everything(self) -> str:
        """What is drawn of all panes, for who has to find out why a test failed."""
        panes = self.app.screen.query(Lines)
        return "\n".join(f"#{pane.id}\n{self.drawn(pane)}" for pane in panes)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def until(self, holds: Callable[[], object], timeout: float = 10) -> None:
        deadline = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < deadline, self.everything()
            await self.pilot.pause(0.01)

    async def sees(self, name: str, text: str) -> None:
        await self.until(lambda: text in self.pane(name))


@asynccontextmanager
async def opened(paths: Paths, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Terminal]:
    app = Watch(Observer(paths), 0.05, {})
    async with app.run_test(size=size, notifications=True) as pilot:
        terminal = Terminal(app, pilot)
        await terminal.until(lambda: terminal.pane("workers").count("\n") > 0)
        await terminal.until(lambda: "being read" not in terminal.pane("header"))
        yield terminal


def watched(
    paths: Paths, what: Callable[[Terminal], Coroutine[None, None, None]],
    size: tuple[int, int] = (80, 24),
) -> None:  # fmt: skip
    """Open the program on a swarm and do something with it."""

    async def main() -> None:
        async with opened(paths, size) as terminal:
            await what(terminal)

    asyncio.run(main())


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A running swarm of four: one trains, one waits for a person, two are gone."""
    story = Story(tmp_path / "a user's repo", policy="probable")
    with ExitStack() as held:
        for path in (story.paths.supervisor_lock, *map(story.paths.worker_lock, WORKERS[:2])):
            lock = ProcessLock(path)
            assert lock.try_acquire()
            held.callback(lock.release)
        beat = Heartbeat(7, "training", "e1 as t1", 0.0, "%3", "working", "")
        heartbeat.write(story.paths.heartbeat("cpu0"), beat)
        asks = "asks a person: Allow network access?"
        beat = Heartbeat(8, "thinking", asks, 0.0, "%4", "asks", asks)
        heartbeat.write(story.paths.heartbeat("cpu1"), beat)
        yield story


def begin_trial(story: Story, worker: str = "cpu0") -> str:
    """A trial that has come half the way; return its experiment."""
    experiment, trial = story.claim(worker), f"t{len(story.board.trials)}"
    story.tell(
        records.TrialStarted(
            trial=trial, experiment=experiment, worker=worker, device_class="CPU", seed=1
        )
    )
    folder = story.paths.trial(trial)
    folder.mkdir(parents=True)
    (folder / "run.log").write_text(f"device: CPU\n{STEP}")
    return experiment


def describe(story: Story, text: str, worker: str = "cpu0", val_bpb: float = 0.9) -> str:
    """An experiment with a description, and a real commit that sets LR to its number."""
    name, root = f"e{len(story.board.claims)}", story.paths.root
    source = toy.TRAIN.replace("LR = 0.04", f"LR = 0.{name[1:]}")
    (root / "train.py").write_text(source)
    toy.git(root, "commit", "--quiet", "-am", name)
    commit = toy.git(root, "rev-parse", "HEAD")
    story.tell(
        records.Claim(
            experiment=name, worker=worker, agent="x", parent="e0", commit=commit,
            fingerprint=name, seedless=name, description=text,
        )
    )  # fmt: skip
    story.trial(name, worker, val_bpb)
    return name


def test_the_panes_say_what_goes_on(story: Story) -> None:
    describe(story, "half the learning rate", "cpu1")
    story.experiment("cpu2", 1.3)
    running = begin_trial(story)
    story.spend("cpu1", 1.25, 3000)
    story.paths.worker_log("cpu0").write_text("one\n\x1b[32mtwo\x1b[0m\n")

    async def look(terminal: Terminal) -> None:
        await terminal.sees("log", "two")
        header = terminal.pane("header")
        assert header.startswith("race  running  3 experiments  duty ")
        assert "1.25 USD  3 k tokens" in header
        assert "incumbent e1 0.900000 n 1  best e0 1.000000 n 1  σ 0.010000 assumed" in header
        heading, first, second, third, *_ = terminal.pane("workers").splitlines()
        assert heading.split()[:6] == ["worker", "device", "agent", "state", "exp", "progress"]
        assert first.split()[:4] == ["cpu0", "CPU", "tuner", "training"]
        assert f" {running} ████░░░░  50% 3.2132  1.23M  4:19" in first
        assert second.split(maxsplit=3)[3].startswith("asks        asks a person: Allow netw")
        assert third.split(maxsplit=3)[3].startswith("thinking    is starting")
        board = terminal.pane("board").splitlines()
        assert board[1].startswith("*  e1     0.900000   +0.0  1 keep       cpu1   half the learni")
        assert board[2].startswith("+  e0     1.000000  +10.0  1 keep       -      baseline")
        assert board[3].startswith("   e2     1.300000  +40.0  1 discard    cpu2")
        assert board[4].startswith(f"   {running}            -      -  0 candidate  cpu0")
        assert "cpu0 pane" in terminal.pane("log")
        plot = terminal.pane("curve")
        assert "└e0" in plot and "val_bpb, 1 above" in plot and f"{running}" in plot
        assert any("⠀" < dot <= "⣿" for dot in plot)
        await terminal.press("l")
        await terminal.sees("log", "t3 of e3 on cpu0: experiment")
        await terminal.sees("log", "step 00041 (50.0 %)")
        await terminal.press("down", "l")
        await terminal.sees("log", "cpu1 pane: asks a person: Allow")

    watched(story.paths, look)


def test_what_is_appended_is_shown_and_the_choice_stays(story: Story) -> None:
    for score in (0.95, 0.96, 0.97):
        story.experiment("cpu2", score)

    async def look(terminal: Terminal) -> None:
        await terminal.sees("board", "e3")
        await terminal.press("tab", "down", "down")
        better = story.experiment("cpu3", 0.9)
        await terminal.sees("board", f"*  {better}")
        story.tell(records.Ended(state="finished", reason="all 4 experiments are used"))
        await terminal.sees("header", "finished")
        assert "all 4 experiments are used" in terminal.pane("header")
        assert "the swarm has finished" in terminal.pane("workers")
        await terminal.press("d")
        await terminal.until(lambda: "experiment e3" in terminal.page())
        await terminal.press("escape")
        story.paths.worker_log("cpu0").write_text("".join(f"line {i}\n" for i in range(50)))
        await terminal.sees("log", "line 49")
        await terminal.press("s")  # takes a line from the log
        await terminal.until(lambda: terminal.text("notice"))
        await terminal.sees("log", "line 49")
        story.paths.worker_log("cpu0").unlink()
        story.paths.worker_log("cpu0").mkdir()
        await terminal.until(lambda: "cpu0.log: Is a directory" in terminal.text("notice"))
        story.paths.worker_log("cpu0").rmdir()
        await terminal.until(lambda: "cpu0.log" not in terminal.text("notice"))

    watched(story.paths, look)


def test_the_leaderboard_is_filtered_searched_and_sorted(story: Story) -> None:
    describe(story, "depth 9", "cpu1", 0.97)
    describe(story, "Depth 10", "cpu2", 0.96)
    describe(story, "momentum", "cpu1", 0.98)

    def rows(terminal: Terminal) -> list[str]:
        return re.findall(r"^[*+ ]{3}(e\d+)", terminal.pane("board"), flags=re.M)

    async def look(terminal: Terminal) -> None:
        await terminal.until(lambda: rows(terminal) == ["e2", "e1", "e3", "e0"])
        assert not terminal.app.screen.query_one("#notice").display
        await terminal.press("s")
        await terminal.until(lambda: rows(terminal) == ["e3", "e2", "e1", "e0"])
        await terminal.until(lambda: terminal.text("notice") == "experiments newest first: 4")
        await terminal.press("s", "slash", *"depth")
        await terminal.until(lambda: rows(terminal) == ["e2", "e1"])
        assert terminal.text("notice") == "experiments with “depth”: 2"
        await terminal.press("enter", "f")  # of cpu0, the chosen worker
        await terminal.until(lambda: rows(terminal) == [])
        await terminal.press("shift+tab", "down")
        await terminal.until(lambda: rows(terminal) == ["e1"])
        assert terminal.text("notice") == "experiments only cpu1, with “depth”: 1"
        await terminal.press("escape")
        await terminal.until(lambda: len(rows(terminal)) == 4)
        assert not terminal.app.screen.query_one("#notice").display

    watched(story.paths, look)


def test_an_experiment_is_shown_with_its_reason_and_diff(story: Story) -> None:
    describe(story, "a rate", "cpu1", 0.9)
    running = begin_trial(story)

    async def look(terminal: Terminal) -> None:
        await terminal.press("d")
        await terminal.until(lambda: "experiment e1" in terminal.page())
        page = terminal.page()
        assert "e1  keep  a rate" in page and "\nwhy      " in page and "P(better)" in page
        assert "-LR = 0.04" in page and "+LR = 0.1" in page
        pieces = [piece for line in terminal.app.screen.query_one(Lines).lines for piece in line]
        assert ("+LR = 0.1  # learning rate [0.001, 1.0]", "green") in pieces
        await terminal.press("d")
        await terminal.until(lambda: terminal.app.screen.query("#board"))
        await terminal.press("tab", "enter")
        await terminal.until(lambda: "experiment e1" in terminal.page())
        await terminal.press("q", "shift+tab", "enter")  # what the chosen worker trains
        await terminal.until(lambda: f"experiment {running}" in terminal.page())
        assert "git diff: fatal" in terminal.page(), "its commit was made up"
        await terminal.press("q", "question_mark")
        await terminal.until(lambda: "attach to the pane" in terminal.page())

    watched(story.paths, look)


def controls(paths: Paths) -> list[tuple[str, tuple[str, ...]]]:
    lines = Journal(paths.journal).read(Cursor())
    return [(line.action, line.workers) for line in lines if isinstance(line, records.Control)]


def test_pausing_is_the_one_thing_it_writes(story: Story) -> None:
    begin_trial(story)
    size = story.paths.journal.stat().st_size

    async def look(terminal: Terminal) -> None:
        await terminal.press("down", "f", "f", "s", "l", "tab", "z", "z", "shift+tab", "up")
        await terminal.sees("workers", "cpu0")
        assert story.paths.journal.stat().st_size == size
        await terminal.press("p")
        await terminal.sees("workers", "training‖")
        assert controls(story.paths) == [("pause", ("cpu0",))]
        await terminal.press("p")
        await terminal.until(lambda: "training‖" not in terminal.pane("workers"))
        assert controls(story.paths)[1:] == [("resume", ("cpu0",))]
        story.tell(records.Ended(state="stopped", reason="by swarm stop"))
        await terminal.press("p")
        await terminal.until(lambda: said(terminal, "swarm 'race' has stopped"))
        assert len(controls(story.paths)) == 2
        await terminal.press("a")
        await terminal.until(lambda: said(terminal, "there is no pane to attach to"))

    watched(story.paths, look)


def said(terminal: Terminal, text: str) -> bool:
    return any(text in notice.message for notice in terminal.app._notifications)


def test_sixty_four_workers_scroll(tmp_path: Path) -> None:
    paths = nights.tell(tmp_path / "a user's night", 300, workers=64)

    async def look(terminal: Terminal) -> None:
        await terminal.sees("workers", "gpu0 ")
        shown = len(terminal.pane("workers").splitlines())
        assert 9 <= shown <= 10 and len(terminal.pane("board").splitlines()) >= 6
        await terminal.press("end")
        await terminal.sees("workers", "gpu63")
        assert "gpu0 " not in terminal.pane("workers")
        await terminal.sees("log", "gpu63 pane")
        await terminal.press("tab", "pagedown", "pagedown", "home", "end")
        await terminal.press("s")
        await terminal.until(lambda: "newest first: 200 of 7" in terminal.text("notice"))
        await terminal.sees("workers", "gpu63")  # though there is a line less for them now

    watched(paths, look)


def test_text_of_agents_is_text(story: Story) -> None:
    describe(story, HOSTILE, "cpu1", 0.9)
    describe(story, "one\nline\r\x1b[31m", "cpu1", 0.99)
    story.paths.worker_log("cpu0").write_text("\x1b[31m[red]log[/red]\x1b[0m \x00\x1b[2J 日本\n")
    joined = story.board.workers["cpu0"].joined
    story.tell(msgspec.structs.replace(joined, agent="[blink]agent"))

    async def look(terminal: Terminal) -> None:
        await terminal.sees("board", "[bold red]x[/] [link=file")
        assert terminal.pane("board").splitlines()[1].endswith("…")
        await terminal.sees("log", "[red]log[/red] \\x00 日本")
        assert "one\\x0aline\\x0d\\x1b[31m" in terminal.pane("board")
        assert "[blink]ag…" in terminal.pane("workers")
        for pane in ("board", "log", "workers"):
            assert "\x1b" not in terminal.pane(pane)
            assert {cell_len(line) for line in terminal.pane(pane).splitlines()} <= {80, 45}
        await terminal.press("tab", *["right"] * 6)
        await terminal.sees("board", "日本語ww")
        await terminal.press("slash", *"[bold red]")
        await terminal.until(lambda: "“[bold red]”: 1" in terminal.text("notice"))
        await terminal.press("enter", "d")
        await terminal.until(lambda: "[link=file:///]y[/] \\x1b[2J" in terminal.page())

    watched(story.paths, look)


def test_a_damaged_journal_is_told_and_followed_again(story: Story) -> None:
    journal = story.paths.journal
    whole = journal.read_bytes()
    seq = whole.count(b"\n") + 1
    line = msgspec.json.encode(records.Note(worker="cpu0", text="x", seq=seq, time=nights.BEGAN))

    async def look(terminal: Terminal) -> None:
        def told(text: str) -> Callable[[], bool]:
            return lambda: text in " ".join(terminal.text("notice").split())

        journal.write_bytes(whole + line.replace(b'"note"', b'"no!e"') + b"\n")
        await terminal.until(told("is damaged"))
        assert "race  running" in terminal.pane("header"), "what was known is still shown"
        journal.write_bytes(whole + line + b"\n")
        await terminal.until(lambda: not terminal.text("notice"))
        journal.write_bytes(whole[: whole.rfind(b"\n", 0, -1) + 1])
        await terminal.until(told("is shorter than when it was last read"))
        journal.unlink()
        await terminal.until(told("cannot read"))
        await terminal.press("p")
        await terminal.until(lambda: said(terminal, "journal.jsonl: No such file"))
        journal.write_bytes(whole)
        await terminal.until(lambda: not terminal.text("notice"))
        new = records.Reconfigured(config=story.board.config, workers=("cpu0", "cpu9"))
        story.tell(new)
        await terminal.until(told("is being laid out"))
        story.tell(msgspec.structs.replace(story.board.workers["cpu0"].joined, worker="cpu9"))
        await terminal.sees("workers", "cpu9")
        assert "cpu1" not in terminal.pane("workers"), "it is gone"

    watched(story.paths, look)


def test_each_device_class_has_its_own_board(story: Story) -> None:
    joined = story.board.workers["cpu3"].joined
    story.tell(msgspec.structs.replace(joined, device_class="another"))
    other = story.claim("cpu3")

    async def look(terminal: Terminal) -> None:
        await terminal.until(lambda: terminal.text("notice") == "experiments on CPU: 1")
        await terminal.press("c")
        await terminal.sees("board", other)
        await terminal.until(lambda: terminal.text("notice") == "experiments on another: 2")

    watched(story.paths, look)


def test_it_fits_the_terminal_or_says_what_it_needs(story: Story) -> None:
    story.experiment("cpu1", 0.9)

    async def look(terminal: Terminal) -> None:
        small = terminal.app.screen.query_one("#small")
        await terminal.pilot.resize_terminal(50, 24)
        await terminal.until(lambda: small.display)
        await terminal.pilot.resize_terminal(80, 10)
        await terminal.until(lambda: small.display)
        await terminal.pilot.resize_terminal(140, 40)
        beside, board = (terminal.app.screen.query_one(f"#{n}") for n in ("curve", "board"))
        await terminal.until(lambda: not small.display and beside.region.x == board.region.right)
        assert board.region.width >= 80 and beside.region.y == 2
        await terminal.until(lambda: terminal.pane("curve").count("\n") > 12)
        height = board.size.height
        await terminal.press("tab", "z")
        await terminal.until(lambda: board.size.height == 39 and board.size.width == 140)
        await terminal.press("z")
        await terminal.until(lambda: board.size.height == height)

    watched(story.paths, look)


def test_only_lines_that_changed_are_drawn_again() -> None:
    drawn: list[int] = []

    class Counting(Lines):
        def render_line(self, y: int):  # type: ignore[no-untyped-def]
            drawn.append(y)
            return super().render_line(y)

    class Small(App[None]):
        def compose(self) -> ComposeResult:
            yield Counting((("heading", ""),))

    async def main() -> None:
        app = Small()
        async with app.run_test(size=(40, 20)) as pilot:
            lines = app.query_one(Counting)
            text = [((f"line {i}", ""),) for i in range(12)]
            lines.show(text)
            await pilot.pause()
            drawn.clear()
            lines.show(text)
            await pilot.pause()
            assert drawn == []
            text[4] = (("changed", "green"),)
            lines.show(text)
            await pilot.pause()
            assert drawn == [5]

    asyncio.run(main())


@given(st.text(max_size=30), st.integers(2, 12))
def test_cells_have_the_width_they_are_given(text: str, width: int) -> None:
    assert cell_len(cells.fitted(text, width)) == width
    assert cells.fitted("日本語", 4) == "日 …"


points = st.lists(
    st.builds(curve.Point, st.integers(0, 50), st.floats(-1e6, 1e6)), max_size=12
).map(tuple)


@given(points, points, points, st.integers(0, 70), st.integers(0, 20))
def test_any_progress_can_be_plotted(tried, kept, line, width, height) -> None:  # type: ignore[no-untyped-def]
    found = curve.Progress(tried, kept, line, 50)
    for drawn in curve.plot(found, width, height):
        assert len(cells.plain([drawn])) <= max(width, 23)


def test_the_line_of_the_curve_steps_down_with_what_was_kept() -> None:
    line = (curve.Point(0, 1.0), curve.Point(5, 0.5))
    found = curve.Progress((curve.Point(3, 0.9), curve.Point(7, 9.0)), line, line, 10)
    rows = cells.plain(curve.plot(found, 31, 6)).splitlines()
    assert rows[0].startswith("  0.9900│") or rows[0].split("│")[0].strip() == "0.9900"
    assert len(rows) == 6 and "1 above" in rows[-1] and rows[-1].endswith("e10")
    upper, lower = rows[0].split("│")[1].rstrip(), rows[4].split("│")[1]
    assert len(upper) < len(lower.rstrip()), "it starts on the left at the top"
    assert lower.startswith(" " * 10), "and ends on the right at the bottom"


def test_without_a_terminal_it_says_what_to_use(story: Story, environment: dict[str, str]) -> None:
    done = toy.swarm(story.paths.root, "watch", environment=environment)
    assert done.returncode == 3
    assert done.stderr == ("error: swarm watch needs a terminal\nhint: swarm status --tag race\n")
    assert done.stdout == ""


class Screen:
    """A pane of 80 × 24 characters in a tmux of its own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self._base = ["tmux", "-S", f"{environment['TMUX_TMPDIR']}/screen", "-f", os.devnull]

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._base, *arguments], env=self.environment, cwd=self.folder,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def start(self, command: str) -> None:
        self.tmux("new-session", "-d", "-x", "80", "-y", "24", f"{command}; echo left $?; exec cat")

    def text(self, *more: str) -> str:
        return self.tmux("capture-pane", "-p", *more)

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def shows(self, *texts: str) -> str:
        try:
            wait_for(lambda: all(text in self.text() for text in texts), every=0.1, timeout=20)
        except AssertionError as error:
            raise AssertionError(f"not all of {texts} in\n{self.text()}") from error
        return self.text()


def test_a_live_swarm_in_a_real_terminal(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    slow = (repository / "train.py").read_text().replace("WAIT = 0.0", "WAIT = 0.6")
    (repository / "train.py").write_text(slow)
    toy.git(repository, "commit", "--quiet", "-am", "slow")
    run("spawn", "--agents", "2", "--devices", "cpu", "--oversubscribe", "--seconds", "1",
        "--tag", "t1")  # fmt: skip
    screen = Screen(environment | {"NO_COLOR": "1"}, repository)
    screen.start(f"{shlex.quote(sys.executable)} -P -m swarm.cli watch --every 0.2")
    text = screen.shows("t1  running", "cpu1", "e0  ", "incumbent e", "q quit")
    lines = text.splitlines()
    assert len(lines) == 24 and max(map(len, lines)) <= 80
    assert lines[2].startswith("worker device") and lines[3].startswith("cpu0  ")
    assert lines[-1].startswith("a attach p pause d diff f filter / search s sort l log z zoom")
    colours = screen.text("-e")
    assert "\x1b[1" in colours and "\x1b[3" not in colours.replace("\x1b[39m", "")
    screen.press("a")
    screen.shows("trying", "[swarm-t1")  # the panes of the swarm, with tmux's status line
    screen.press("C-b", "d")
    screen.shows("t1  running", "worker device")
    screen.press("p")
    wait_for(lambda: controls(Paths(repository, "t1")))
    screen.shows("paused")
    screen.press("q")
    screen.shows("left 0")


def test_the_noise_beside_the_incumbent_is_that_of_its_device_class(story: Story) -> None:
    joined, config = story.board.workers["cpu0"].joined, story.board.config
    assert config
    story.tell(
        records.Reconfigured(config=config, workers=("cpu0",)),
        msgspec.structs.replace(joined, device_class="CPU/longer"),
    )
    status = Observer(story.paths).look(Query()).status
    for known, sd in zip(status["device_classes"], (0.001, 0.002), strict=True):
        known["noise"]["sd"] = sd
    assert [known["name"] for known in status["device_classes"]] == ["CPU", "CPU/longer"]
    assert "σ 0.002000" in cells.plain(cells.swarm(status))
