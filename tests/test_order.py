"""What is said and refused of an order, before anything is started."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from toy_swarm import Story

from swarm.errors import Refused
from swarm.order import check_limits


def limits(story: Story, **settings: object) -> list[str]:
    """What is said when a swarm that was told with some limits goes on with others."""
    said: list[str] = []
    assert story.board.config is not None
    cleared = {"max_experiments": None, "max_hours": None, "max_usd": None}
    config = msgspec.structs.replace(story.board.config, **{**cleared, **settings})
    check_limits(config, story.board, said.append)
    return said


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """Two experiments and 12.30 USD so far."""
    story = Story(tmp_path / "a user's repo", max_usd=15.0, max_hours=8.0)
    story.experiment("cpu0", 0.9)
    story.experiment("cpu1", 0.8)
    story.spend("cpu1", 12.3)
    return story


def test_a_swarm_that_goes_on_says_its_limits_and_what_counts_already(story: Story) -> None:
    assert limits(story, max_usd=20.0, max_experiments=100, max_hours=2.0) == [
        "limits: --max-experiments 100 (2 so far, which it counts), --max-hours 2 (from now on),"
        " --max-usd 20 (spent so far 12.30 USD, which it counts)"
    ]


def test_a_limit_that_is_gone_is_said(story: Story) -> None:
    assert limits(story) == [
        "limits: none; spent so far 12.30 USD",
        "no --max-hours this time (before: 8)",
        "no --max-usd this time (before: 15)",
    ]


@pytest.mark.parametrize("settings", [{"max_usd": 12.0}, {"max_usd": 13, "device_hour_usd": 70.0}])
def test_money_that_is_spent_already_is_refused(story: Story, settings: dict[str, float]) -> None:
    with pytest.raises(Refused, match=r"--max-usd 1\d is used up: this swarm has spent 1"):
        limits(story, **settings)
