"""CLIs watched on their screens: decisions from sights alone, and stand-ins in a real tmux."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
from conftest import wait_for
from fake_clis import Habits, events, install
from hypothesis import given
from hypothesis import strategies as st

from swarm.agents import clis
from swarm.agents.mind import NUDGE_AFTER_SECONDS, Act, Finding, Mind
from swarm.agents.screens import Sight
from swarm.agents.watching import ScreenWatch
from swarm.terminal import Terminal
from swarm.tmux import TmuxPanes

CLOCK = datetime(2026, 10, 7, 22, 30, tzinfo=UTC)
CLIS = clis.load()
EMPTY = Sight("prompt", draft="", took=True)
BUSY = Sight("busy", "Pondering", draft="", took=True)

# ---- decisions ----------------------------------------------------------------------------------


@dataclass
class Film:
    """Sights shown to a mind, a look every quarter of a second."""

    mind: Mind
    now: float = 0.0
    acts: list[tuple[float, Act]] = field(default_factory=list)
    finding: Finding = field(default_factory=lambda: Finding("starting"))

    def show(self, sight: Sight, seconds: float = 0.25, waits: bool = True) -> list[Act]:
        """Show one sight for a while, a full second a look when it is long; return the acts."""
        before, end = len(self.acts), self.now + seconds
        while self.now < end:
            clock = CLOCK + timedelta(seconds=self.now)
            self.finding, act = self.mind.decide(sight, self.now, waits, clock)
            if act:
                self.mind.did(act, self.now)
                self.acts.append((self.now, act))
            self.now += 1.0 if seconds > 30 else 0.25
        return [act for _, act in self.acts[before:]]

    def first(self, sight: Sight, seconds: float) -> Act | None:
        """Show it until there is an act, or for so long."""
        end = self.now + seconds
        while self.now < end:
            if acts := self.show(sight):
                return acts[0]
        return None


@pytest.fixture
def film() -> Film:
    """One whose CLI has its prompt and works."""
    mind = Mind("the prompt", False, 0.0)
    film = Film(mind)
    film.show(BUSY)
    return film


def test_a_prompt_is_pasted_once_the_box_stays_empty() -> None:
    film = Film(Mind("the prompt", True, 0.0))
    assert film.show(Sight("starting"), 5) == []
    assert film.show(EMPTY) == []
    pasted = film.show(EMPTY)
    assert [(act.kind, act.text) for act in pasted] == [("paste", "the prompt")]
    drafted = Sight("drafted", draft="the prompt")
    assert [act.keys for act in film.show(drafted, 0.5)] == [("Enter",)]
    assert film.show(BUSY, 50) == []
    assert film.finding == Finding("working", "Pondering")


def test_a_server_that_fails_is_named(film: Film) -> None:
    film.show(replace(BUSY, trouble="Retrying in 7s"))
    assert film.finding == Finding("working", "Pondering", trouble="Retrying in 7s")
    film.show(replace(EMPTY, trouble="API Error: 529"), 10)
    assert film.finding.state == "prompt"
    assert film.finding.reason == "sits at its prompt: API Error: 529"


def test_a_prompt_from_the_command_line_is_not_pasted_too() -> None:
    film = Film(Mind("the prompt", False, 0.0))
    untaken = Sight("prompt", draft="")
    assert film.show(untaken, 3.5) == []
    assert film.show(replace(EMPTY, above="the prompt"), 19) == [], (
        "the screen shows that it was taken"
    )
    film = Film(Mind("the prompt", False, 0.0))
    assert [act.text for act in film.show(untaken, 4.5)] == ["the prompt"], "it was lost"


def test_a_swallowed_enter_is_pressed_again_but_not_for_ever() -> None:
    film = Film(Mind("the prompt", True, 0.0))
    film.show(EMPTY, 0.5)
    pressed = film.show(Sight("drafted", draft="the prompt"), 10)
    assert [act.keys for act in pressed] == [("Enter",)] * 4
    assert film.finding.hopeless
    assert film.finding.reason == "takes no Enter"


def test_a_lost_paste_is_pasted_again_but_not_for_ever() -> None:
    film = Film(Mind("the prompt", True, 0.0))
    pasted = film.show(EMPTY, 20)
    assert [act.kind for act in pasted] == ["paste"] * 3
    assert film.finding.hopeless


def test_a_dialog_is_answered_key_by_key_and_again_where_it_stays() -> None:
    film = Film(Mind("the prompt", True, 0.0))
    down = Sight("dialog", "Bypass?", ("Down",))
    enter = Sight("dialog", "Bypass?", ("Enter",))
    assert [act.keys for act in film.show(down, 0.5)] == [("Down",)]
    assert [act.keys for act in film.show(enter, 0.5)] == [("Enter",)]
    assert film.show(enter, 2.0) == [], "it may only be slow"
    assert [act.keys for act in film.show(enter, 6.0)] == [("Enter",), ("Enter",)]
    assert film.finding == Finding("dialog", "Bypass?")
    film.show(enter, 50)
    assert film.finding == Finding("asks", "waits for a person: Bypass?")
    assert len(film.acts) == 12
    assert [act.keys for act in film.show(Sight("dialog", "Trust?", ("Enter",)))] == [("Enter",)]


def test_an_idle_prompt_is_nudged_with_backoff_until_it_is_hopeless(film: Film) -> None:
    for _ in range(2000):
        film.show(EMPTY, 1.0)
        if film.mind.sending:
            film.show(Sight("drafted", draft="go on"), 0.5)
            film.show(BUSY, 3.0)
        if film.finding.hopeless:
            break
    nudges = [now for now, act in film.acts if act.kind == "paste"]
    assert all(act.text is None for _, act in film.acts if act.kind == "paste")
    waits = [b - a for a, b in zip([0.0, *nudges], [*nudges, film.now], strict=True)]
    for waited, least in zip(waits, (*NUDGE_AFTER_SECONDS, NUDGE_AFTER_SECONDS[-1]), strict=True):
        assert least <= waited <= least + 25
    assert film.finding.reason == "5 nudges had no effect"


def test_a_nudge_that_led_to_something_counts_no_more(film: Film) -> None:
    for _ in range(7):
        assert [act.kind for act in film.show(EMPTY, 21)] == ["paste"]
        film.show(Sight("drafted", draft="go on"), 0.5)
        film.show(BUSY, 5, waits=False)
    assert not film.finding.hopeless


def test_nobody_is_nudged_while_something_trains_or_the_screen_moves(film: Film) -> None:
    assert film.show(EMPTY, 1000, waits=False) == []
    assert film.finding == Finding("prompt", "sits at its prompt")
    assert [act.kind for act in film.show(EMPTY, 3)] == ["paste"], "it has sat there long enough"
    film = Film(film.mind, film.now)
    film.show(Sight("drafted", draft="x"), 1)
    for number in range(60):
        assert film.show(replace(EMPTY, above=f"output {number}"), 10) == []


def test_a_spinner_that_stands_still_is_no_work(film: Film) -> None:
    assert film.show(BUSY, 59) == []
    act = film.first(BUSY, 5)
    assert act is not None
    assert act.why == "nudged, 1 of 5"


def test_a_persons_draft_is_left_alone(film: Film) -> None:
    assert film.show(Sight("drafted", draft="my own thought"), 500) == []
    assert film.finding == Finding("prompt", "has unsent text: my own thought")
    assert film.mind.holds_draft(film.now)
    film.show(Sight("drafted", draft="my own thought"), 3200)
    assert film.finding.hopeless
    assert not film.mind.holds_draft(film.now), "somebody went away"
    film.show(replace(BUSY, draft="another"))
    assert film.mind.holds_draft(film.now), "also while it works"
    film.show(replace(BUSY, draft="the prompt"))
    assert not film.mind.holds_draft(film.now), "that is ours"


def test_a_prompt_that_stands_unsent_is_sent() -> None:
    film = Film(Mind("the prompt, which is long", False, 0.0))
    assert film.show(Sight("drafted", draft="the"), 5) == [], "somebody may have typed that"
    film.show(Sight("drafted", draft="the prompt, which is l"), 1.0)
    assert [act.keys for _, act in film.acts] == [("Enter",)]
    film.show(BUSY, 1)
    film.mind.did(Act("enter", "", ("Enter",)), film.now, "news")
    assert film.first(Sight("drafted", draft="news"), 2) is not None, "also when it was the news"


def test_who_needs_a_person_says_so_and_is_started_again_at_last(film: Film) -> None:
    for kind, reason in (("login", "a person must log it in"), ("asks", "waits for a person")):
        sight = Sight(kind, "Do you want to?")  # type: ignore[arg-type]
        assert film.show(sight, 0.5) == []
        assert film.finding.state == "working", "it may be gone at the next look"
        film.show(sight, 500)
        assert film.finding == Finding(kind, f"{reason}: Do you want to?")  # type: ignore[arg-type]
        film.show(sight, 200)
        assert film.finding.hopeless


def test_a_usage_limit_is_waited_for_and_then_tried(film: Film) -> None:
    limit = Sight("limit", "You've hit your limit · resets 11pm", draft="", reset="11pm", took=True)
    assert film.show(limit, 1700) == []
    assert film.finding == Finding("limit", limit.line, datetime(2026, 10, 7, 23, tzinfo=UTC))
    assert not film.finding.hopeless
    act = film.first(limit, 120)
    assert act is not None
    assert act.why == "tried again after the usage limit"
    film.show(Sight("drafted", draft="go on"), 0.5)
    film.show(BUSY, 1)
    assert film.show(limit, 200) == [], "not at once again, and not tomorrow at eleven"
    assert film.finding.until is not None
    assert film.finding.until - CLOCK < timedelta(minutes=40)
    assert film.first(limit, 200) is not None


def test_a_limit_without_a_time_is_tried_after_half_an_hour(film: Film) -> None:
    limit = Sight("limit", "Credit balance is too low", draft="", took=True)
    film.show(limit)
    assert film.finding.until == CLOCK + timedelta(minutes=30, seconds=0.25)
    assert film.show(replace(limit, draft="mine"), 3000) == []
    film.show(replace(limit, draft=None))
    assert film.finding.hopeless


def test_a_start_that_leads_nowhere_is_hopeless() -> None:
    film = Film(Mind("the prompt", True, 0.0))
    film.show(Sight("unknown", "Loading"), 170)
    assert film.finding == Finding("starting", "Loading")
    film.show(Sight("unknown", "Loading"), 31)
    assert film.finding.hopeless


LINES = st.sampled_from(["a", "b"])
SIGHTS = st.one_of(
    st.builds(Sight, st.sampled_from(["starting", "unknown", "asks", "login"]), LINES),
    st.builds(Sight, st.just("dialog"), LINES, st.sampled_from([("Enter",), ("Down",)])),
    st.builds(Sight, st.just("busy"), LINES, draft=st.sampled_from(["", "x", "the prompt"])),
    st.builds(Sight, st.just("drafted"), draft=st.sampled_from(["x", "the prompt"])),
    st.builds(Sight, st.just("prompt"), draft=st.just(""), took=st.booleans()),
    st.builds(Sight, st.just("limit"), LINES, draft=st.sampled_from([None, "", "x"])),
)


@given(
    is_pasted=st.booleans(),
    scenes=st.lists(st.tuples(SIGHTS, st.sampled_from([0.25, 1.0, 20.0, 700.0]), st.booleans())),
)
def test_whatever_is_seen_it_types_only_where_that_is_right(
    is_pasted: bool, scenes: list[tuple[Sight, float, bool]]
) -> None:
    film = Film(Mind("the prompt", is_pasted, 0.0))
    for sight, seconds, waits in scenes:
        for act in film.show(sight, seconds, waits):
            if act.kind == "answer":
                assert act.keys == sight.keys
                assert sight.kind == "dialog"
            elif act.kind == "paste":
                assert sight.draft in ("", None)
                assert sight.kind not in ("dialog", "asks", "login")
            else:
                assert sight.draft, "Enter is for what stands in the box"
                assert film.mind.sending is None or film.mind.sending.enters <= 4


# ---- stand-ins in a real tmux -------------------------------------------------------------------

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux here")
PROMPT = "Read program.md and do what it says.\nNobody will tell you to stop."


@dataclass
class Watched:
    """A stand-in in its pane with its watch."""

    terminal: Terminal
    watch: ScreenWatch
    log: Path
    record: Path
    waits: bool = True
    ahead: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def look(self) -> Finding:
        found = self.watch.look(time.monotonic() + self.ahead, self.log.stat().st_size, self.waits)
        self.findings.append(found)
        return found

    def until(self, what: Callable[[Finding], object]) -> Finding:
        wait_for(lambda: what(self.look()), timeout=20)
        return self.findings[-1]

    def until_event(self, event: str, count: int = 1) -> dict[str, Any]:
        """Look until that event came `count` times."""
        self.until(lambda _: len(self.events(event)) >= count)
        return self.events(event)[count - 1]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [found for found in events(self.record) if found["event"] == event]

    @property
    def done(self) -> list[str]:
        return [found.nudged for found in self.findings if found.nudged]


Start = Callable[..., Watched]


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Start]:
    """`start(habits, name="codex", pasted=False)`: a stand-in in a pane of its own."""
    panes = TmuxPanes("w", tmp_path, environment)
    count = 0

    def begin(habits: Habits, name: str = "claude", pasted: bool = True) -> Watched:
        nonlocal count
        count += 1
        tree = tmp_path / f"tree {count}"
        tree.mkdir()
        record, log = tmp_path / f"record {count}", tmp_path / f"log {count}"
        habits = replace(habits, drawn_like=name, record=str(record))  # type: ignore[arg-type]
        program = install(tmp_path / f"bin {count}", name, habits)
        cli = CLIS[name]
        if pasted:
            cli = msgspec.structs.replace(cli, terminal=("{options}",))
        argv = [str(program), *cli.argv(PROMPT, "", True, False, tree)[1:]]
        now = time.monotonic()
        pane = panes.start(f"cpu{count}", argv, environment, tree, log)
        terminal = Terminal(str(panes.socket), pane or "", environment)
        watch = ScreenWatch(
            cli, terminal, PROMPT, lambda: "Go on with the next one.", lambda: CLOCK, now
        )
        wait_for(log.exists)
        return Watched(terminal, watch, log, record)

    yield begin
    panes.close()


@needs_tmux
@pytest.mark.parametrize("name", ["claude", "codex"])
@pytest.mark.parametrize("pasted", [True, False])
@pytest.mark.parametrize("dialogs", [(), ("trust",), ("trust", "bypass")])
def test_it_comes_to_work(start: Start, name: str, pasted: bool, dialogs: Any) -> None:
    if name == "codex" and "bypass" in dialogs:
        dialogs = ("trust",)
    watched = start(Habits(dialogs=dialogs), name, pasted)
    watched.until_event("busy")
    watched.until(lambda found: found.state == "working" and found.reason)
    assert [event["text"] for event in watched.events("answered")] == list(dialogs)
    assert [event["text"].split() for event in watched.events("got")] == [PROMPT.split()]


@needs_tmux
@pytest.mark.parametrize(
    "habits",
    [
        Habits(starts_in=1.5),
        Habits(swallows_enters=1),
        Habits(loses_pastes=1),
        Habits(escapes=True, dialogs=("trust", "bypass")),
    ],
)
def test_it_comes_to_work_all_the_same(start: Start, habits: Habits) -> None:
    watched = start(habits)
    watched.until_event("busy")
    assert len(watched.events("got")) == 1
    assert ("pressed Enter again" in watched.done) == bool(habits.swallows_enters)
    assert ("pasted it again" in watched.done) == bool(habits.loses_pastes)


@needs_tmux
def test_a_prompt_that_was_lost_on_the_command_line_is_pasted(start: Start) -> None:
    watched = start(Habits(drops_argument=True), pasted=False)
    watched.until_event("ready")
    watched.until(lambda found: found.state == "starting" and found.reason)
    watched.ahead = 10
    assert watched.until_event("got")["text"].split() == PROMPT.split()


@needs_tmux
def test_eight_at_once_work_soon_after_they_are_ready(start: Start) -> None:
    every = [
        Habits(dialogs=dialogs, starts_in=starts_in)
        for dialogs in ((), ("trust",), ("trust", "bypass"), ("bypass",))
        for starts_in in (0.0, 0.4)
    ]
    all_watched = [start(habits) for habits in every]

    def all_work() -> bool:
        for watched in all_watched:
            watched.look()
        return all(watched.events("busy") for watched in all_watched)

    wait_for(all_work, timeout=60, every=0.1)
    took = [w.events("busy")[0]["time"] - w.events("ready")[0]["time"] for w in all_watched]
    sys.stdout.write(f"seconds from ready to busy: {[round(seconds, 2) for seconds in took]}\n")
    assert max(took) < 6


@needs_tmux
def test_one_that_sits_at_its_prompt_is_nudged(start: Start) -> None:
    watched = start(Habits(works="idle"))
    watched.until_event("idle")
    watched.until(lambda found: found.state == "prompt")
    assert len(watched.events("got")) == 1
    watched.waits = False
    watched.ahead = 30
    watched.until(lambda found: found.reason == "sits at its prompt")
    watched.waits = True
    watched.look()
    watched.ahead = 60
    assert watched.until_event("got", 2)["text"] == "Go on with the next one."
    assert "nudged, 1 of 5" in watched.done
    watched.until_event("idle", 2)


@needs_tmux
def test_a_usage_limit_is_reported_with_its_end(start: Start) -> None:
    watched = start(Habits(limited=1, resets="3am (UTC)"))
    found = watched.until(lambda found: found.state == "limit")
    assert found.until == datetime(2026, 10, 8, 3, tzinfo=UTC)
    assert found.reason == "You've hit your session limit · resets 3am (UTC)"


@needs_tmux
def test_who_is_not_logged_in_is_reported(start: Start) -> None:
    watched = start(Habits(logged_in=False), "codex")
    found = watched.until(lambda found: found.state == "login")
    assert found.reason == "a person must log it in: unexpected status 401 Unauthorized"


@needs_tmux
def test_what_a_person_types_is_neither_sent_nor_added_to(start: Start) -> None:
    watched = start(Habits(works="idle"))
    watched.until_event("idle")
    watched.terminal.press("m", "i", "n", "e")
    watched.until(lambda found: found.reason == "has unsent text: mine")
    watched.ahead = 300
    for _ in range(5):
        watched.look()
    assert len(watched.events("got")) == 1


@needs_tmux
def test_one_that_died_at_once_leaves_its_words(start: Start) -> None:
    watched = start(Habits(dies=True))
    found = watched.until(lambda found: "no such option" in found.reason)
    assert found.state == "starting"
    assert watched.done == []


@needs_tmux
def test_one_that_ends_after_an_experiment_is_left_to_end(start: Start) -> None:
    watched = start(Habits(works="once"))
    watched.until_event("idle")
    for _ in range(5):
        watched.look()
    assert len(watched.events("got")) == 1
