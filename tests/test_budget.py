"""The training budget: when training began by what the harness saw, and how much more is let by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trainer_fixtures import ROOT, prepared, run_python  # noqa: F401  a fixture

from swarm import summary
from swarm.trial import Ending

HOSTILE = ROOT / "tests" / "hostile"
MODEL = """
import sys, time, torch, prepare
dataset, device = prepare.Dataset.open(), prepare.pick_device()
loader = prepare.Loader(dataset, 2, device, 0)
def evaluate():
    prepare.evaluate_bpb(lambda x: torch.zeros((*x.shape, dataset.vocab_size)), 32, device, dataset)
"""


def attested(
    folder: Path,
    prepared: tuple[Path, Any],  # noqa: F811
    *arguments: str | Path,
) -> tuple[Path, dict[str, Any]]:
    """Run a train.py by itself; the attestation it left, and what that says."""
    path = folder / "attested.json"
    cache, dataset = prepared
    more = {"SWARM_ATTEST": str(path), "SWARM_DATASET": str(dataset.path), "SWARM_DEVICE": "cpu"}
    done = run_python(*arguments, cache=cache, cwd=folder, **more)
    assert done.returncode == 0, done.stderr
    path.with_name("log").write_text(done.stdout)
    return path, json.loads(path.read_text())


def judged(attestation: Path, seconds: float, log: str) -> tuple[str, str]:
    result = summary.judge("t1", seconds, 900.0, Ending(0, None, 9.0), log, attestation)
    return result.outcome, result.reason


@pytest.mark.parametrize(
    ("way", "seconds"),
    [("one batch", 6.5), ("data", 2.5), ("memory_map", 2.5), ("rows_of", 2.5)],
)
def test_training_counts_from_the_first_rows(
    way: str,
    seconds: float,
    tmp_path: Path,
    prepared: tuple[Path, Any],  # noqa: F811
) -> None:
    path, found = attested(tmp_path, prepared, HOSTILE / "past_budget_unseen.py", way, f"{seconds}")
    assert found["training_seconds"] >= seconds
    outcome, reason = judged(path, 1.0, path.with_name("log").read_text())
    assert outcome == "rejected"
    assert reason.endswith("s of a budget of 1 s")


def test_what_comes_before_the_first_batch_does_not_count(
    tmp_path: Path,
    prepared: tuple[Path, Any],  # noqa: F811
) -> None:
    """A warm-up with synthetic tokens, as in the real train.py."""
    source = MODEL + "time.sleep(1.5); next(loader); next(loader); evaluate()"
    _, found = attested(tmp_path, prepared, "-c", source)
    assert found["training_seconds"] < 1.0
    assert found["batches"] == 2


def test_who_takes_no_rows_has_trained_since_the_start(
    tmp_path: Path,
    prepared: tuple[Path, Any],  # noqa: F811
) -> None:
    _, found = attested(tmp_path, prepared, "-c", MODEL + "time.sleep(6); evaluate()")
    assert found["training_seconds"] > 1.0
    assert found["batches"] == 0


@pytest.mark.parametrize(
    ("seconds", "batches", "honest", "blown"),
    [
        (300.0, 3000, 306.9, 307.1),  # the factor, and the least slack
        (300.0, 300, 308.0, 308.1),  # two batches of 1 s
        (300.0, 10, 310.9, 311.1),  # the most slack
        (20.0, 400, 21.3, 21.5),
        (20.0, 30, 21.8, 21.9),
        (20.0, 0, 25.3, 25.5),
        (3.0, 2, 6.978, 8.1),  # one step, on a machine that did much else
        (8.0, 7, 10.18, 11.6),
        (1.0, 10, 2.0, 2.1),
    ],
)
def test_about_two_batches_more_than_the_budget_are_let_by(
    seconds: float, batches: int, honest: float, blown: float, tmp_path: Path
) -> None:
    path = tmp_path / "attested.json"
    log = "---\nval_bpb: 1.0\ntraining_seconds: 0.1\n"
    outcomes = {}
    for trained in (honest, blown):
        found = {"val_bpb": 1.0, "training_seconds": trained, "batches": batches}
        path.write_text(json.dumps(found))
        outcomes[trained] = judged(path, seconds, log)
    assert outcomes[honest] == ("ok", "")
    assert outcomes[blown][0] == "rejected"
    assert outcomes[blown][1] == f"trained {blown:.0f} s of a budget of {seconds:.0f} s"


def test_a_blown_budget_that_is_only_printed_counts_too(tmp_path: Path) -> None:
    path = tmp_path / "attested.json"
    path.write_text('{"val_bpb": 1.0, "training_seconds": 1.0, "batches": 500}')
    log = "---\nval_bpb: 1.0\ntraining_seconds: {}\n"
    assert judged(path, 20.0, log.format(21.3)) == ("ok", "")
    assert judged(path, 20.0, log.format(21.5))[0] == "rejected"
