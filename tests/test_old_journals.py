"""Journals written by earlier versions are read by this one, with the same result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.views import tsv

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("journal", sorted(DATA.glob("journal-*.jsonl")), ids=lambda p: p.stem)
def test_a_frozen_journal_says_what_it_said(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / "journal.jsonl"
    shutil.copy(journal, copy)
    board = Leaderboard(Journal(copy))
    board.refresh()
    tsv.write(tmp_path / "results.tsv", board)
    expected = journal.with_suffix(".tsv").read_text()
    assert (tmp_path / "results.tsv").read_text() == expected


def test_what_agents_spent_and_why_they_were_parked_is_still_known(tmp_path: Path) -> None:
    shutil.copy(DATA / "journal-0.3.jsonl", tmp_path / "journal.jsonl")
    board = Leaderboard(Journal(tmp_path / "journal.jsonl"))
    board.refresh()
    workers = board.workforce.workers
    assert board.workforce.usd == pytest.approx(0.06883871)
    assert workers["cpu0"].bill.tokens == 98_259
    assert workers["cpu0"].founder == "e24"
    assert workers["cpu1"].parked == "openai: 5-hour limit (429)"
    assert f"{workers['cpu1'].parked_until:%H:%M:%S}" == "18:18:16"
    assert board.workforce.directions["optimizer: of all kinds"].kept == 8
