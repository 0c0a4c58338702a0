"""What the tests of prepare.py and train.py share: the two modules at small scale, tiny data."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
import warm

torch.set_num_threads(1)  # the tensors are tiny

ROOT = Path(__file__).resolve().parent.parent

_previous = os.environ.get("SWARM_SCALE")
os.environ["SWARM_SCALE"] = "small"  # also where the tests run on a machine with a GPU
sys.path.insert(0, str(ROOT))
import prepare  # noqa: E402

if _previous is None:
    del os.environ["SWARM_SCALE"]
else:
    os.environ["SWARM_SCALE"] = _previous

CORPUS_BYTES = 1_300_000


def stdlib_texts(limit: int) -> list[str]:
    """Real text: modules of the standard library, about `limit` bytes."""
    texts, total = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        texts.append(text)
        total += len(text)
        if total >= limit:
            break
    return texts


def write_corpus(folder: Path, limit: int = CORPUS_BYTES) -> Path:
    folder.mkdir(parents=True)
    for number, text in enumerate(stdlib_texts(limit)):
        (folder / f"text {number}.txt").write_text(text, encoding="utf-8")
    return folder


def environment(cache: Path, **more: str) -> dict[str, str]:
    """The environment of a child: its own cache, one thread, nothing of ours but `more`."""
    ours = ("SWARM_", "TORCHINDUCTOR_", "TRITON_")  # torch sets some of these itself
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    settings = {"SWARM_CACHE": str(cache), "SWARM_SCALE": "small", "OMP_NUM_THREADS": "1"}
    return kept | settings | {"PYTHONPATH": str(ROOT)} | more


def run_python(
    *arguments: str | Path, cache: Path, cwd: Path = ROOT, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(cache, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_warm(
    *arguments: str | Path, cache: Path, cwd: Path = ROOT, **more: str
) -> subprocess.CompletedProcess[str]:
    """As `run_python`, in a process that has torch already."""
    return warm.run_python(*arguments, folder=cwd, environment=environment(cache, **more))


def summary(output: str) -> dict[str, str]:
    """The `key: value` lines after the last `---`."""
    lines = output.rsplit("---\n", 1)[1].splitlines()
    return dict(line.split(": ", 1) for line in lines)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, prepare.Dataset]:
    """A cache in an awkward folder, and the tiny dataset prepared in it."""
    place = tmp_path_factory.mktemp('it\'s a "place"')
    cache = place / "the cache"
    done = run_python("prepare.py", "--dataset", write_corpus(place / "corpus"), cache=cache)
    assert done.returncode == 0, done.stderr
    return cache, prepare.Dataset.open(Path(summary(done.stdout)["dataset"]), "small")
