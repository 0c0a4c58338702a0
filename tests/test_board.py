"""`swarm board` for people: aligned, cut to what fits, and never without what is claimed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nights
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from test_status import Floor
from toy_swarm import Story

from swarm import records
from swarm.commands import folded
from swarm.leaderboard import Leaderboard
from swarm.views import board, diff, table
from swarm.views.board import Look
from swarm.views.table import Style


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    """Forty experiments of an H100 night."""
    return folded(nights.tell(tmp_path_factory.mktemp("a user's") / "repo", 40, workers=2))


def lines(fold: Leaderboard, width: int, **look: object) -> list[str]:
    now = max(claim.time for claim in fold.claims.values())
    return board.board(fold, Look(now, **look), Style(False, width)).splitlines()  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [80, 110, 200])
def test_a_board_is_aligned_and_no_wider_than_the_terminal(night: Leaderboard, width: int) -> None:
    found = lines(night, width)
    assert found[0] == nights.MODEL
    assert found[1].startswith("noise σ 0.000")
    head, rows = found[2], found[3:-1]
    assert len(rows) == len(night.classes[nights.MODEL].entries)
    assert max(map(cell_len, found)) <= width
    at = head.index("description")
    assert all(row[at - 1] == " " != row[at] for row in rows)
    assert ("parent" in head) == (width >= 110)


def test_rows_tell_distance_replicates_who_and_when(night: Leaderboard) -> None:
    known = night.classes[nights.MODEL]
    top = known.top()
    assert top is not None and top.estimate is not None
    shown = next(row for row in lines(night, 80) if row.split()[0] in ("*", "*+"))
    words = shown.split()
    assert words[1] == top.experiment
    assert words[2:5] == [f"{top.estimate.mean:.6f}", "+0.0", str(top.estimate.replicates)]
    assert top.claim.worker in words
    baseline = known.entries["e0"].estimate
    assert baseline is not None
    row = next(line for line in lines(night, 80) if " e0 " in line)
    assert f"{(baseline.mean - top.estimate.mean) / known.noise.sd:+.1f}" in row
    assert " h  baseline" in row or " min  baseline" in row


def test_below_a_cut_board_stands_what_the_swarm_rests_on(night: Leaderboard) -> None:
    known = night.classes[nights.MODEL]
    found = lines(night, 80, top=1)
    cut = next(i for i, line in enumerate(found) if line.startswith("…"))
    assert found[cut] == (f"… {len(known.entries) - 1} more (--top {len(known.entries)} shows all)")
    below = "\n".join(found[cut + 1 :])
    assert " e0 " in below
    whole = "\n".join(found[3:])
    for name in (known.incumbent, known.best):
        assert whole.count(f" {name} ") == 1
    assert not any(line.startswith("…") for line in lines(night, 80, top=1000))


def test_an_experiment_tells_its_effect_with_its_error(night: Leaderboard) -> None:
    known = night.classes[nights.MODEL]
    entry = next(e for e in known.entries.values() if e.base and e.estimate and len(e.values) == 1)
    assert entry.base is not None
    assert entry.base.estimate is not None
    difference = entry.values[0] - entry.base.estimate.mean
    error = known.noise.sd * (1 + 1 / entry.base.estimate.replicates) ** 0.5
    text = board.experiment(night, entry, Style(False, 80))
    way = "higher" if difference > 0 else "lower"
    assert (
        f"effect   {abs(difference):.6f} ± {error:.6f} {way} than {entry.base.experiment}" in text
    )
    crash = next(e for e in known.entries.values() if e.kind == "crash")
    assert "effect" not in board.experiment(night, crash, Style(False, 80))


def test_a_hostile_description_in_wide_characters_keeps_the_columns(tmp_path: Path) -> None:
    story = Story(tmp_path / "a user's repo")
    claim = story.board.claims["e0"]
    hostile = "\x1b[2J\u202e" + "学习率" * 30
    story.board.classes["CPU"].entries["e0"].claim = claim.__class__(
        **{f: getattr(claim, f) for f in claim.__struct_fields__ if f != "description"},
        description=hostile,
    )
    text = board.board(story.board, Look(datetime.now(UTC)), Style(False, 80))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= 80


@given(st.text(), st.integers(0, 40))
def test_whatever_is_fitted_fits(text: str, width: int) -> None:
    found = table.fit(text, width)
    assert cell_len(found) <= max(1, width)
    assert found == table.printable(text) or found.endswith("…")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (59, "59 s"), (60, "1 min"), (3600 * 5, "5 h"), (86400 * 3.2, "3 d")],
)
def test_an_age_is_one_number(seconds: float, said: str) -> None:
    assert table.ago(seconds) == said


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_status_tells_how_far_a_trial_is(tmp_path: Path, held: ExitStack) -> None:
    floor = Floor(Story(tmp_path / "a user's swarm"), held)
    floor.supervise()
    name = floor.story.claim("cpu0")
    floor.run("cpu0", "training", f"{name} as t1, seed 1")
    assert floor.worker("cpu0")["trial"] is None
    floor.story.tell(
        records.TrialStarted(
            trial="t1", experiment=name, worker="cpu0", device_class="CPU", seed=1, purpose="claim"
        )
    )
    assert floor.worker("cpu0")["trial"]["phase"] == "starting"
    log = floor.paths.trial("t1") / "run.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 00041 (43.4 %) | loss 3.25 | 1,600,000 tok/s | epoch 1 | 12 s left\n")
    row = next(line for line in floor.shown(80) if line.startswith("cpu0"))
    assert "training 43%" in row
    assert f"{name} (a claim)" in row
    wide = next(line for line in floor.shown(160) if line.startswith("cpu0"))
    assert wide.endswith("| 12 s left, loss 3.2500, 1.6 M tokens/s")


def test_ages_are_those_of_the_moment(night: Leaderboard) -> None:
    later = max(claim.time for claim in night.claims.values()) + timedelta(days=9)
    shown = board.board(night, Look(later, top=1), Style(False, 80))
    assert "  9 d  " in shown


def test_a_diff_does_not_steer_the_terminal_that_shows_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    story = Story(tmp_path / "a user's repo")
    root = story.paths.root
    (root / "train.py").write_text(toy.TRAIN + "# \x1b]0;title\x07 \x1b[2J\u202e\n")
    toy.git(root, "commit", "-qam", "hostile")
    toy.git(root, "tag", "e1")  # the commits of a told experiment have its name
    story.experiment("cpu0", 0.9)
    screen, terminal = pty.openpty()
    command = [sys.executable, "-P", "-m", "swarm.cli", "show", "e1"]
    done = subprocess.run(
        command, cwd=root, stdout=terminal, stderr=subprocess.PIPE, env=environment, timeout=60
    )
    os.close(terminal)
    assert done.returncode == 0, done.stderr
    seen = b""
    while part := _read(screen):
        seen += part
    os.close(screen)
    text = seen.decode()
    assert r"# \x1b]0;title\x07 \x1b[2J\x202e" in text
    assert "\x1b]" not in text and "\x1b[2J" not in text and "\u202e" not in text
    piped = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert "+# \x1b]0;title\x07" in piped.stdout  # as git writes it, for git to read


def _read(screen: int) -> bytes:
    """What a terminal was sent; nothing more once its last process has closed it."""
    try:
        return os.read(screen, 4096)
    except OSError:
        return b""


def test_a_commit_that_looks_like_an_option_is_none(tmp_path: Path) -> None:
    root = toy.make_repository(tmp_path / "a user's repo")
    found = diff.between(root, f"--output={tmp_path / 'written'}", "HEAD")
    assert found.startswith("git diff: ")
    assert not (tmp_path / "written").exists()
