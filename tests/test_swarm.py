"""Whole swarms: real git, real tmux, real processes, a toy trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import toy
from conftest import command_of, processes_of, reap, wait_for

from swarm.journal import Cursor, Journal
from swarm.leaderboard import Leaderboard
from swarm.records import Claim, TrialFinished, TrialStarted

Run = Callable[..., subprocess.CompletedProcess[str]]

RANDOM_AGENT = """
import random, re, subprocess, sys
rng = random.Random()
while True:
    source = open("train.py").read()
    source = re.sub(r"^LR = \\S+", f"LR = {rng.uniform(0.01, 0.9):.5f}", source, flags=re.M)
    open("train.py", "w").write(source)
    subprocess.run(["swarm", "eval", "-m", "another learning rate"], check=False)
"""


@pytest.fixture
def agent(tmp_path: Path) -> str:
    """A foreign agent: a program that edits train.py and calls `swarm eval`."""
    script = tmp_path / "my agent.py"
    script.write_text(RANDOM_AGENT)
    return f"cmd:exec python3 '{script}'"


def slow(repository: Path, seconds: float) -> None:
    """Make the toy's trials take a while."""
    text = (repository / "train.py").read_text()
    (repository / "train.py").write_text(text.replace("WAIT = 0.0", f"WAIT = {seconds}"))
    toy.git(repository, "commit", "--quiet", "-am", "slow")


def fold(repository: Path, tag: str) -> Leaderboard:
    board = Leaderboard(Journal(repository / "leaderboard" / tag / "journal.jsonl"))
    board.refresh()
    return board


def check_journal(repository: Path, tag: str) -> Leaderboard:
    """Every experiment stands there once, and no trial has two results."""
    path = repository / "leaderboard" / tag / "journal.jsonl"
    lines = Journal(path).read(Cursor())
    for kind, key in ((Claim, "experiment"), (TrialStarted, "trial"), (TrialFinished, "trial")):
        names = [getattr(line, key) for line in lines if isinstance(line, kind)]
        assert len(names) == len(set(names))
    started = {line.trial for line in lines if isinstance(line, TrialStarted)}
    assert {line.trial for line in lines if isinstance(line, TrialFinished)} <= started
    return fold(repository, tag)


def status(run: Run, tag: str) -> dict[str, Any]:
    return json.loads(run("status", "--json", "--tag", tag).stdout)  # type: ignore[no-any-return]


def worker_pid(repository: Path, tag: str, worker: str) -> int:
    beat = json.loads((repository / f"leaderboard/{tag}/workers/{worker}.json").read_text())
    return int(beat["pid"])


def supervisor_pid(tag: str, environment: dict[str, str]) -> int:
    found = processes_of(environment["TMUX_TMPDIR"])
    return next(p.pid for p in found if command_of(p).endswith(f"supervise --tag {tag}"))


def tmux_server(environment: dict[str, str]) -> psutil.Process:
    start = f"tmux -S {environment['TMUX_TMPDIR']}"
    return next(p for p in psutil.process_iter() if start in command_of(p))


def assert_nothing_runs(environment: dict[str, str]) -> None:
    mark = environment["TMUX_TMPDIR"]
    wait_for(lambda: not processes_of(mark), timeout=10)


def test_eight_workers_fifty_experiments_and_a_merge(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    toy.git(repository, "switch", "--quiet", "-c", "my-own-work")
    run("spawn", "--agents", "8", "--oversubscribe", "--seconds", "1", "--tag", "t1",
        "--max-experiments", "56")  # fmt: skip
    (repository / "notes.txt").write_text("edited while the swarm runs\n")
    (repository / "new file.txt").write_text("untracked\n")
    before = toy.git(repository, "status", "--porcelain"), toy.git(repository, "rev-parse", "HEAD")
    wait_for(lambda: fold(repository, "t1").state == "finished", timeout=150, every=0.3)

    board = check_journal(repository, "t1")
    known = board.primary
    assert known is not None and known.incumbent is not None
    assert len(board.claims) == 57
    assert all(entry.kind in ("keep", "discard") for entry in known.entries.values())
    assert len(known.entries["e0"].values) == 2, "the baseline runs twice"
    best = board.claims[known.incumbent]
    assert known.entries[known.incumbent].values[0] < known.entries["e0"].values[0] - 0.01
    for name in board.active:
        worktree = repository / "worktrees" / "t1" / name
        assert toy.git(worktree, "rev-parse", "HEAD") == best.commit
        assert toy.git(worktree, "status", "--porcelain") == ""
        assert toy.git(worktree, "branch", "--show-current") == f"swarm/t1/{name}"
    for name, claim in board.claims.items():
        assert toy.git(repository, "rev-parse", f"refs/swarm/t1/{name}") == claim.commit
    assert toy.git(repository, "rev-parse", "swarm/t1/best") == best.commit

    after = toy.git(repository, "status", "--porcelain"), toy.git(repository, "rev-parse", "HEAD")
    assert after == before
    run("merge", "--into", "main")
    assert toy.git(repository, "rev-parse", "main") == best.commit
    assert toy.git(repository, "status", "--porcelain") == before[0]
    assert run("merge", check=False).returncode == 3, "the dirty checkout is refused"
    rows = (repository / "leaderboard/t1/results.tsv").read_text().splitlines()
    assert len(rows) == 58
    assert rows[0].startswith("commit\tval_bpb\tmemory_gb\tstatus\tdescription\t")
    assert_nothing_runs(environment)


def test_a_foreign_agent_in_the_background(
    run: Run, repository: Path, environment: dict[str, str], agent: str
) -> None:
    done = run("spawn", "--agents", "2", "--seconds", "1", "--agent", agent, "--no-tmux",
               "--max-experiments", "6", "--tag", "bg", "--wait", "--oversubscribe")  # fmt: skip
    assert "bg has finished: all 6 experiments are used" in done.stderr
    assert "best: e" in done.stdout
    assert len(check_journal(repository, "bg").claims) == 7
    assert_nothing_runs(environment)


def test_killing_runner_supervisor_and_tmux(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    slow(repository, 0.7)
    run("spawn", "--agents", "2", "--seconds", "1", "--tag", "k", "--oversubscribe")
    wait_for(lambda: fold(repository, "k").workers["cpu0"].open_trial)
    os.kill(worker_pid(repository, "k", "cpu0"), signal.SIGKILL)
    wait_for(lambda: "interrupted" in {t.outcome for t in fold(repository, "k").trials.values()})

    os.kill(supervisor_pid("k", environment), signal.SIGKILL)
    spent = fold(repository, "k").spent_experiments
    wait_for(lambda: fold(repository, "k").spent_experiments > spent + 1)
    assert status(run, "k")["supervisor"] is False
    os.kill(worker_pid(repository, "k", "cpu1"), signal.SIGKILL)
    wait_for(lambda: status(run, "k")["workers"][1]["state"] == "dead")
    assert "cpu1" in run("recover").stderr

    tmux_server(environment).kill()
    before = len(fold(repository, "k").trials)
    wait_for(lambda: len(fold(repository, "k").trials) > before + 4)
    assert [worker["pane"] for worker in status(run, "k")["workers"]] == ["%0", "%1"]
    run("stop")
    board = check_journal(repository, "k")
    for trial in board.trials.values():
        assert trial.outcome in ("ok", "interrupted")
        assert (trial.val_bpb is None) == (trial.outcome == "interrupted")
    assert_nothing_runs(environment)


def test_stop_cuts_off_and_spawn_goes_on(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    slow(repository, 1.0)
    run("spawn", "--agents", "2", "--oversubscribe", "--seconds", "1", "--tag", "s")
    wait_for(lambda: fold(repository, "s").spent_experiments >= 2)
    wait_for(lambda: fold(repository, "s").workers["cpu0"].open_trial)
    run("stop", "--now")
    assert_nothing_runs(environment)
    board = fold(repository, "s")
    assert board.state == "stopped"
    assert all(trial.outcome for trial in board.trials.values())
    branches = toy.git(repository, "for-each-ref", "refs/heads/swarm/s")
    claims = len(board.claims)
    assert run("stop", check=False).returncode == 3

    run("spawn", "--agents", "2", "--oversubscribe", "--seconds", "1", "--tag", "s")
    wait_for(lambda: len(fold(repository, "s").claims) > claims)
    refused = run("spawn", "--agents", "2", "--oversubscribe", "--tag", "s", check=False)
    assert refused.returncode == 3
    assert refused.stderr.splitlines()[0] == "error: swarm 's' is running"
    run("stop", "--now")
    check_journal(repository, "s")
    for line in branches.splitlines():
        toy.git(repository, "cat-file", "-e", line.split()[0])
    removed = run("clean").stdout
    assert "refs/swarm/s/archive/cpu0" in removed
    assert not (repository / "worktrees/s").exists()
    assert_nothing_runs(environment)


def test_a_hopeless_agent_is_parked_and_the_swarm_says_why(
    run: Run, repository: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "p", "--agent", "cmd:exit 9")
    wait_for(lambda: fold(repository, "p").workers["cpu0"].experiments == 0)
    wait_for(lambda: "exit code 9" in (repository / "leaderboard/p/journal.jsonl").read_text())
    run("stop", "--now")
    assert_nothing_runs(environment)


def test_two_swarms_do_not_share_a_device(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "one")
    second = run("spawn", "--agents", "1", "--seconds", "1", "--tag", "two", check=False)
    assert second.returncode == 3
    assert "is already training: " in second.stderr
    assert not (repository / "leaderboard/two").exists()
    run("stop", "--now", "--tag", "one")


def test_a_full_disk_pauses_the_swarm_and_loses_nothing(
    tmp_path: Path, environment: dict[str, str], agent: str
) -> None:
    mount = tmp_path / "a small disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        root = toy.make_repository(mount / "repo")
        run = partial(toy.swarm, root, environment=environment)
        done = run("spawn", "--agents", "2", "--oversubscribe", "--seconds", "1", "--tag", "d",
                   "--agent", agent)  # fmt: skip
        assert done.returncode == 0, done.stderr
        wait_for(lambda: fold(root, "d").spent_experiments >= 3)
        fill(mount / "big file")
        wait_for(lambda: "disk full" in run("status").stdout)
        paused = fold(root, "d")
        refused = run("note", "is there room? " * 2000)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: no space left to write ")
        assert "Traceback" not in refused.stderr
        (mount / "big file").unlink()
        wait_for(lambda: fold(root, "d").spent_experiments >= paused.spent_experiments + 3)
        assert run("stop", "--now").returncode == 0
        board = check_journal(root, "d")
        assert set(paused.claims) <= set(board.claims)
        assert all(trial.outcome for trial in board.trials.values())
        wait_for(lambda: not processes_of(environment["TMUX_TMPDIR"]), timeout=10)
    finally:
        reap(environment["TMUX_TMPDIR"])
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full, to the last byte."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
