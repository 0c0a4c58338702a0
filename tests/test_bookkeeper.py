"""What agents use is journalled once, whatever comes between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import toy_swarm
from toy_swarm import Story

from swarm import records
from swarm.agents.transcripts import Spent
from swarm.bookkeeper import Bookkeeper
from swarm.errors import DiskFull
from swarm.journal import Cursor, Journal
from swarm.mailbox import SpendRequest
from swarm.prices import Prices


class Told:
    """Session files that say this, once."""

    def __init__(self, *spent: Spent) -> None:
        self.spent = list(spent)

    def news(self) -> list[Spent]:
        news, self.spent = self.spent, []
        return news


def books(story: Story, *spent: Spent) -> Bookkeeper:
    bench = toy_swarm.bench_of(story.paths, "cpu0")
    transcripts: Any = Told(*spent)
    return Bookkeeper(bench, Prices.load(None), transcripts)


def journalled(story: Story) -> list[records.Spend]:
    lines = Journal(story.paths.journal).read(Cursor())
    return [line for line in lines if isinstance(line, records.Spend)]


def test_what_a_full_disk_did_not_take_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path / "a user's repo")
    keeper = books(story, *(Spent("gpt-5", 1, tokens, 0, 0, 0) for tokens in (1, 2, 3)))
    append, left = keeper.bench.journal.append, [1]

    def full(record: records.Record) -> object:
        if not left:
            raise DiskFull("no space left")
        left.pop()
        return append(record)

    monkeypatch.setattr(keeper.bench.journal, "append", full)
    with pytest.raises(DiskFull):
        keeper.read(0.0, at_once=True)
    monkeypatch.undo()
    keeper.read(1.0, at_once=True)
    assert [spend.input_tokens for spend in journalled(story)] == [1, 2, 3]


def test_a_report_that_is_handled_again_after_a_crash_counts_once(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    request = SpendRequest("spend-1", "claude-sonnet-5-5", 2, 1_000_000, 0, 0, 0)
    books(story).report(request)
    books(story).report(request)  # a runner died between journal and answer
    (spend,) = journalled(story)
    assert (spend.calls, spend.usd) == (2, 2.0)


def test_what_nobody_can_have_used_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    huge = SpendRequest("spend-1", "m", 1, 2**80, 0, 0, 0)
    with pytest.raises(ValueError, match="nobody can have used that"):
        books(story).report(huge)
    with pytest.raises(ValueError, match="nobody can have used that"):
        books(story).report(msgspec.structs.replace(huge, input_tokens=-5))
    assert journalled(story) == []
