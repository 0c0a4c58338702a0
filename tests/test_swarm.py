"""Whole swarms: real git, real tmux, real processes, a toy trainer."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
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
from swarm.mailbox import Mailbox
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
    assert len(known.entries["e0"].values) >= 2, "the baseline runs twice"
    best = board.claims[known.incumbent]
    assert known.entries[known.incumbent].values[0] < known.entries["e0"].values[0] - 0.01
    for name in board.active:
        worktree = repository / "worktrees" / "t1" / name
        assert toy.git(worktree, "rev-parse", "HEAD") == best.commit
        # The tuner takes an edit back when it is told to end, which may be a moment later.
        wait_for(lambda at=worktree: toy.git(at, "status", "--porcelain") == "", timeout=5)
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
    wait_for(lambda: all((w["pane"] or "").startswith("%") for w in status(run, "k")["workers"]))
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


def test_attaching_shows_the_panes(run: Run, repository: Path, environment: dict[str, str]) -> None:
    """From inside another tmux, where a plain attach would be refused."""
    run("spawn", "--agents", "2", "--oversubscribe", "--seconds", "1", "--tag", "a",
        "--agent", "cmd:echo here I am; sleep 1000")  # fmt: skip
    outer = ["tmux", "-L", "outer", "-f", "/dev/null"]
    attach = shlex.join([sys.executable, "-P", "-m", "swarm.cli", "attach", "cpu1"])
    command = [*outer, "new-session", "-d", "-x", "100", "-y", "30", attach]
    subprocess.run(command, cwd=repository, env=environment, check=True)

    def screen() -> str:
        show = [*outer, "capture-pane", "-p"]
        return subprocess.run(show, env=environment, capture_output=True, text=True).stdout

    wait_for(lambda: screen().count("here I am") == 2 and "cpu1" in screen())
    subprocess.run([*outer, "kill-server"], env=environment, check=True)
    run("stop", "--now")


def test_an_agent_that_exits_is_started_again_and_its_words_are_kept(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "p",
        "--agent", "cmd:echo no network today; exit 9")  # fmt: skip
    journal = repository / "leaderboard/p/journal.jsonl"
    wait_for(lambda: journal.read_text().count("exit code 9: no network today") >= 2)
    run("stop", "--now")
    assert_nothing_runs(environment)


def test_a_stopped_swarm_goes_on_as_it_was_or_otherwise(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    slow(repository, 0.5)
    run("spawn", "--agents", "2", "--oversubscribe", "--seconds", "1", "--tag", "s")
    wait_for(lambda: fold(repository, "s").workers["cpu1"].open_trial)
    run("stop", "--now")  # in the middle of the baseline
    run("spawn", "--tag", "s")
    wait_for(lambda: fold(repository, "s").spent_experiments >= 3)
    run("stop", "--now")
    board = fold(repository, "s")
    assert (list(board.active), len(board.classes)) == (["cpu0", "cpu1"], 1)
    assert len(board.entry("e0").values) >= 2, "an interrupted baseline is run again"
    assert board.config is not None and board.config.seconds == 1.0

    run("spawn", "--tag", "s", "--seconds", "2", "--agents", "1")
    count = len(board.claims)
    wait_for(lambda: len(fold(repository, "s").claims) > count + 2)
    scored = next(name for name in board.claims if name != "e0" and board.entry(name).values)
    assert run("show", scored).stdout.startswith(f"{scored}  ")
    told = json.loads(run("result", scored, "--json").stdout)
    # With another seed it may have been run again by now.
    assert told["val_bpb"] == pytest.approx(board.entry(scored).values[0], abs=1e-3)
    run("stop", "--now")
    board = fold(repository, "s")
    assert len(board.classes) == 2
    assert board.primary is not None and "/2s/" in board.primary.name
    assert board.primary.entries["e0"].values, "the baseline is measured anew"
    check_journal(repository, "s")
    assert_nothing_runs(environment)


def test_verdicts_that_wait_for_the_baseline_are_answered(
    run: Run, repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Two workers run a slow baseline; the third one's fast result waits for theirs."""
    train = (repository / "train.py").read_text()
    (repository / "train.py").write_text(
        train.replace("time.sleep(WAIT)", "time.sleep(2 * (LR == 0.04))")
    )
    toy.git(repository, "commit", "--quiet", "-am", "a slow baseline")
    script = tmp_path / "one change.py"
    script.write_text(
        RANDOM_AGENT.replace("while True:", "for _ in range(1):")
        + "\nimport time; time.sleep(99)\n"
    )
    run("spawn", "--agents", "3", "--oversubscribe", "--seconds", "1", "--tag", "w", "--no-tmux",
        "--agent", f"cmd:exec python3 '{script}'")  # fmt: skip
    log = repository / "leaderboard/w/workers/cpu2.log"
    wait_for(lambda: log.exists() and "vs" in log.read_text(), timeout=20)
    assert fold(repository, "w").trials["t0"].outcome == "ok"
    run("stop", "--now")


def test_a_swarm_started_from_a_git_hook_leaves_the_index_alone(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    environment["GIT_DIR"] = str(repository / ".git")
    environment["GIT_WORK_TREE"] = str(repository)
    environment["GIT_INDEX_FILE"] = str(repository / ".git/index")
    before = toy.git(repository, "ls-files", "--stage")
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "g", "--max-experiments", "2",
        "--wait", "--no-tmux")  # fmt: skip
    assert toy.git(repository, "ls-files", "--stage") == before
    assert toy.git(repository, "status", "--porcelain", "--untracked-files=no") == ""
    assert len(check_journal(repository, "g").claims) == 3


def test_a_cleaned_or_lost_worktree_is_made_anew(
    run: Run, repository: Path, environment: dict[str, str]
) -> None:
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "c", "--no-tmux",
        "--agent", "cmd:sleep 1000")  # fmt: skip
    desk = repository / "worktrees/c/cpu0"
    toy.git(desk, "clean", "-ffdxq")
    wait_for(lambda: Mailbox(desk).exists())
    train = desk / "train.py"
    train.write_text(train.read_text().replace("LR = 0.04", "LR = 0.3"))
    assert json.loads(run("eval", "-m", "up", "--json", cwd=desk).stdout)["verdict"] == "keep"
    os.kill(worker_pid(repository, "c", "cpu0"), signal.SIGKILL)
    shutil.rmtree(desk)
    run("recover")
    wait_for(lambda: train.exists() and "LR = 0.3" in train.read_text())
    run("stop", "--now")


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
        kinds = {entry.kind for entry in board.classes[next(iter(board.classes))].entries.values()}
        assert kinds <= {"keep", "discard", "candidate"}, "a full disk is no experiment's fault"
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
