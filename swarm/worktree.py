"""Worktrees, branches and commits, over git itself (GitPython); only train.py is ever moved."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock
import psutil

from swarm.config import TRAINER
from swarm.disk import DISK_FULL, writing
from swarm.errors import DiskFull, GitError, Refused, SwarmError

try:
    import git
except ImportError as error:  # GitPython looks for git when it is imported
    raise SwarmError("git is not installed", "apt install git / brew install git") from error

_LOCK_EXISTS = re.compile(r"Unable to create '(?P<path>.+?\.lock)': File exists")
# The journal names commits, so they must be as durable as it is (git 2.36+; ignored before).
_DURABLE = ("-c", "core.fsync=loose-object,reference")
_LOCK_ATTEMPTS, _LOCK_WAIT_SECONDS = 20, 0.1


class Repository:
    """Git commands in one checkout: the user's own or a worker's worktree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._git = git.cmd.Git(folder)

    def run(
        self, *command: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> str:
        """Run `git COMMAND` and return its output without the final newline.

        A lock left by a dead git process is cleared and the command tried again. Raises
        `GitError` naming the command.
        """
        return self._output(command, stdin, environment or {}).decode().removesuffix("\n")

    def read(self, commit: str, path: str) -> str:
        """The text of a file at a commit, exactly."""
        return self._output(("cat-file", "blob", f"{commit}:{path}"), b"", {}).decode()

    def _output(
        self, command: tuple[str, ...], stdin: bytes, environment: Mapping[str, str]
    ) -> bytes:
        for attempt in range(_LOCK_ATTEMPTS + 1):
            try:
                return self._once(command, stdin, environment)
            except git.exc.GitCommandError as error:
                locked = _LOCK_EXISTS.search(str(error.stderr))
                if not locked or attempt == _LOCK_ATTEMPTS:
                    raise _translated(command, error) from error
                _clear_stale_lock(Path(locked["path"]))
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self, command: tuple[str, ...], stdin: bytes, environment: Mapping[str, str]
    ) -> bytes:
        # Where the folder or its .git is gone, GitPython would run in our own working directory
        # and git would find the checkout around it: the user's.
        if not (self.folder / ".git").exists():
            raise GitError(f"{self.folder} is no git checkout", "swarm recover makes it anew")
        ceiling = {"GIT_CEILING_DIRECTORIES": str(self.folder.parent)}
        arguments = ["git", *_DURABLE, *command]
        # The wrapper must stay referenced: it ends the process when it is collected.
        wrapper = self._git.execute(
            arguments, env={**environment, **ceiling}, istream=subprocess.PIPE, as_process=True
        )
        assert wrapper.proc is not None
        out, err = wrapper.proc.communicate(stdin)
        if wrapper.proc.returncode:
            raise git.exc.GitCommandError(arguments, wrapper.proc.returncode, err, out)
        return bytes(out)

    def resolve(self, name: str) -> str | None:
        """The commit that a ref, branch or short id names; `None` when there is none."""
        try:
            return self.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except GitError:
            return None

    def branch(self) -> str | None:
        """The branch that is checked out; `None` when HEAD is detached."""
        try:
            return self.run("symbolic-ref", "--quiet", "--short", "HEAD")
        except GitError:
            return None

    def changed_files(self) -> list[str]:
        """Tracked files that differ from HEAD, in the index or the folder."""
        # --no-optional-locks: looking must not take the index lock away from whoever works here.
        out = self.run("--no-optional-locks", "status", "--porcelain", "-z", "--untracked-files=no")
        return [entry[3:] for entry in out.split("\0") if len(entry) > 3]

    def commit_trainer(self, base: str, source: str, message: str, author: str) -> str:
        """Write a commit: `base` with train.py replaced. No index, branch or file is touched."""
        blob = self.run("hash-object", "-w", "--stdin", stdin=source.encode())
        tree = self.run("ls-tree", "-z", base)
        entries = tree.rstrip("\0").split("\0")
        replaced = [
            f"{entry.split()[0]} blob {blob}\t{TRAINER}" if _path(entry) == TRAINER else entry
            for entry in entries
        ]
        new_tree = self.run("mktree", "-z", stdin=("\0".join(replaced) + "\0").encode())
        return self.run(
            "commit-tree", new_tree, "-p", base, "-F", "-",
            stdin=message.encode(), environment=_identity(author),
        )  # fmt: skip

    def set_ref(self, ref: str, commit: str, reason: str) -> None:
        """Point a ref (`refs/…`) at a commit, wherever it pointed."""
        self.run("update-ref", "-m", reason, ref, commit)

    def head(self) -> str:
        return self.run("rev-parse", "HEAD")


class Worktree(Repository):
    """A worker's checkout, on its own branch."""

    def __init__(self, folder: Path, branch: str) -> None:
        super().__init__(folder)
        self.branch_name = branch

    @property
    def trainer(self) -> Path:
        return self.folder / TRAINER

    def source(self) -> str | None:
        """train.py as it lies in the folder; `None` when it is gone or no text."""
        try:
            return self.trainer.read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            return None

    def move(self, commit: str, expendable: Callable[[str], bool]) -> bool:
        """Put branch and train.py onto `commit`; other files are the same in all experiments.

        Only if train.py is what HEAD says, or `expendable` says that its text is: an agent's
        unsubmitted edits are never lost. Returns whether it moved. Safe to repeat after a crash at
        any point.
        """
        head = self.head()
        target = self.read(commit, TRAINER)
        current = self.source()
        if current is None or current == target:
            known = True
        else:
            known = current == self.read(head, TRAINER) or expendable(current)
        if not known or not self._swap(current, target):
            return False
        if head != commit:
            self.set_ref(f"refs/heads/{self.branch_name}", commit, "swarm: move")
        if head != commit or self.changed_files():
            self.run("update-index", "--add", "--cacheinfo", self._index_entry(commit))
            self.run("update-index", "-q", "--refresh")
        return True

    def _index_entry(self, commit: str) -> str:
        mode, _, blob, _ = self.run("ls-tree", commit, TRAINER).split(maxsplit=3)
        return f"{mode},{blob},{TRAINER}"

    def _swap(self, current: str | None, target: str) -> bool:
        """Replace train.py, unless it changed since it was read; then put the edit back."""
        if current == target:
            return True
        box = self.folder / ".swarm"
        new, old = box / "incoming.py", box / "outgoing.py"
        with writing(self.trainer):
            box.mkdir(exist_ok=True)
            new.write_bytes(target.encode())
            old.unlink(missing_ok=True)
            if current is not None:
                os.link(self.trainer, old)
            new.replace(self.trainer)
        if current is not None and old.read_bytes() != current.encode():
            old.replace(self.trainer)
            return False
        return True


def open_repository(root: Path) -> Repository:
    """The user's checkout at `root`; raises `SwarmError` when git does not accept it."""
    repository = Repository(root)
    try:
        repository.run("rev-parse", "--git-dir")
    except GitError as error:
        raise SwarmError(
            f"{root} is not a git repository ({error})", "git init, add train.py, and commit"
        ) from error
    return repository


def add_worktree(root: Path, folder: Path, branch: str, commit: str, lock: Path) -> Worktree:
    """Check out `branch` in `folder`, creating what is missing; an existing branch is reused.

    Serialised: parallel `git worktree add` fails now and then.
    """
    repository = Repository(root)
    worktree = Worktree(folder, branch)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock, fallback_to_soft=False):
        if (folder / ".git").exists():
            if worktree.branch() != branch:
                raise Refused(
                    f"{folder} is on branch {worktree.branch()}, not {branch}",
                    f"git -C '{folder}' switch {branch}",
                )
            return worktree
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".swarm"}:
            shutil.rmtree(folder)  # a runner laid its mailbox where the worktree was lost
        ours = folder.parent / ".gitignore"
        folder.parent.mkdir(parents=True, exist_ok=True)
        ours.write_text("*\n")
        exists = repository.resolve(f"refs/heads/{branch}") is not None
        # -f: a folder that was removed by hand may still be registered.
        start = [str(folder), branch] if exists else ["-b", branch, str(folder), commit]
        repository.run("worktree", "add", "--quiet", "-f", *start)
    return worktree


def _path(entry: str) -> str:
    return entry.partition("\t")[2]


def _identity(author: str) -> dict[str, str]:
    name = {"GIT_AUTHOR_NAME": author, "GIT_COMMITTER_NAME": author}
    return name | {"GIT_AUTHOR_EMAIL": "swarm@localhost", "GIT_COMMITTER_EMAIL": "swarm@localhost"}


def _translated(command: tuple[str, ...], error: git.exc.GitCommandError) -> SwarmError:
    said = re.sub(r"^\s*stderr: '(.*)'$", r"\1", str(error.stderr).strip(), flags=re.DOTALL)
    text = " ".join(said.split()) or f"exit code {error.status}"
    if DISK_FULL in text:
        return DiskFull(f"no space left for git {command[0]}", "free some space; nothing is lost")
    return GitError(f"git {' '.join(command[:2])}: {text}", "run swarm doctor, then swarm recover")


def _clear_stale_lock(lock: Path) -> None:
    """Remove a git lock whose owner is dead; where it may be alive, wait a little.

    The owner can only be a git process of this repository that is older than the lock.
    """
    try:
        created = lock.stat().st_mtime
    except FileNotFoundError:
        return
    if any(_may_own(process, lock, created) for process in psutil.process_iter()):
        time.sleep(_LOCK_WAIT_SECONDS)
    else:
        lock.unlink(missing_ok=True)


def _may_own(process: psutil.Process, lock: Path, created: float) -> bool:
    try:
        if not process.name().startswith("git") or process.create_time() > created + 0.1:
            return False
        cwd = Path(process.cwd())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    common = next((parent for parent in lock.parents if parent.name == ".git"), lock.parent)
    return lock.is_relative_to(cwd) or cwd.is_relative_to(common.parent)
