"""What a running trial says of itself, and what a result is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_swarm import Story

from swarm.views import documents, history, live

LINE = "step 00041 (13.6 %) | loss 6.9325 | lr × 1.00 | 264 ms | 1,936 tok/s | epoch 1 | 259 s left"


def test_the_last_whole_line_counts_however_it_was_redrawn(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert live.of(log) is None
    log.write_text("device: CPU\nattention: sdpa\n")
    assert live.of(log) is None
    log.write_text(f"device: CPU\r\x1b[K{LINE.replace('41', '40')}\r\x1b[K{LINE}\nstep 000")
    found = live.of(log)
    assert found == live.Progress(41, 13.6, 6.9325, 1936.0, 259.0)
    assert found.phase == "training"
    with open(log, "a") as file:
        file.write("\nstep 00300 (100.0 %) | loss nan |\nevaluating\n" + "x" * 5000)
    found = live.of(log)
    assert found == live.Progress(300, 100.0)
    assert found.phase == "evaluating"


@given(st.text() | st.from_regex(r"step \d{1,30} \([\d.]{1,9}%\)[ ,.\d|a-z/]*loss [\d.]+ .*"))
def test_whatever_a_trial_prints_is_read_without_an_error(text: str) -> None:
    found = live.last(text)
    assert found is None or (found.step >= 0 and 0 <= found.percent <= 100)


def test_a_number_beyond_all_numbers_is_none() -> None:
    """It would be no JSON, and nothing that a clock shows."""
    nines = "9" * 400
    line = f"step 00041 (13.6 %) | loss {nines} | {nines} tok/s | {nines} s left"
    assert live.last(line) == live.Progress(41, 13.6)
    assert live.last(f"step 00041 ({nines} %)") is None


def test_a_lineage_is_what_an_experiment_was_built_of(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    one = story.experiment("cpu0", 0.9)
    story.experiment("cpu1", 1.4)
    two = story.experiment("cpu2", 0.8, parent=one)
    known = story.board.classes["CPU"]
    assert [entry.experiment for entry in history.lineage(known, two)] == ["e0", one, two]
    assert history.lineage(known, None) == []
    first, second = history.steps(known, two)
    assert (first.base.experiment, first.entry.experiment) == ("e0", one)
    assert second.gain == pytest.approx(0.1)
    assert second.error == pytest.approx(known.noise.sd * 2**0.5)
    row = documents.experiment(known, known.entries["e0"])
    assert row["sigmas"] == pytest.approx((1.0 - 0.8) / known.noise.sd)
    assert history.in_sigmas(known, known.entries[story.claim("cpu0")]) is None
