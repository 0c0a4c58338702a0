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
