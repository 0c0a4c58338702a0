"""The fixed half of every trial, as it was when the swarm began: prepare.py and what it imports."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from swarm.config import EVALUATOR, HARNESS
from swarm.errors import SwarmError
from swarm.worktree import Repository


def is_fixed(path: str) -> bool:
    """Whether a file of the repository belongs to the fixed half."""
    package = "swarm/__init__.py"
    return path in (EVALUATOR, package) or re.match(rf"{HARNESS}/.*\.py", path) is not None


def write(repository: Repository, commit: str, folder: Path) -> str:
    """Copy the fixed files of a commit into a folder, and nothing else; return their digest."""
    if folder.exists():  # of a spawn that was cut off
        shutil.rmtree(folder)
    listed = repository.run("ls-tree", "-r", "-z", "--name-only", commit).split("\0")
    fixed = {path: repository.read(commit, path).encode() for path in listed if is_fixed(path)}
    for path, content in fixed.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return _digest(fixed)


def verify(folder: Path, expected: str) -> None:
    """Raise `SwarmError` unless the folder holds what the swarm began with, and nothing else.

    Trials write no bytecode, so a compiled file there is somebody's attempt to be imported instead.
    """
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    if _digest({name: path.read_bytes() for name, path in found.items()}) != expected:
        raise SwarmError(
            f"{folder} was changed since the swarm began",
            f"its digest must be {expected[:16]}…; restore it, then swarm recover",
        )


def _digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 of the files; of one alone (as swarms of version 0.1 have) that of its content."""
    if set(files) == {EVALUATOR}:
        return hashlib.sha256(files[EVALUATOR]).hexdigest()
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return whole.hexdigest()
