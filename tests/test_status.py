"""What `swarm status` tells of each worker: from the journal, heartbeats and locks alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import toy
from toy_swarm import WORKERS, Story

from swarm import heartbeat, records
from swarm.commands import begun
from swarm.errors import Refused
from swarm.heartbeat import Heartbeat
from swarm.locks import ProcessLock
from swarm.views import documents, status
from swarm.views.table import Style

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
THOUGHT = "the agent proposes a change"


class Floor:
    """A told swarm whose runners are locks that this process holds."""

    def __init__(self, story: Story, held: ExitStack) -> None:
        self.story, self.paths, self._held = story, story.paths, held

    def supervise(self) -> None:
        self._hold(self.paths.supervisor_lock)

    def run(self, worker: str, state: heartbeat.Doing = "thinking", reason: str = THOUGHT,
            agent: str = "working", agent_reason: str = THOUGHT) -> None:  # fmt: skip
        self._hold(self.paths.worker_lock(worker))
        beat = Heartbeat(7, state, reason, 0.0, "%3", agent, agent_reason)
        heartbeat.write(self.paths.heartbeat(worker), beat)

    def leave(self, worker: str) -> None:
        """A runner that is gone leaves its last heartbeat."""
        beat = Heartbeat(7, "thinking", THOUGHT, 0.0, "%3", "working", THOUGHT)
        heartbeat.write(self.paths.heartbeat(worker), beat)

    def park(self, worker: str, reason: str, until: datetime | None = None) -> None:
        self.story.tell(
            records.AgentEvent(worker=worker, state="parked", reason=reason, until=until)
        )

    def status(self) -> dict[str, Any]:
        return documents.status(self.paths, self.story.board, NOW)

    def worker(self, name: str) -> dict[str, Any]:
        return next(w for w in self.status()["workers"] if w["name"] == name)

    def shown(self, width: int) -> list[str]:
        return status.status(self.status(), Style(False, width)).splitlines()

    def _hold(self, path: Path) -> None:
        lock = ProcessLock(path)
        assert lock.try_acquire()
        self._held.callback(lock.release)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def floor(tmp_path: Path, held: ExitStack) -> Floor:
    return Floor(Story(tmp_path / "a user's swarm"), held)


def test_a_worker_that_has_finished_is_stopped_not_dead(tmp_path: Path, held: ExitStack) -> None:
    floor = Floor(Story(tmp_path / "a user's swarm", max_experiments=1, policy="greedy"), held)
    floor.story.experiment("cpu0", 1.1)
    floor.supervise()
    floor.leave("cpu1")
    floor.run("cpu2", "training", "e1 as t1, seed 42")
    found = floor.worker("cpu1")
    assert (found["state"], found["reason"]) == ("stopped", "nothing is left for it to do")
    assert floor.worker("cpu2")["state"] == "training"


def test_a_runner_that_died_is_started_again_by_whom_there_is(floor: Floor) -> None:
    for worker in WORKERS:
        floor.leave(worker)
    found = floor.worker("cpu0")
    assert (found["state"], found["pid"], found["pane"]) == ("dead", None, None)
    assert found["reason"] == "its runner died; swarm recover starts it again"
    floor.supervise()
    assert floor.worker("cpu0")["reason"] == "its runner died; it is started again"
    floor.paths.heartbeat("cpu1").unlink()  # it was never there
    assert floor.worker("cpu1")["reason"] == "is starting"
    floor.story.tell(records.Control(action="stop"))
    assert floor.worker("cpu0")["reason"] == "the swarm is being stopped"


LIMIT = "You've hit your session limit · resets 9:35pm (Europe/Berlin)"
CRASHED = (
    "the agent exited 5 times: Error: Cannot find module '@anthropic-ai/claude-code/cli.js', "
    "required from /usr/lib/node_modules/npm/bin/run.js"
)


@pytest.fixture
def eight(floor: Floor) -> Floor:
    """Workers as they are found in the morning."""
    floor.supervise()
    floor.run("cpu0", "training", "e12 as t31, seed 42")
    floor.park("cpu1", LIMIT, NOW + timedelta(hours=3, minutes=5))
    floor.run("cpu1", "training", "e9 as t32, seed 3, a replicate", "parked", "stale words")
    floor.park("cpu2", CRASHED)
    floor.run("cpu2", "parked", CRASHED, "parked", CRASHED)
    floor.run("cpu3", "thinking", asks := "asks a person: Allow network access?", "asks", asks)
    return floor


def below(lines: list[str], worker: str) -> str:
    """What stands below the row of a worker."""
    at = next(i for i, line in enumerate(lines) if line.startswith(worker))
    more = []
    for line in lines[at + 1 :]:
        if not line.startswith("    "):
            break
        more.append(line.strip())
    return " ".join(more)


def test_eighty_columns_tell_what_hinders_an_agent_in_full(eight: Floor) -> None:
    lines = eight.shown(80)
    table_lines = lines[lines.index("") :]
    assert max(map(len, table_lines)) <= 80, "\n".join(lines)
    assert below(lines, "cpu0") == ""
    assert any(line.endswith("e9 as t32, seed 3, a replicate") for line in lines)
    assert below(lines, "cpu1") == f"until 21:35 UTC: {LIMIT}"
    assert below(lines, "cpu2") == f"{CRASHED}; swarm resume cpu2 tries again"
    assert below(lines, "cpu3") == "asks a person: Allow network access?"


def test_wide_terminals_have_a_line_per_worker_where_it_fits(eight: Floor) -> None:
    lines = eight.shown(220)
    assert len(lines[lines.index("") + 1 :]) == 1 + len(WORKERS)
    assert lines[-3].endswith(f"until 21:35 UTC: {LIMIT}; e9 as t32, seed 3, a replicate")
    narrower = eight.shown(130)
    assert below(narrower, "cpu3") == ""
    assert below(narrower, "cpu2").startswith("the agent exited 5 times")


def test_a_swarm_at_rest_takes_a_line_per_worker(floor: Floor) -> None:
    for worker in WORKERS:
        floor.story.tell(
            msgspec.structs.replace(
                floor.story.board.workers[worker].joined, agent="openai:a-model-with-a-name"
            )
        )
    floor.story.tell(records.Ended(state="finished", reason="all 3 experiments are used"))
    assert floor.shown(80)[-1].endswith("the swarm has finished")
    lines = floor.shown(70)
    assert len(lines[lines.index("") + 1 :]) == 1 + len(WORKERS)
    assert lines[-1].endswith("the swarm has finis…")


def test_a_limit_that_ends_on_another_day_has_its_date(floor: Floor) -> None:
    floor.park("cpu0", LIMIT, NOW + timedelta(hours=12))
    floor.run("cpu0", "parked", LIMIT, "parked", LIMIT)
    assert floor.worker("cpu0")["reason"] == f"until Nov 22 06:30 UTC: {LIMIT}"
    assert floor.worker("cpu0")["agent_reason"] == f"until Nov 22 06:30 UTC: {LIMIT}"


@pytest.mark.parametrize(
    ("agent", "word"),
    [("working", "thinking"), ("starting", "starting"), ("waiting", "waits"),
     ("prompt", "at prompt"), ("login", "must log in"), ("asks", "asks")],
)  # fmt: skip
def test_the_table_has_the_agents_own_word(floor: Floor, agent: str, word: str) -> None:
    floor.run("cpu0", "thinking", "", agent, "")
    assert floor.worker("cpu0")["state"] == "thinking"
    row = next(line for line in floor.shown(100) if line.startswith("cpu0"))
    assert row.removeprefix("cpu0").strip().startswith(f"{word}  ")
    assert floor.worker("cpu0")["reason"] == ("is starting" if agent == "starting" else "")


def test_a_parked_worker_without_a_runner_says_so_once(floor: Floor) -> None:
    floor.park("cpu0", CRASHED)
    floor.leave("cpu0")
    found = floor.worker("cpu0")
    assert (found["state"], found["pid"], found["pane"]) == ("parked", None, None)
    assert found["agent_state"] == "ended"
    assert "\n".join(floor.shown(300)).count("Cannot find module") == 1


def test_escape_sequences_of_agents_do_nothing_below_a_row_either(floor: Floor) -> None:
    floor.run("cpu0", "thinking", "x", "asks", "\x1b[2J" + "y" * 100)
    assert "\x1b" not in "\n".join(floor.shown(80))
    assert "\\x1b[2J" in "\n".join(floor.shown(80))


def test_the_heartbeat_of_an_older_runner_is_understood(floor: Floor) -> None:
    floor.run("cpu0")
    path = floor.paths.heartbeat("cpu0")
    path.write_text(path.read_text().replace("{", '{"agent_pid": 9, "trial": "t1", ', 1))
    assert floor.worker("cpu0")["reason"] == THOUGHT


def test_a_log_with_impossible_numbers_breaks_nothing(floor: Floor) -> None:
    name, nines = floor.story.claim("cpu1"), "9" * 400
    started = records.TrialStarted(
        trial="t1", experiment=name, worker="cpu1", device_class="CPU", seed=1
    )
    floor.story.tell(started)
    log = floor.paths.trial("t1") / "run.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"step 00041 (13.6 %) | loss {nines} | {nines} tok/s | {nines} s left\n")
    floor.run("cpu1", "training")
    trial = floor.worker("cpu1")["trial"]
    assert trial["step"] == 41 and trial["seconds_left"] is None
    assert any("training 14%" in line for line in floor.shown(160))


def test_it_says_what_the_number_beside_a_score_is(floor: Floor) -> None:
    assert "e0, val_bpb 1.000000 (trials: 1), commit" in floor.shown(160)[1]
    floor.story.trial("e0", "cpu1", 1.02)
    assert "e0, val_bpb 1.010000 (trials: 2, their SD 0.014142), commit" in floor.shown(160)[1]


def test_a_swarm_that_is_being_laid_out_says_so(floor: Floor, environment: dict[str, str]) -> None:
    lines = floor.paths.journal.read_bytes().splitlines(keepends=True)
    for count in range(6):
        floor.paths.journal.write_bytes(b"".join(lines[:count]))
        if count == 5:  # all but the last worker
            for verb in ("status", "report", "stop", "pause", "show e0", "recover"):
                done = toy.swarm(floor.paths.root, *verb.split(), environment=environment)
                assert (done.returncode, done.stdout) == (3, "")
                error, hint = done.stderr.splitlines()
                known = "was never" if verb == "recover" else "is being"
                assert error.startswith(f"error: swarm 'race' {known} laid out")
                assert "swarm spawn" in hint
        with pytest.raises(Refused, match="is being laid out"):
            begun(floor.paths)
    floor.paths.journal.write_bytes(b"".join(lines[:6]))
    assert begun(floor.paths).active
