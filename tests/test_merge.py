"""Merging the best commit, and cleaning up, without surprises in the user's checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A swarm that ended with one improvement, e1 (LR = 0.3); to be copied."""
    folder = tmp_path_factory.mktemp("template")
    root = toy.make_repository(folder / "repo")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "TMUX"))}
    environment = inherited | {"SWARM_CACHE": str(folder / "cache")}

    def run(*arguments: str, cwd: Path = root) -> None:
        done = toy.swarm(cwd, *arguments, environment=environment)
        assert done.returncode == 0, done.stderr

    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "m", "--no-tmux", "--policy", "greedy",
        "--agent", "cmd:sleep 1000")  # fmt: skip
    desk = root / "worktrees/m/cpu0"
    train = desk / "train.py"
    train.write_text(train.read_text().replace("LR = 0.04", "LR = 0.3"))
    run("eval", "-m", "raise LR", cwd=desk)
    run("stop", "--now")
    return root


@pytest.fixture
def finished(template: Path, tmp_path: Path) -> Path:
    """A copy of that repository, in a folder with a space and a quote in its name."""
    root = tmp_path / "a user's repo"
    shutil.copytree(template, root, symlinks=True, ignore=_no_pipes)
    desk, inside = root / "worktrees/m/cpu0", root / ".git/worktrees/cpu0"
    (desk / ".git").write_text(f"gitdir: {inside}\n")
    (inside / "gitdir").write_text(f"{desk / '.git'}\n")
    return root


def _no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_fifo()]


@pytest.fixture
def repository(finished: Path) -> Path:
    return finished


def commit(root: Path, name: str, text: str) -> str:
    (root / name).write_text(text)
    toy.git(root, "add", name)
    toy.git(root, "commit", "--quiet", "-m", f"the user's {name}")
    return toy.git(root, "rev-parse", "HEAD")


def state(root: Path) -> tuple[str, str, str]:
    return (
        toy.git(root, "rev-parse", "HEAD"),
        toy.git(root, "status", "--porcelain"),
        toy.git(root, "worktree", "list"),
    )


def test_fast_forward_of_the_branch_that_is_checked_out(run: Run, finished: Path) -> None:
    best = toy.git(finished, "rev-parse", "swarm/m/best")
    assert run("merge").stdout == f"main is at {best[:10]} with e1 (fast-forward)\n"
    assert "LR = 0.3" in (finished / "train.py").read_text()
    assert toy.git(finished, "status", "--porcelain", "--untracked-files=no") == ""
    assert "(nothing to do)" in run("merge").stdout


def test_a_branch_that_went_on_gets_a_merge_commit(run: Run, finished: Path) -> None:
    mine = commit(finished, "notes.txt", "went on\n")
    assert "(merge commit)" in run("merge").stdout
    parents = toy.git(finished, "rev-list", "--parents", "-n", "1", "HEAD").split()[1:]
    assert parents == [mine, toy.git(finished, "rev-parse", "swarm/m/best")]
    assert "LR = 0.3" in (finished / "train.py").read_text()
    assert "e1 (val_bpb" in toy.git(finished, "log", "-1", "--format=%s")


def test_squash_makes_one_commit_and_a_second_one_nothing(run: Run, finished: Path) -> None:
    before = toy.git(finished, "rev-parse", "HEAD")
    assert "(squash)" in run("merge", "--squash").stdout
    assert toy.git(finished, "rev-list", "--parents", "-n", "1", "HEAD").split()[1:] == [before]
    assert "(nothing to do)" in run("merge", "--squash").stdout


def test_another_branch_moves_without_touching_the_checkout(run: Run, finished: Path) -> None:
    toy.git(finished, "branch", "release")
    commit(finished, "notes.txt", "went on\n")
    (finished / "train.py").write_text("dirty\n")
    before = state(finished)
    run("merge", "--into", "release")
    assert state(finished) == before
    assert "LR = 0.3" in toy.git(finished, "show", "release:train.py")


def test_a_conflict_changes_nothing(run: Run, finished: Path) -> None:
    commit(finished, "train.py", toy.TRAIN.replace("LR = 0.04", "LR = 0.7"))
    before = state(finished)
    done = run("merge", check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: e1 does not merge by itself: git merge")
    assert "hint: by hand: git merge swarm/m/best" in done.stderr
    assert state(finished) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--into", "nowhere"], "there is no branch 'nowhere'"), ([], "HEAD is detached")],
)
def test_no_branch_to_merge_into(
    run: Run, finished: Path, arguments: list[str], message: str
) -> None:
    toy.git(finished, "switch", "--quiet", "--detach")
    done = run("merge", *arguments, check=False)
    assert done.returncode == 3
    assert message in done.stderr


def test_nothing_better_than_the_baseline(run: Run, repository: Path) -> None:
    run("spawn", "--agents", "1", "--seconds", "1", "--no-tmux", "--agent", "cmd:sleep 1000")
    run("stop")
    done = run("merge", check=False)
    assert done.returncode == 3
    assert "no experiment is better than the baseline" in done.stderr


def test_cleaning_keeps_edits_unless_forced_and_commits_always(run: Run, finished: Path) -> None:
    desk = finished / "worktrees/m/cpu0"
    (desk / "train.py").write_text("an idea that was never submitted\n")
    done = run("clean", check=False)
    assert done.returncode == 3
    assert "edits that no experiment holds: train.py" in done.stderr
    assert (desk / "train.py").read_text() == "an idea that was never submitted\n"
    best = toy.git(finished, "rev-parse", "swarm/m/cpu0")
    run("clean", "--force")
    assert not desk.exists()
    assert toy.git(finished, "rev-parse", "refs/swarm/m/archive/cpu0") == best
    assert toy.git(finished, "rev-parse", "refs/swarm/m/e1") == best
    assert toy.git(finished, "for-each-ref", "refs/heads/swarm/m/cpu0") == ""
    assert run("clean").stdout == "nothing to remove\n"
