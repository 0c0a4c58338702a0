"""What `swarm status` tells of each worker: from the journal, heartbeats and locks alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from toy_swarm import WORKERS, Story

from swarm import heartbeat, records
from swarm.heartbeat import Heartbeat
from swarm.locks import ProcessLock
from swarm.views import documents, table
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
        self.paths.heartbeat(worker).parent.mkdir(parents=True, exist_ok=True)
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
        return table.status(self.status(), Style(False, width)).splitlines()

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
