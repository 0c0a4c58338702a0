"""Devices that wait for their agent replicate, make way, and confirm what was found."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from conftest import wait_for
from test_swarm import assert_nothing_runs, check_journal, fold, slow, status

Run = Callable[..., subprocess.CompletedProcess[str]]
WAITING = ("--agent", "cmd:sleep 1000", "--seconds", "1")


def submit(run: Run, desk: Path, rate: float, *options: str) -> dict[str, object]:
    """Set the toy's learning rate, as an agent would, and submit it."""
    train = desk / "train.py"
    lines = train.read_text().splitlines(keepends=True)
    changed = [f"LR = {rate}\n" if line.startswith("LR = ") else line for line in lines]
    train.write_text("".join(changed))
    done = run("eval", "-m", f"rate {rate}", "--json", *options, cwd=desk)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_device_whose_agent_thinks_confirms_what_was_found(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "1", "--tag", "i", "--no-tmux", *WAITING)
    desk = repository / "worktrees/i/cpu0"
    answer = submit(run, desk, 0.3)
    assert answer["verdict"] == "keep" and "not yet confirmed" in str(answer["reason"])
    wait_for(lambda: fold(repository, "i").entry("e1").confirmed, timeout=60)
    known = fold(repository, "i").primary
    assert known is not None and known.best == known.incumbent == "e1"
    purposes = [trial.purpose for trial in known.entries["e1"].trials]
    assert purposes[0] == "experiment" and "claim" in purposes
    seeds = [trial.seed for trial in known.entries["e1"].trials]
    assert len(seeds) == len(set(seeds))
    wait_for(lambda: fold(repository, "i").primary.noise.is_measured, timeout=60)  # type: ignore[union-attr]
    shown = status(run, "i")
    noise = shown["device_classes"][0]["noise"]
    assert noise["measured"] and 1e-5 < noise["low"] < noise["sd"] < noise["high"] < 1e-3
    assert "confirmed" in run("board").stdout and "noise: σ 0.000" in run("status").stdout
    run("stop", "--now")
    run("merge", "--into", "main")
    assert_nothing_runs(environment)


def test_a_replicate_makes_way_for_an_experiment(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    slow(repository, 4.0)
    run("spawn", "--agents", "1", "--tag", "w", "--no-tmux", *WAITING)
    known = wait_for(lambda: [t for t in fold(repository, "w").trials.values() if t.outcome])
    assert known
    filler = wait_for(
        lambda: [t for t in fold(repository, "w").trials.values() if t.purpose != "experiment"]
    )
    assert filler
    submit(run, repository / "worktrees/w/cpu0", 0.3, "--no-wait")
    wait_for(lambda: "e1" in [t.experiment for t in fold(repository, "w").trials.values()])
    board = fold(repository, "w")
    cut = list(board.trials.values())[-2]
    assert (cut.purpose, cut.outcome) == ("calibration", "interrupted")
    lines = (repository / "leaderboard/w/journal.jsonl").read_text()
    assert "made way for e1" in lines
    run("stop", "--now")
    assert_nothing_runs(environment)


def test_noise_is_measured_on_purpose(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "2", "--oversubscribe", "--tag", "n", "--no-tmux", *WAITING)
    done = run("noise", "--replicates", "6", "--wait")
    assert "σ 0.000" in done.stdout and "95 %:" in done.stdout
    board = check_journal(repository, "n")
    known = board.primary
    assert known is not None
    calibrations = [t for t in known.entries["e0"].trials if t.purpose == "calibration"]
    assert len(calibrations) >= 6
    seeds = [trial.seed for trial in known.entries["e0"].trials if trial.outcome == "ok"]
    assert len(seeds) == len(set(seeds)), "no run counts twice"
    assert known.calibrations == 0
    run("stop", "--now")
    refused = run("noise", check=False)
    assert refused.returncode == 3 and "has stopped" in refused.stderr


def test_what_cannot_be_started_is_not_tried_four_times_a_second(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "1", "--tag", "p", "--no-tmux", *WAITING)
    wait_for(lambda: fold(repository, "p").primary.incumbent)  # type: ignore[union-attr]
    pinned = repository / "leaderboard/p/pristine/prepare.py"
    pinned.write_text(pinned.read_text() + "# changed\n")
    told = wait_for(lambda: "changed since" in str(status(run, "p")["workers"][0]["reason"]))
    assert told and status(run, "p")["workers"][0]["state"] == "paused"
    trials = len(fold(repository, "p").trials)
    time.sleep(2.0)
    assert len(fold(repository, "p").trials) <= trials + 2
    run("stop", "--now")
    assert_nothing_runs(environment)


def test_nothing_unconfirmed_is_merged_by_itself(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "1", "--tag", "m", "--no-tmux", "--max-experiments", "2", *WAITING)
    desk = repository / "worktrees/m/cpu0"
    wait_for(lambda: fold(repository, "m").primary.incumbent)  # type: ignore[union-attr]
    run("pause")
    submit(run, desk, 0.3, "--no-wait")
    run("stop", "--now")
    refused = run("merge", check=False)
    assert refused.returncode == 3 and "nothing to merge" in refused.stderr
    assert_nothing_runs(environment)


def test_the_last_claim_is_tested_before_a_swarm_ends(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "1", "--tag", "l", "--no-tmux", "--max-experiments", "1", *WAITING)
    submit(run, repository / "worktrees/l/cpu0", 0.3)
    wait_for(lambda: fold(repository, "l").state == "finished", timeout=60)
    board = check_journal(repository, "l")
    assert board.entry("e1").confirmed and board.primary is not None
    assert board.primary.best == "e1"
    assert_nothing_runs(environment)
