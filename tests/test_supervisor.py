"""The supervisor by itself: what it does about runners that die, or cannot be started."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from toy_swarm import WORKERS, Story

from swarm import records
from swarm.errors import SwarmError
from swarm.locks import ProcessLock
from swarm.spawn import recover
from swarm.supervisor import Supervisor, wait_until_at_rest
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


@pytest.fixture
def bare(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment without programs and without keys."""
    kept = {k: v for k, v in environment.items() if not k.startswith(("ANTHROPIC", "OPENAI"))}
    return kept | {"PATH": str(tmp_path / "no programs"), "HOME": str(tmp_path / "no home")}


def test_recovering_panes_without_tmux_says_so_and_starts_nothing(
    tmp_path: Path, bare: dict[str, str]
) -> None:
    story = Story(tmp_path / "a user's repo", tmux=True)
    with pytest.raises(SwarmError, match="tmux, which is not on PATH") as caught:
        recover(story.paths, bare)
    assert "--tag race --no-tmux" in caught.value.hint
    assert not story.paths.supervisor_log.exists()


def test_stopping_panes_without_tmux_concludes_all_the_same(
    tmp_path: Path, bare: dict[str, str]
) -> None:
    story = Story(tmp_path / "a user's repo", tmux=True)
    story.tell(records.Control(action="stop", now=True))
    wait_until_at_rest(story.paths, story.board, bare)
    assert (story.board.state, story.board.ended_because) == ("stopped", "by swarm stop")


def test_recovering_checks_the_agents_as_spawning_does(
    tmp_path: Path, bare: dict[str, str]
) -> None:
    story = Story(tmp_path / "a user's repo", tmux=False)
    joined = story.board.workers[WORKERS[2]].joined
    story.tell(msgspec.structs.replace(joined, agent="anthropic"))
    with pytest.raises(SwarmError, match="needs ANTHROPIC_API_KEY, which is not set"):
        recover(story.paths, bare)
    assert not story.paths.supervisor_log.exists()


def test_a_damaged_keys_file_is_named_before_anything_is_started(
    tmp_path: Path, bare: dict[str, str]
) -> None:
    story = Story(tmp_path / "a user's repo", tmux=False)
    keys = tmp_path / "keys"
    keys.write_text("what is this\n")
    keys.chmod(0o600)
    with pytest.raises(SwarmError, match="line 1 is no NAME=value"):
        recover(story.paths, bare | {"SWARM_KEYS": str(keys)})
    assert not story.paths.supervisor_log.exists()
