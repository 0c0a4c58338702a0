"""What a trial leaves in its folder: a short list of files stays, and all else can be removed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from conftest import wait_for
from test_hostile import Scene, attack, real, scene  # noqa: F401  fixtures
from trainer_fixtures import prepared  # noqa: F401  a fixture

from swarm import children, records, weights
from swarm.paths import Paths

_AS_A_USER = """
import ctypes, os, sys
if os.geteuid() == 0:  # without root's right to open what is closed
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def as_a_user(program: str, *arguments: str) -> None:
    command = [sys.executable, "-c", _AS_A_USER, "-c", program, *arguments]
    subprocess.run(command, check=True, timeout=60)


def make_closed(folder: Path) -> None:
    for name, mode in (("closed", 0), ("unlisted", 0o300), ("unsearchable", 0o400)):
        (folder / name / "below" / "deeper").mkdir(parents=True)
        (folder / name / "file").write_text("x")
        (folder / name / "below").chmod(mode)
        (folder / name).chmod(mode)
    (folder / "unreadable").write_text("x")
    (folder / "unreadable").chmod(0)


REMOVE = """
import sys
from pathlib import Path
from swarm import children
children.remove(Path(sys.argv[1]).iterdir())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl makes the user")
def test_what_is_closed_to_us_is_removed(tmp_path: Path) -> None:
    make_closed(tmp_path)
    as_a_user(REMOVE, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_stays_and_nothing_is_raised(tmp_path: Path) -> None:
    children.remove([tmp_path / "nothing", tmp_path / "no folder" / "nothing", Path("/proc/self")])
    (tmp_path / "file").touch()
    children.remove([tmp_path / "file" / "below", tmp_path / ("x" * 300)])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_many_folders_with_long_names_are_removed(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / f"{number:0>250}" / "below").mkdir(parents=True)
    target = tmp_path.with_name("target")
    target.mkdir()
    (target / "file").touch()
    (tmp_path / "link").symlink_to(target)
    children.remove(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    assert (target / "file").exists()


TIDY = """
import sys
from pathlib import Path
from swarm.logfile import CappedLog
from swarm.trial import _tidy
folder = Path(sys.argv[1])
with CappedLog(folder / "run.log") as log:
    log.write(b"words")
    for name in ("attested.json", "run.log"):
        (folder / name).touch()
        (folder / name).chmod(0)
    folder.chmod(0)
    _tidy(folder, log)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl makes the user")
def test_files_that_stay_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "t1"
    folder.mkdir()
    make_closed(folder)
    as_a_user(TIDY, str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["attested.json", "run.log"]
    assert all(path.stat().st_mode & 0o600 == 0o600 for path in [folder, *folder.iterdir()])
    assert (folder / "run.log").read_text() == "words"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
@pytest.mark.parametrize("outcome", ["ok", "rejected"])
def test_only_a_file_is_taken_for_weights(tmp_path: Path, kind: str, outcome: str) -> None:
    paths = Paths(tmp_path, "v")
    left = paths.trial("t1") / "weights.safetensors"
    left.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x")
    if kind == "folder":
        (left / "below").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(left)
    else:
        left.symlink_to(elsewhere)
    score = 0.9 if outcome == "ok" else None
    result = records.TrialFinished(trial="t1", outcome=outcome, seconds=1.0, val_bpb=score)  # type: ignore[arg-type]
    weights.keep(paths, result)
    assert not os.path.lexists(left)
    assert weights.kept(paths) == set()
    assert elsewhere.read_text() == "x"


def test_a_folder_does_not_keep_an_examination_from_its_log(real: Scene) -> None:  # noqa: F811
    result = attack(real, "examination_log_folder", examine_below=1e9)
    assert (result.outcome, result.val_bpb) == ("rejected", None)
    assert "its rows make" in result.reason
    assert (real.folder / "examination.log").is_file()


def test_a_runner_survives_a_folder_of_weights(
    run: Callable[..., object], repository: Path
) -> None:
    (repository / "train.py").write_text(
        toy.TRAIN + "\nimport os\nos.makedirs('weights.safetensors/below')\n"
    )
    toy.git(repository, "commit", "--quiet", "-am", "a folder")
    run("spawn", "--agents", "1", "--seconds", "1", "--tag", "h", "--no-tmux",
        "--agent", "cmd:sleep 1000")  # fmt: skip
    journal = repository / "leaderboard" / "h" / "journal.jsonl"
    wait_for(lambda: '"outcome":"ok"' in journal.read_text(), timeout=40)
    run("stop", "--now")
