"""The training budget: when training began by what the harness saw, and how much more is let by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import warm
from trainer_fixtures import ROOT, environment, prepared  # noqa: F401  a fixture

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


UNSEEN = HOSTILE / "past_budget_unseen.py"
PROGRAMS: dict[str, list[str | Path]] = {
    "one batch": [UNSEEN, "one batch", "6.5"],
    "data": [UNSEEN, "data", "2.5"],
    "memory_map": [UNSEEN, "memory_map", "2.5"],
    "rows_of": [UNSEEN, "rows_of", "2.5"],
    # with synthetic tokens, as in the real train.py
    "warm-up": ["-c", MODEL + "time.sleep(1.5); next(loader); next(loader); evaluate()"],
    "no rows": ["-c", MODEL + "time.sleep(6.2); evaluate()"],
}


@pytest.fixture(scope="module")
def trained(
    prepared: tuple[Path, Any],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Each of them has run by itself, all at once as they mostly wait: where its files are."""
    cache, dataset = prepared
    folders = {name: tmp_path_factory.mktemp("it's one") for name in PROGRAMS}
    started = []
    for name, arguments in PROGRAMS.items():
        folder = folders[name]
        more = {"SWARM_DATASET": str(dataset.path), "SWARM_DEVICE": "cpu"}
        attest = {"SWARM_ATTEST": str(folder / "attested.json")}
        own = environment(cache, **more, **attest)
        outputs = folder / "log", folder / "errors"
        started.append(warm.start(arguments, folder, own, outputs=outputs))
    for process, folder in zip(started, folders.values(), strict=True):
        process.join(60)
        assert process.exitcode == 0, (folder / "errors").read_text()
    return folders


def attested(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "attested.json").read_text())  # type: ignore[no-any-return]


def judged(attestation: Path, seconds: float, log: str) -> tuple[str, str]:
    result = summary.judge("t1", seconds, 900.0, Ending(0, None, 9.0), log, attestation)
    return result.outcome, result.reason


@pytest.mark.parametrize("way", ["one batch", "data", "memory_map", "rows_of"])
def test_training_counts_from_the_first_rows(trained: dict[str, Path], way: str) -> None:
    folder = trained[way]
    assert attested(folder)["training_seconds"] >= float(str(PROGRAMS[way][-1]))
    outcome, reason = judged(folder / "attested.json", 1.0, (folder / "log").read_text())
    assert outcome == "rejected"
    assert reason.endswith("s of a budget of 1 s")


def test_what_comes_before_the_first_batch_does_not_count(trained: dict[str, Path]) -> None:
    found = attested(trained["warm-up"])
    assert found["training_seconds"] < 1.0
    assert found["batches"] == 2


def test_who_takes_no_rows_has_trained_since_the_start(trained: dict[str, Path]) -> None:
    found = attested(trained["no rows"])
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
