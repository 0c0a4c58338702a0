"""The supervisor by itself: what it does about runners that die, or cannot be started."""

from __future__ import annotations

from pathlib import Path

import msgspec
from toy_swarm import Story

from swarm.locks import ProcessLock
from swarm.supervisor import Supervisor
from swarm.views import documents


def damaged(home: Path) -> Path:
    """A user's table of coding CLIs as somebody is editing it."""
    table = home / ".config" / "swarm" / "clis.toml"
    table.parent.mkdir(parents=True)
    table.write_text("[claude\n")
    return table


def test_what_cannot_be_started_is_not_held_to_have_died(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    table = damaged(tmp_path / "the home")
    story = Story(tmp_path / "a user's repo")
    joined = story.board.workers["cpu0"].joined
    story.tell(msgspec.structs.replace(joined, agent="claude"))
    supervisor = Supervisor(story.paths, environment | {"HOME": str(tmp_path / "the home")})
    watch = supervisor.watches["cpu0"]
    for minute in range(20):
        supervisor._revive("cpu0", watch, 60.0 * minute)
    story.board.refresh()
    assert (watch.deaths, story.board.workers["cpu0"].parked) == (0, None)
    lock = ProcessLock(story.paths.supervisor_lock)
    assert lock.try_acquire()
    found = documents.status(story.paths, story.board)["workers"][0]
    lock.release()
    assert found["state"] == "dead"
    assert found["reason"].startswith(f"its runner cannot be started: cannot read {table}")
    assert found["reason"].endswith("; that is tried again")
