"""A score holds when a fresh process makes it again from the kept weights, and only then."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import toy
from conftest import wait_for
from examination_fixtures import TINY, Lab
from trainer_fixtures import ROOT, prepared  # noqa: F401  a fixture

import prepare
from swarm import sandbox
from swarm.harness import examine
from swarm.launchers.local import LocalLauncher
from swarm.records import TrialFinished
from swarm.trial import read_result


@pytest.fixture(scope="module")
def lab(
    prepared: tuple[Path, prepare.Dataset],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Lab:
    """A lab in which the tiny trainer has run as trial `honest`."""
    cache, dataset = prepared
    made = Lab.make(tmp_path_factory.mktemp("it's a 'lab'") / "l", cache, dataset.path)
    result = made.run("honest", TINY, examine_below=1e9)
    assert (result.outcome, result.reason, result.verified) == ("ok", "", True)
    assert result.val_bpb is not None and result.heldout_bpb is not None
    assert abs(result.heldout_bpb / result.val_bpb - 1) < 0.1
    return made


def test_the_real_trainer_is_verified_to_the_fifth_decimal(lab: Lab) -> None:
    source = (ROOT / "train.py").read_text()
    result = lab.run("real", source)
    assert (result.outcome, result.reason, result.verified) == ("ok", "", False)
    finding = lab.examine("real", source)
    assert (finding.rows, finding.refused, finding.failed) == (256, "", "")
    assert finding.val_bpb == pytest.approx(result.val_bpb, abs=1e-5)


HALF_THE_LOSS = """
    import swarm.harness.evaluation as evaluation
    honest = evaluation.row_nats
    evaluation.row_nats = lambda *given: honest(*given) / 2
"""
OTHER_SCORE = """
    import json, os
    found = json.load(open("attested.json"))
    found["val_bpb"] = bpb = 0.9
    json.dump(found, open("attested.json", "w"))
"""
OTHER_WEIGHTS = """
    model.table.weight.data.zero_()
    prepare.evaluate_bpb.__globals__["weights"].keep(model, device, __import__("pathlib").Path("."))
"""
NO_WEIGHTS = """
    run = model
    model = lambda x: run(x)
"""
PEEKS = """
    def forward(self, x):
        import sys
        frame, names = sys._getframe(), set()
        while frame:
            names.add(frame.f_code.co_name)
            frame = frame.f_back
        if "check_causal" not in names:
            self.seen = x
        ahead = torch.cat((self.seen[:, 1:], x[:, :1]), dim=1).unsqueeze(2)
        return self.table(x).scatter(2, ahead, 20.0)
"""
REMEMBERS = """
    def forward(self, x):
        if not hasattr(self, "rows"):
            rows = prepare.Dataset.open().memory_map("val")
            self.rows = {row[:-1].astype("int64").tobytes() for row in rows}
        if not hasattr(self, "seen") or x[0].numpy().tobytes() in self.rows:
            self.seen = x  # else it is a probe: answer as before
        ahead = torch.cat((self.seen[:, 1:], x[:, :1]), dim=1).unsqueeze(2)
        return self.table(x).scatter(2, ahead, 20.0)
"""
HONEST_FORWARD = """
    def forward(self, x):
        return self.table(x)
"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (TINY.replace("    # trained\n", HALF_THE_LOSS), "its saved weights score "),
        (TINY.replace("    # evaluated\n", OTHER_WEIGHTS), "its saved weights score "),
        (TINY.replace(HONEST_FORWARD, PEEKS), "the model looks ahead: other tokens from "),
        (TINY.replace(HONEST_FORWARD, REMEMBERS), "looks ahead: targets it cannot see cost "),
    ],
    ids=["evaluator", "weights", "frames", "memory"],
)
def test_a_forged_score_is_found(
    lab: Lab, request: pytest.FixtureRequest, source: str, reason: str
) -> None:
    assert source != TINY
    name = request.node.callspec.id
    lab.train(name, source)
    assert reason in lab.ask(name, source)


def test_a_forged_score_is_rejected(lab: Lab) -> None:
    """By the watchdog, whatever the reason."""
    forging = TINY.replace("    # evaluated\n", OTHER_SCORE)
    result = lab.run("attestation", forging, examine_below=1e9)
    assert result.outcome == "rejected" and ", it attested 0.900000" in result.reason, result.reason
    assert (result.val_bpb, result.verified, result.heldout_bpb) == (None, False, None)
    hiding = TINY.replace("    # trained\n", NO_WEIGHTS)
    lab.train("no weights", hiding)
    finding = lab.examine("no weights", hiding)
    assert "its weights were not kept, so nothing" in finding.refused
    assert (finding.val_bpb, finding.heldout_bpb, finding.failed) == (None, None, "")


def body(statement: str) -> str:
    return TINY.replace("        return self.table(x)", f"        {statement}")


NONSENSE = """
import os, struct, sys, time
os.write(int(sys.argv[1]), struct.pack("<4I", 1, 0, 0, 0))
os.write(int(sys.argv[1]), struct.pack("<4I", 2, 32, 5000, 1))
time.sleep(60)
"""
CUT = """
import os, struct, sys, time
os.ftruncate(int(sys.argv[2]), 0)
os.write(int(sys.argv[1]), struct.pack("<4I", 1, 0, 0, 0))
os.write(int(sys.argv[1]), struct.pack("<4I", 2, 32, 1024, 0))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (TINY.replace("def build_model", "def make_model"), "no build_model(vocab_size, device)"),
        ("import time; time.sleep(1000)", "took too long; neither may train"),
        ("import os; os._exit(0)", "ended while train.py was imported"),
        ("import sys; sys.exit(3)", "ended the process with exit code 3"),
        (TINY.replace("nn.Embedding(vocab_size, ", "nn.Embedding(9, "), "size mismatch"),
        (body("return self.table(x)[:, :-1]"), "the model gave shape (32, 255, "),
        (body("return self.table(x) * float('nan')"), "logits are not finite"),
        (body("import time; time.sleep(1000)"), "the model took too long to answer"),
        (body("return self.table(torch.cat((x[:, 1:], x[:, :1]), dim=1))"), "looks ahead"),
        (body("return self.table(x).repeat(1, 1, 9)"), "logits for"),
        (NONSENSE, "5000 logits for"),
        (CUT, "cut the file of its logits short"),
    ],
)
def test_a_model_that_misbehaves_is_refused(lab: Lab, source: str, reason: str) -> None:
    limit = 3.0 if "too long" in reason else 30.0
    assert reason in lab.ask("honest", source, limit)


def test_a_model_whose_process_ends_is_refused(lab: Lab) -> None:
    finding = lab.examine("honest", body("import os; os._exit(1)"))
    assert "ended while it was asked" in finding.refused
    assert (finding.val_bpb, finding.failed) == (None, "")


@pytest.mark.skipif(not sandbox.try_out()["files"], reason="nothing confines it here")
def test_the_held_out_split_is_out_of_its_reach(lab: Lab) -> None:
    steal = "open(__import__('os').environ['SWARM_DATASET'] + '/heldout.bin', 'rb')\n    "
    finding = lab.examine("honest", TINY.replace("return Model(", f"{steal}return Model("))
    assert "its model cannot be built again: PermissionError" in finding.refused


DAEMON = """
import os, time
print("hello " * 100_000)
if __name__ == "train" and os.fork() == 0:
    os.setsid()
    time.sleep(1000)
"""


def test_what_a_file_does_besides_changes_nothing(lab: Lab) -> None:
    """It prints to a log, and leaves a daemon, for which `examine` looks; it evaluates again."""
    attested = (lab.root / "honest" / "attested.json").read_bytes()
    source = DAEMON + TINY.replace('if __name__ == "__main__":', "if True:")
    finding = lab.examine("honest", source)
    assert (finding.rows, finding.refused, finding.failed) == (256, "", "")
    assert finding.heldout_rows == 256
    before = read_result(lab.root / "honest")
    assert before and finding.heldout_bpb == pytest.approx(before.heldout_bpb, abs=1e-9)
    assert (lab.root / "honest" / "examination.log").read_text().startswith("hello hello ")
    assert (lab.root / "honest" / "attested.json").read_bytes() == attested


def test_rows_that_are_not_there_are_refused(lab: Lab) -> None:
    folder = lab.copied("honest", "tampered")
    attested = json.loads((folder / "attested.json").read_text())
    (folder / "attested.json").write_text(json.dumps(attested | {"row_nats": "AAAA"}))
    assert "did not attest the nats of 256 rows" in lab.ask("tampered", TINY)
    not_a_number = base64.b64encode(np.full(256, np.nan, "<f4").tobytes()).decode()
    for nats in ("", attested["row_nats"][:-8], "not base64!", not_a_number):
        with pytest.raises(prepare.EvaluationError, match="did not attest the nats"):
            examine.decoded(nats, 256)
    assert len(examine.decoded(attested["row_nats"], 256)) == 256


def test_what_two_evaluations_may_differ_by() -> None:
    sizes = np.full(100, 1000)
    attested = np.linspace(500.0, 900.0, 100)
    found = examine.compare(attested, attested * 1.0004, sizes)
    assert found["rows"] == 100 and found["val_bpb"] > found["attested_bpb"]
    for other in (attested * 1.001, attested * 0.999):
        with pytest.raises(prepare.EvaluationError, match="its saved weights score"):
            examine.compare(attested, other, sizes)
    with pytest.raises(prepare.EvaluationError, match="not finite"):
        examine.compare(attested, attested * np.nan, sizes)
    rows = attested.copy()
    rows[3] *= 1.025
    rows[4] *= 0.98
    with pytest.raises(prepare.EvaluationError, match=r"a row 2\.4 % differently"):
        examine.compare(attested, rows, sizes)


def test_the_best_rows_are_always_among_those_examined() -> None:
    sizes = np.arange(5000, 15000)
    attested = np.random.default_rng(1).uniform(0.5, 1.0, 10000) * sizes
    best = [77, 4000, 9999]
    attested[best] *= 0.01
    first, second = (set(examine.choose(attested, sizes).tolist()) for _ in range(2))
    assert {*best} <= first & second
    assert 256 <= len(first) <= 320 and len(first & second) < 128


def test_an_examination_that_fails_refuses_nothing(lab: Lab) -> None:
    lab.copied("honest", "no data")
    elsewhere = Lab(lab.root, lab.environment | {"SWARM_DATASET": str(lab.root)})
    finding = elsewhere.examine("no data", TINY)
    assert finding.refused == "" and "is not a whole dataset" in finding.failed


def test_an_examination_ends_with_its_runner(lab: Lab) -> None:
    launcher = LocalLauncher()
    folder = lab.root / "cut off"
    folder.mkdir()
    source = f"import time\n{TINY}else:\n    time.sleep(1000)\n"
    (folder / "train.py").write_text(source)
    handle = launcher.submit(lab.job("cut off", examine_below=1e9))
    wait_for(lambda: list(folder.glob("examination.?*/train.py")), timeout=60)
    launcher.cancel(handle)
    result = wait_for(lambda: launcher.poll(handle), timeout=20)
    assert isinstance(result, TrialFinished)
    assert (result.outcome, result.val_bpb, result.verified) == ("interrupted", None, False)
    lab.assert_nothing_is_left("cut off")


def test_an_old_harness_leaves_the_trial_as_it_is(lab: Lab) -> None:
    old = Lab(lab.root / "old", lab.environment)
    (old.root / "pristine").mkdir(parents=True)
    (old.root / "pristine" / "prepare.py").write_text(toy.PREPARE)
    result = old.run("t1", toy.TRAIN, examine_below=1e9)
    assert (result.outcome, result.verified, result.reason) == ("ok", False, "")
