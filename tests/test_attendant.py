"""The attendant of an agent, on a real worktree with real processes and a clock of our own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psutil
import pytest
import toy_swarm
from conftest import wait_for
from test_terminal import attached
from toy_swarm import Story

from swarm import agents, records, strays
from swarm.agents import clis
from swarm.agents.kinds import Foreign
from swarm.agents.mind import Finding
from swarm.agents.parking import COOLING
from swarm.attendant import STALLED, Attendant
from swarm.config import Desk
from swarm.experiment import Bench
from swarm.journal import Cursor
from swarm.mailbox import Mailbox, Saying
from swarm.terminal import Terminal
from swarm.tmux import TmuxPanes
from swarm.workers import PATIENCE


class Care:
    """An attendant with its clock, which is turned by hand."""

    def __init__(self, story: Story, command: str) -> None:
        self.story, self.now = story, 1000.0
        folder = story.paths.worktree("cpu0")
        Mailbox(folder).create(Desk(str(story.paths.root), story.paths.tag, "cpu0"))
        self.bench: Bench = toy_swarm.bench_of(story.paths, "cpu0")
        agent = agents.build(f"cmd:{command}", dict(os.environ))
        self.attendant = Attendant(self.bench, agent, lambda: self.now)

    def tend(self, seconds: float = 0.0, over: bool = False) -> str:
        """A round, so much later; return what it does now, in a word."""
        self.now += seconds
        self.bench.board.refresh()
        self.attendant.tend(over)
        return self.attendant.doing()[0]

    def until(self, state: str) -> None:
        """Let minutes pass until it is in this state."""
        wait_for(lambda: self.tend(31.0) == state, every=0.01)

    def events(self) -> list[records.AgentEvent]:
        lines = self.bench.journal.read(Cursor())
        return [line for line in lines if isinstance(line, records.AgentEvent)]

    def starts(self) -> int:
        return [event.state for event in self.events()].count("started")


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path / "a repo")


def test_one_that_never_did_anything_is_parked_for_good(story: Story) -> None:
    care = Care(story, "echo no such model >&2; exit 3")
    care.until("parked")
    worker = care.bench.board.workers["cpu0"]
    assert worker.parked_until is None
    assert "the agent exited 6 times" in (worker.parked or "")
    assert care.starts() == 6
    for _ in range(3):
        assert care.tend(99_999.0) == "parked"
    story.tell(records.Control(action="resume"))
    assert care.tend() in ("working", "starting")
    assert care.starts() == 7
    care.attendant.end()


def test_one_that_worked_before_is_tried_again_after_ever_longer_pauses(story: Story) -> None:
    story.experiment("cpu0", 0.9)
    care = Care(story, "exit 1")
    for pause in COOLING:
        care.until("parked")
        event = care.events()[-1]
        assert event.until is not None
        assert (event.until - event.time).total_seconds() == pytest.approx(pause, abs=5)
        assert care.attendant.doing()[1].startswith(f"until {event.until:%H:%M} UTC: ")
        assert care.tend(9999.0) == "parked"
        now = datetime.now(UTC)  # as if that time had passed
        story.tell(records.AgentEvent(worker="cpu0", state="parked", reason="x", until=now))
        assert care.tend() != "parked"
    care.until("parked")
    assert care.bench.board.workers["cpu0"].parked_until is None


def test_what_an_agent_leaves_behind_does_not_work_beside_the_next(story: Story) -> None:
    care = Care(story, "sleep 999 & echo $! >> pids; kill -9 $$")
    folder = story.paths.worktree("cpu0")
    try:
        wait_for(lambda: care.tend(1.0) and care.starts() == 2)
        left = int((folder / "pids").read_text().split()[0])
        assert not psutil.pid_exists(left) or psutil.Process(left).status() == "zombie"
    finally:
        care.attendant.end()
        strays.kill_agent(folder)


def test_progress_makes_failures_forgotten(story: Story) -> None:
    care = Care(story, "exit 1")
    for _ in range(40):
        care.tend(31.0)
        care.attendant.made_progress()
    assert care.bench.board.workers["cpu0"].parked is None


def test_what_an_agent_says_of_itself_is_shown(story: Story) -> None:
    care = Care(story, "sleep 999")
    assert care.tend() == "working"
    pid = care.attendant.pid
    assert pid is not None
    mailbox = care.attendant.mailbox
    mailbox.say(Saying(pid, "waiting", "slow down; asks again soon", None))
    assert care.attendant.doing() == ("waiting", "the agent waits: slow down; asks again soon")
    mailbox.say(Saying(pid + 1, "waiting", "said by a predecessor", None))
    assert care.attendant.doing()[0] == "working"
    care.attendant.finding = Finding("working", "Pondering", trouble="Retrying in 7s")
    assert care.attendant.doing() == ("working", "the agent's model fails: Retrying in 7s")
    care.attendant.end()


def test_an_agent_that_asks_to_be_parked_is(story: Story) -> None:
    care = Care(story, "exec sleep 0.2")
    care.tend()
    assert care.attendant.pid is not None
    until = datetime.now(UTC).timestamp() + 500
    care.attendant.mailbox.say(Saying(care.attendant.pid, "parked", "5-hour limit", until))
    worker = care.bench.board.workers["cpu0"]
    wait_for(lambda: care.tend() and worker.parked)
    assert worker.parked == "5-hour limit"
    assert worker.parked_until is not None
    assert worker.parked_until.timestamp() == pytest.approx(until, abs=0.01)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("You’ve hit your usage limit. Upgrade to Pro or try again in 3 hours 2 minutes.", 10_920),
        ("You’ve hit your usage limit. Try again later.", 1800),
        ("You’ve hit your usage limit. Try again in 2 days.", 172_800),
    ],
)
def test_one_that_ends_at_a_usage_limit_is_parked_until_that_is_over(
    story: Story, said: str, seconds: float
) -> None:
    care = Care(story, "true")
    log = story.paths.worker_log("cpu0")
    log.parent.mkdir(parents=True, exist_ok=True)
    script = f"echo I begin. >> '{log}'; printf 'ERROR: %s\\n' '{said}' >> '{log}'; exit 1"
    ends = msgspec.structs.replace(
        clis.load()["codex"], program="/bin/sh", headless=("-c", script, "{prompt}")
    )
    care.attendant = Attendant(care.bench, Foreign(ends), lambda: care.now)
    wait_for(lambda: care.tend() == "parked", every=0.01)
    event = care.events()[-1]
    assert event.until is not None
    assert (event.until - event.time).total_seconds() == pytest.approx(seconds, abs=5)
    day = f"{event.until:%a} " if seconds > 86_400 else ""
    shown = care.attendant.doing()[1]
    assert shown.startswith(f"until {day}{event.until:%H:%M} UTC: ERROR: {said}")
    assert care.starts() == 1


def test_one_that_does_nothing_for_an_hour_is_started_again_but_not_while_it_trains(
    story: Story,
) -> None:
    care = Care(story, "sleep 9999")
    care.tend()
    first = care.attendant.pid
    name = story.claim("cpu0")
    assert care.tend(2 * STALLED) == "working"  # its experiment is queued
    assert care.attendant.pid == first
    story.trial(name, "cpu0", 0.9)
    care.tend()
    assert care.tend(STALLED - 1) == "working"
    assert care.attendant.pid == first
    assert care.tend(2) == "starting"
    assert care.tend(60) == "working"
    assert care.attendant.pid != first
    assert "no experiment for 1 h" in [event.reason for event in care.events()]
    care.attendant.end()


def test_one_that_waits_or_reports_is_not_stalled(story: Story) -> None:
    care = Care(story, "sleep 9999")
    care.tend()
    pid = care.attendant.pid
    assert pid is not None
    care.attendant.mailbox.say(Saying(pid, "waiting", "the provider is busy", None))
    for _ in range(3):
        care.tend(STALLED)
    care.attendant.mailbox.say(Saying(pid, "working", "thinks", None))
    assert care.tend(STALLED) == "working"
    story.spend("cpu0", 0.1)
    assert care.tend(STALLED) == "working"
    assert care.tend(STALLED) == "working", "that is an hour later"
    assert care.attendant.pid == pid
    assert care.tend(1) == "starting"
    care.attendant.end()


def test_a_cli_without_a_screen_that_ends_upon_its_usage_limit_is_parked(story: Story) -> None:
    folder = story.paths.root
    log = story.paths.worker_log("cpu0")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("You've hit your session limit · resets in 5 hours\n")  # of a predecessor
    claude = folder / "claude"
    claude.write_text(f"#!/bin/sh\n. '{folder}/says' >> '{log}'\nexit 1\n")
    claude.chmod(0o755)
    care = Care(story, "true")
    care.bench.environment = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
    }
    agent = agents.build("claude", care.bench.environment)
    care.attendant = Attendant(care.bench, agent, lambda: care.now)
    (folder / "says").write_text("echo 'no such model'")
    care.tend()
    wait_for(lambda: care.tend() == "starting")
    (folder / "says").write_text(
        'echo "You\'ve hit your session limit · resets in 40 minutes"; echo; echo Goodbye'
    )
    care.tend(60)
    wait_for(lambda: care.tend() == "parked")
    event = care.events()[-1]
    assert event.reason == "You've hit your session limit · resets in 40 minutes"
    assert event.until is not None
    assert (event.until - event.time).total_seconds() == pytest.approx(2400, abs=5)
    (folder / "says").write_text("echo Credit balance is too low")
    story.tell(records.Control(action="resume"))
    wait_for(lambda: care.tend() == "parked")
    event = care.events()[-1]
    assert event.until is not None
    assert (event.until - event.time).total_seconds() == pytest.approx(1800, abs=5)
    assert care.attendant.process.fruitless_exits == 0


@pytest.mark.parametrize("how", ["exits", "is ended"])
def test_what_an_agent_started_does_not_outlive_it(story: Story, tmp_path: Path, how: str) -> None:
    note = tmp_path / "stray"
    stays = "sleep 0.2" if how == "exits" else "exec sleep 999"
    begins = f"(setsid sh -c 'echo $$ > \"{note}\"; exec sleep 999' &)"  # it loses its parent
    care = Care(story, f"{begins}; {stays}")
    care.tend()
    wait_for(lambda: note.exists() and note.read_text().strip())
    stray = psutil.Process(int(note.read_text()))
    if how == "exits":
        wait_for(lambda: care.tend() and not stray.is_running())
    else:
        care.attendant.end()
        assert not stray.is_running()


def test_one_that_costs_money_is_ended_when_the_swarm_is_over_but_not_before_its_verdict(
    story: Story,
) -> None:
    care = Care(story, "sleep 999")
    care.tend()
    name = story.claim("cpu0")
    assert care.tend(over=True) == "working"
    story.trial(name, "cpu0", 0.9)
    assert care.tend(over=True) == "ended"
    assert not care.attendant.running
    tuner = Attendant(care.bench, agents.build("tuner", dict(os.environ)), lambda: care.now)
    tuner.tend(False)
    tuner.tend(True)
    assert tuner.running
    tuner.end()


def asks_to_be_parked(care: Care, until: float | None) -> records.AgentEvent:
    """The agent starts, says so and ends; return what comes of it."""
    now = datetime.now(UTC)  # as if the last time had passed
    care.story.tell(records.AgentEvent(worker="cpu0", state="parked", reason="x", until=now))
    before = care.starts()
    wait_for(lambda: care.tend(31.0) and care.starts() > before, every=0.01)
    assert care.attendant.pid is not None
    care.attendant.mailbox.say(Saying(care.attendant.pid, "parked", "so be it", until))
    wait_for(lambda: care.tend() and care.events()[-1].reason == "so be it", every=0.01)
    return care.events()[-1]


def test_one_that_asks_to_be_parked_for_good_is_tried_again_if_it_ever_worked(
    story: Story,
) -> None:
    care = Care(story, "exec sleep 0.3")
    assert asks_to_be_parked(care, None).until is None, "it has never done anything"
    story.experiment("cpu0", 0.9)
    care.attendant.made_progress()
    for pause in COOLING:
        event = asks_to_be_parked(care, None)
        assert event.until is not None
        assert (event.until - event.time).total_seconds() == pytest.approx(pause, abs=5)
    assert asks_to_be_parked(care, None).until is None


def test_one_that_asks_for_short_rests_again_and_again_gets_long_ones(story: Story) -> None:
    care = Care(story, "exec sleep 0.3")
    soon = datetime.now(UTC).timestamp() + 60
    rests = [asks_to_be_parked(care, soon) for _ in range(4)]
    lengths = [(rest.until - rest.time).total_seconds() for rest in rests if rest.until]
    assert all(length <= 60 for length in lengths[:3])
    assert lengths[3] == pytest.approx(COOLING[2], abs=5)
    care.attendant.made_progress()
    event = asks_to_be_parked(care, soon)
    assert event.until is not None
    assert event.until.timestamp() == pytest.approx(soon, abs=0.01)


# ---- a CLI, by what stands in its pane ----------------------------------------------------------

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux here")
PAINTER = r"""
import os, sys, tty
tty.setraw(0)
while True:
    with open(sys.argv[1]) as wanted:
        text = wanted.read()
    os.write(1, b"\x1b[H\x1b[2J" + text.replace("\n", "\r\n").encode())
"""
BAR = "─" * 40


class Painted(Care):
    """The attendant of a claude that only sleeps; what stands in its pane is painted."""

    def __init__(self, story: Story, panes: TmuxPanes, inside: dict[str, str]) -> None:
        folder = story.paths.root
        joined = story.board.workers["cpu0"].joined
        story.tell(msgspec.structs.replace(joined, agent="claude"))
        super().__init__(story, "true")
        self.brush = folder / "brush"
        os.mkfifo(self.brush)
        argv = [sys.executable, "-c", PAINTER, str(self.brush)]
        pane = panes.start("cpu0", argv, inside, folder, story.paths.worker_log("cpu0"))
        self.panes, self.pane = panes, pane or ""
        claude = folder / "cast" / "claude"
        claude.parent.mkdir()
        claude.write_text("#!/bin/sh\nexec sleep 9999\n")
        claude.chmod(0o755)
        self.bench.environment = {
            "PATH": f"{claude.parent}{os.pathsep}{inside['PATH']}",
            "HOME": str(folder),
            "TMUX": f"{panes.socket},1,0",
            "TMUX_PANE": self.pane,
        }
        agent = agents.build("claude", self.bench.environment)
        self.attendant = Attendant(self.bench, agent, lambda: self.now)
        self.terminal = Terminal(str(panes.socket), self.pane, self.bench.environment)

    def paint(self, above: str, draft: str | None = "") -> None:
        """Show this above a prompt box, or without one."""
        box = "" if draft is None else f"\n{BAR}\n❯ {draft}\n{BAR}\n"
        self.brush.write_text(above + box)
        last = (above + box).strip().splitlines()[-1].strip()
        wait_for(lambda: last in self.terminal.screen())

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events()]


@pytest.fixture
def painted(tmp_path: Path, story: Story, environment: dict[str, str]) -> Iterator[Painted]:
    panes = TmuxPanes("p", tmp_path, environment)
    painted = Painted(story, panes, environment)
    yield painted
    painted.attendant.end()
    panes.close()


DONE = "❯ You are worker\n\n● done"
LIMIT = "❯ You are worker\n  ⎿  You've hit your weekly limit · resets in 2 days"


@needs_tmux
def test_a_cli_does_not_know_the_tmux_that_it_lives_in(painted: Painted) -> None:
    assert painted.attendant.terminal is not None
    assert not [name for name in painted.attendant.environment if name.startswith("TMUX")]


@needs_tmux
def test_a_cli_at_its_usage_limit_is_not_stalled(painted: Painted) -> None:
    painted.tend()
    pid = painted.attendant.pid
    painted.paint(LIMIT)
    for _ in range(24):
        assert painted.tend(STALLED / 2) in ("working", "parked")
    assert painted.attendant.doing()[0] == "parked"
    assert painted.attendant.pid == pid


@needs_tmux
def test_a_limit_without_a_zone_is_told_in_local_time(
    painted: Painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XYZ-5:30")
    time.tzset()
    try:
        ends = datetime.now(UTC) + timedelta(hours=2)
        painted.tend()
        painted.paint(LIMIT.replace("in 2 days", ends.astimezone().strftime("%H:%M")))
        wait_for(lambda: painted.tend(1.0) == "parked")
        until = painted.events()[-1].until
        assert until is not None
        assert abs(until - ends) < timedelta(minutes=1)
    finally:
        monkeypatch.undo()
        time.tzset()


@needs_tmux
def test_a_resumed_cli_tries_at_once_whether_its_limit_is_over(painted: Painted) -> None:
    painted.tend()
    painted.paint(LIMIT)
    wait_for(lambda: painted.tend(1.0) == "parked")
    painted.story.tell(records.Control(action="resume"))
    tried = "tried again after the usage limit"
    wait_for(lambda: painted.tend(1.0) and tried in painted.reasons())
    painted.paint(LIMIT, "Nothing is training")
    wait_for(lambda: painted.tend(1.0) and painted.attendant.watch)
    painted.paint(LIMIT.replace("weekly", "session"))
    wait_for(lambda: painted.tend(1.0) == "parked")
    for _ in range(20):
        painted.tend(1.0)
    assert painted.reasons().count(tried) == 1


@needs_tmux
def test_a_new_cli_is_not_judged_by_what_its_predecessor_left(painted: Painted) -> None:
    painted.paint("Not logged in · Please run /login")
    painted.tend()
    assert not painted.terminal.screen().strip()
    assert painted.attendant.process.running


@needs_tmux
@pytest.mark.parametrize("above", [DONE, "❯ You are worker\n  ⎿  Not logged in · Run /login"])
def test_no_cli_is_ended_while_a_person_is_at_its_pane(
    painted: Painted, environment: dict[str, str], above: str
) -> None:
    painted.tend()
    pid = painted.attendant.pid
    painted.paint(above)
    wait_for(lambda: painted.tend(1.0) in ("prompt", "login"))
    with attached(painted.panes, environment) as screen:

        def typed() -> bool:
            os.write(screen, b"x")
            return painted.terminal.person_is_typing(time.time())

        wait_for(typed, every=0.2)
        turn_to_another_direction(painted.story)
        for _ in range(10):
            assert painted.tend(STALLED / 3) in ("prompt", "login")
        assert painted.attendant.pid == pid
        assert painted.attendant.running
        if above == DONE:
            assert painted.attendant.doing()[1] == "a person is at its pane"


@needs_tmux
def test_a_fresh_start_leaves_a_persons_draft_and_comes_before_a_nudge(painted: Painted) -> None:
    painted.tend()
    pid = painted.attendant.pid
    painted.paint(DONE, "please try the wsd schedule")
    wait_for(lambda: "has unsent text" in (painted.tend(1.0), painted.attendant.doing()[1])[1])
    turn_to_another_direction(painted.story)
    for _ in range(4):
        painted.tend(60.0)
    assert painted.attendant.pid == pid
    assert painted.attendant.running
    painted.paint(DONE)
    wait_for(lambda: painted.tend(1.0) == "starting")
    assert "starts afresh: nothing was kept for a while" in painted.reasons()
    assert "nudged" not in [event.state for event in painted.events()]


@needs_tmux
def test_one_that_is_not_logged_in_is_parked_with_what_to_do(painted: Painted) -> None:
    painted.tend()
    for _ in range(6):
        wait_for(lambda: painted.tend(31.0) and painted.attendant.running)
        painted.paint("❯ You are worker\n  ⎿  Not logged in · Run /login")
        wait_for(
            lambda: painted.tend(61.0) in ("starting", "parked") and not painted.attendant.running
        )
    assert painted.attendant.doing() == (
        "parked",
        "the agent exited 6 times: a person must log it in: Not logged in · Run /login; "
        "log in with `claude`, then `swarm resume cpu0`",
    )


@needs_tmux
def test_the_words_of_an_exit_are_what_its_screen_showed(painted: Painted) -> None:
    painted.tend()
    painted.paint("❯ You are worker\n\n✻ Pondering… (7s)")
    wait_for(lambda: painted.tend(1.0) and painted.attendant.doing()[0] == "working")
    wait_for(lambda: painted.tend(1.0) and painted.attendant.finding.reason)  # type: ignore[union-attr]
    os.kill(painted.attendant.pid or 0, signal.SIGKILL)
    wait_for(lambda: painted.tend() == "starting")
    assert "exit code -9: Pondering… (7s)" in painted.reasons()


@needs_tmux
def test_a_tmux_that_does_not_answer_is_not_asked_each_round(
    painted: Painted, caplog: pytest.LogCaptureFixture
) -> None:
    painted.tend()
    painted.panes.close()
    for _ in range(30):
        assert painted.tend(3.0) == "working"
    assert len([record for record in caplog.records if "tmux" in record.message]) == 2
    assert painted.attendant.running


def turn_to_another_direction(story: Story) -> None:
    """Ten experiments without a keep."""
    for _ in range(PATIENCE):
        story.experiment("cpu0", 2.0)


def test_an_agent_that_cannot_be_started_is_parked_with_the_reason(story: Story) -> None:
    joined = story.board.workers["cpu0"].joined
    story.tell(msgspec.structs.replace(joined, agent="claude"))
    bench = toy_swarm.bench_of(story.paths, "cpu0")
    settings = story.paths.root / ".claude.json"
    settings.write_text("{ not json")
    bench.environment = {"PATH": os.environ["PATH"], "HOME": str(story.paths.root)}
    attendant = Attendant(bench, agents.build("claude", bench.environment), lambda: 0.0)
    attendant.tend(False)
    assert attendant.doing()[0] == "parked"
    assert "settings" in attendant.doing()[1]
    assert settings.read_text() == "{ not json"


def test_a_key_that_a_person_has_mended_is_what_the_next_start_gets(
    story: Story, tmp_path: Path
) -> None:
    bench = toy_swarm.bench_of(story.paths, "cpu0")
    keys = tmp_path / "keys"
    bench.environment = {"PATH": os.environ["PATH"], "SWARM_KEYS": str(keys)}
    attendant = Attendant(bench, agents.build("anthropic:m", bench.environment), lambda: 0.0)
    for key in ("sk-ant-wrong-one", "sk-ant-right-one"):
        keys.write_text(f"ANTHROPIC_API_KEY={key}\n")
        keys.chmod(0o600)
        assert attendant.environment["ANTHROPIC_API_KEY"] == key
