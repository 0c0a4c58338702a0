"""Worktrees: commits without touching the index, and moves that never lose an edit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import toy

from swarm.config import Desk
from swarm.errors import GitError, Refused, SwarmError
from swarm.mailbox import Mailbox
from swarm.worktree import Repository, Worktree, add_worktree, open_repository


@pytest.fixture
def worktree(repository: Path) -> Worktree:
    return new_worktree(repository, "cpu0")


def new_worktree(repository: Path, name: str) -> Worktree:
    made = add_worktree(
        repository,
        repository / "worktrees" / "t" / name,
        f"swarm/t/{name}",
        toy.git(repository, "rev-parse", "HEAD"),
        repository / "leaderboard" / "git.lock",
    )
    Mailbox(made.folder).create(Desk(str(repository), "t", name))
    return made


def nothing(text: str) -> bool:
    """No text is expendable."""
    return False


def changed(worktree: Worktree, lr: str) -> str:
    return toy.TRAIN.replace("LR = 0.04", f"LR = {lr}  # größer\r\n")


def test_a_commit_holds_exactly_the_source_and_touches_nothing(worktree: Worktree) -> None:
    base, source = worktree.head(), changed(worktree, "0.5")
    (worktree.folder / "notes.txt").write_text("half-written\n")
    toy.git(worktree.folder, "add", "notes.txt")
    index = toy.git(worktree.folder, "ls-files", "--stage")
    commit = worktree.commit_trainer(base, source, "raise LR\n\nWorker: cpu0\n", "swarm cpu0")
    assert worktree.read(commit, "train.py") == source
    assert toy.git(worktree.folder, "diff", "--name-only", base, commit) == "train.py"
    assert toy.git(worktree.folder, "log", "-1", "--format=%an %s", commit) == "swarm cpu0 raise LR"
    assert toy.git(worktree.folder, "ls-files", "--stage") == index
    assert worktree.head() == base


def test_a_move_takes_branch_file_and_index(worktree: Worktree) -> None:
    source = changed(worktree, "0.5")
    commit = worktree.commit_trainer(worktree.head(), source, "m", "a")
    assert worktree.move(commit, nothing)
    assert worktree.head() == commit
    assert worktree.branch() == "swarm/t/cpu0"
    assert worktree.source() == source
    assert worktree.changed_files() == []
    assert worktree.move(commit, nothing), "moving twice is fine"


def test_a_move_never_overwrites_an_edit(worktree: Worktree) -> None:
    commit = worktree.commit_trainer(worktree.head(), changed(worktree, "0.5"), "m", "a")
    before = worktree.head()
    worktree.trainer.write_text("my edit")
    assert not worktree.move(commit, lambda text: text == "another text")
    assert (worktree.head(), worktree.trainer.read_text()) == (before, "my edit")
    assert worktree.move(commit, lambda text: text == "my edit"), (
        "what is safe in a commit may be replaced"
    )
    assert worktree.changed_files() == []


def test_an_edit_in_the_middle_of_a_move_is_put_back(
    worktree: Worktree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent saves between our look at the file and the swap."""
    commit = worktree.commit_trainer(worktree.head(), changed(worktree, "0.5"), "m", "a")
    original = Worktree.read

    def read_and_edit(self: Repository, at: str, path: str) -> str:
        text = original(self, at, path)
        if at != commit:
            worktree.trainer.write_text("saved just now")
        return text

    monkeypatch.setattr(Worktree, "read", read_and_edit)
    assert not worktree.move(commit, nothing)
    assert worktree.trainer.read_text() == "saved just now"


def test_a_move_that_died_half_way_is_finished_by_the_next(worktree: Worktree) -> None:
    commit = worktree.commit_trainer(worktree.head(), changed(worktree, "0.5"), "m", "a")
    worktree.trainer.write_bytes(worktree.read(commit, "train.py").encode())
    assert worktree.move(commit, nothing), "only the file had been replaced"
    assert (worktree.head(), worktree.changed_files()) == (commit, [])
    other = worktree.commit_trainer(commit, changed(worktree, "0.6"), "m", "a")
    worktree.set_ref("refs/heads/swarm/t/cpu0", other, "only the branch had been moved")
    assert worktree.move(other, lambda text: text == worktree.read(commit, "train.py"))
    assert (worktree.head(), worktree.changed_files()) == (other, [])


def test_a_lost_train_py_is_restored(worktree: Worktree) -> None:
    worktree.trainer.unlink()
    assert worktree.move(worktree.head(), nothing)
    assert worktree.changed_files() == []


@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock"])
def test_a_lock_of_a_dead_git_is_cleared(worktree: Worktree, name: str) -> None:
    commit = worktree.commit_trainer(worktree.head(), changed(worktree, "0.5"), "m", "a")
    folder = Path(toy.git(worktree.folder, "rev-parse", "--absolute-git-dir"))
    (folder / name).touch()
    assert worktree.move(commit, nothing)
    assert worktree.changed_files() == []


def test_a_lock_of_a_living_git_is_waited_for(worktree: Worktree) -> None:
    owner = subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=worktree.folder, stdin=subprocess.PIPE
    )
    lock = Path(toy.git(worktree.folder, "rev-parse", "--absolute-git-dir")) / "index.lock"
    lock.touch()
    waiting = subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from pathlib import Path; from swarm.worktree import Worktree\n"
         "w = Worktree(Path(sys.argv[1]), 'swarm/t/cpu0'); w.run('update-index', '--refresh')",
         str(worktree.folder)]
    )  # fmt: skip
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.0)
    assert lock.exists()
    owner.communicate()
    assert waiting.wait(10) == 0
    assert not lock.exists()


def test_worktrees_are_added_in_parallel_and_branches_reused(repository: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: new_worktree(repository, f"gpu{i}"), range(8)))
    first = made[0]
    commit = first.commit_trainer(first.head(), changed(first, "0.5"), "m", "a")
    first.move(commit, nothing)
    toy.git(repository, "worktree", "remove", "--force", str(first.folder))
    again = new_worktree(repository, "gpu0")
    assert again.head() == commit, "respawn never resets a branch"
    assert toy.git(repository, "status", "--porcelain", "--untracked-files=no") == ""
    toy.git(again.folder, "switch", "--quiet", "--detach")
    with pytest.raises(Refused, match="is on branch None, not swarm/t/gpu0"):
        new_worktree(repository, "gpu0")


def test_a_lost_git_file_never_leads_to_the_users_checkout(
    worktree: Worktree, repository: Path
) -> None:
    commit = worktree.commit_trainer(worktree.head(), changed(worktree, "0.5"), "m", "a")
    before = toy.git(repository, "status", "--porcelain"), toy.git(repository, "rev-parse", "HEAD")
    (worktree.folder / ".git").unlink()
    with pytest.raises(GitError, match="is no git checkout"):
        worktree.move(commit, nothing)
    (worktree.folder / ".git").mkdir()
    with pytest.raises(GitError, match="not a git repository"):
        worktree.run("update-index", "--refresh")
    after = toy.git(repository, "status", "--porcelain"), toy.git(repository, "rev-parse", "HEAD")
    assert after == before


def test_errors_name_the_command(worktree: Worktree, tmp_path: Path) -> None:
    with pytest.raises(GitError, match="git cat-file"):
        worktree.read("HEAD", "no such file")
    with pytest.raises(GitError, match="git merge no-such-branch: merge: no-such-branch"):
        worktree.run("merge", "no-such-branch")
    with pytest.raises(SwarmError, match="is not a git repository"):
        open_repository(tmp_path)
    assert worktree.resolve("no-such-branch") is None


def test_a_mailbox_where_a_worktree_was_lost_is_no_obstacle(
    repository: Path, worktree: Worktree
) -> None:
    """A runner that is restarted makes its mailbox, whether or not its worktree is there."""
    shutil.rmtree(worktree.folder)
    Mailbox(worktree.folder).create(Desk(str(repository), "t", "cpu0"))
    again = new_worktree(repository, worktree.folder.name)
    assert again.source() is not None
    assert again.branch() == worktree.branch()
    shutil.rmtree(worktree.folder)
    worktree.folder.mkdir()
    (worktree.folder / "thesis.txt").write_text("somebody's")
    with pytest.raises(GitError, match="already exists"):
        new_worktree(repository, worktree.folder.name)
    assert (worktree.folder / "thesis.txt").exists()
