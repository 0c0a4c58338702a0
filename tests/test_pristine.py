"""The pinned half of a trial: what is copied, what a trial imports, what a change does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from swarm import pristine
from swarm.errors import SwarmError
from swarm.worktree import Repository

FILES = {
    "prepare.py": "from swarm.harness.score import score\n",
    "train.py": "import prepare\nprint(prepare.score())\n",
    "swarm/__init__.py": '"""A package."""\n',
    "swarm/cli.py": "raise ImportError\n",
    "swarm/harness/__init__.py": "",
    "swarm/harness/score.py": "def score():\n    return 'as it was'\n",
    "swarm/harness/notes.txt": "no code",
}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = tmp_path / 'it\'s a "repo"'
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    found = Repository(folder)
    found.run("add", "-A")
    found.run("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start")
    return found


def test_a_trial_imports_what_the_swarm_began_with(repository: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "pristine copy"
    (folder / "swarm").mkdir(parents=True)
    (folder / "swarm" / "left over.py").write_text("of a spawn that was cut off")
    digest = pristine.write(repository, "HEAD", folder)
    copied = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    fixed = ["prepare.py", "swarm/__init__.py", "swarm/harness/__init__.py"]
    assert copied == {*fixed, "swarm/harness/score.py"}
    assert copied == {name for name in FILES if pristine.is_fixed(name)}
    (repository.folder / "swarm/harness/score.py").write_text("def score():\n    return 0\n")
    done = subprocess.run(
        [sys.executable, repository.folder / "train.py"],
        env={"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "as it was\n", done.stderr
    pristine.verify(folder, digest)


@pytest.mark.parametrize("name", ["prepare.py", "swarm/harness/score.py"])
@pytest.mark.parametrize("change", ["edit", "remove", "torch.py", "__pycache__/prepare.pyc"])
def test_a_change_is_refused(
    repository: Repository, tmp_path: Path, name: str, change: str
) -> None:
    folder = tmp_path / "pristine"
    digest = pristine.write(repository, "HEAD", folder)
    path = folder / name
    if change == "edit":
        path.write_text(path.read_text() + "\n")
    elif change == "remove":
        path.unlink()
    else:
        added = path.parent / change
        added.parent.mkdir(exist_ok=True)
        added.write_text("")
    with pytest.raises(SwarmError, match="was changed since the swarm began") as caught:
        pristine.verify(folder, digest)
    assert digest[:16] in caught.value.hint


def test_a_prepare_alone_is_pinned_as_in_older_swarms(
    repository: Repository, tmp_path: Path
) -> None:
    repository.run("rm", "-rq", "swarm")
    repository.run("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "alone")
    digest = pristine.write(repository, "HEAD", tmp_path / "pristine")
    assert digest == hashlib.sha256(FILES["prepare.py"].encode()).hexdigest()
    pristine.verify(tmp_path / "pristine", digest)
