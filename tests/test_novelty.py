"""What is refused because it is not new, and what the refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy
from toy_swarm import begin, bench_of

from swarm import experiment, records
from swarm.errors import Refused
from swarm.experiment import Bench
from swarm.fingerprint import first_fingerprint, prints
from swarm.mailbox import Submission

TRAIN = (Path(__file__).parent.parent / "train.py").read_text()
FASTER = toy.TRAIN.replace("LR = 0.04", "LR = 0.05")


def submit(bench: Bench, source: str, description: str = "a change") -> str:
    bench.board.refresh()
    base = bench.board.claims["e0"].commit
    number = len(bench.board.claims)
    return experiment.submit(bench, Submission(f"r{number}", base, description, source))


def refusal(bench: Bench, source: str) -> tuple[str, str]:
    with pytest.raises(Refused) as refused:
        submit(bench, source)
    return str(refused.value), refused.value.hint


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bench_of(begin(tmp_path / "a user's repo", ["cpu0", "cpu1"]), "cpu0")


def test_a_refusal_tells_how_far_the_other_is(bench: Bench) -> None:
    assert submit(bench, FASTER, "faster") == "e1"
    assert refusal(bench, FASTER) == (
        "this is being tried already: e1: waits for its trial (faster)",
        "swarm result e1 --wait 90 waits for its verdict",
    )
    started = records.TrialStarted(
        trial="t12", experiment="e1", worker="cpu1", device_class="CPU", seed=42
    )
    bench.journal.append(started)
    told, _ = refusal(bench, FASTER + "UNUSED = 1\n")
    assert told == "this is being tried already: e1: is training as t12 on cpu1 (faster)"
    bench.journal.append(
        records.TrialFinished(trial="t12", outcome="crash", seconds=1.0, reason="OOM")
    )
    assert refusal(bench, FASTER) == (
        "this was tried before as e1: crash (faster)", "swarm show e1"
    )  # fmt: skip


def test_a_refusal_tells_the_score(bench: Bench) -> None:
    for trial, name, score in (("t0", "e0", 1.5), ("t1", "e1", 1.25)):
        if name == "e1":
            submit(bench, FASTER, "faster")
        bench.journal.append(
            records.TrialStarted(
                trial=trial, experiment=name, worker="cpu0", device_class="CPU", seed=42
            )
        )
        bench.journal.append(
            records.TrialFinished(trial=trial, outcome="ok", seconds=1.0, val_bpb=score)
        )
    told, hint = refusal(bench, FASTER)
    assert told == "this was tried before as e1: keep with val_bpb 1.250000 (faster)"
    assert hint == "swarm show e1"


def test_another_seed_alone_is_refused(bench: Bench) -> None:
    seeded = toy.TRAIN.replace("    rng =", "    random.seed(7)\n    rng =")
    told, hint = refusal(bench, seeded)
    assert told.startswith("only the seed was changed: with any other it is e0: ")
    assert "change something it computes" in hint
    submit(bench, FASTER, "faster")
    told, _ = refusal(bench, FASTER.replace("    rng =", "    random.seed(7)\n    rng ="))
    assert told == (
        "only the seed was changed: with any other it is e1: waits for its trial (faster)"
    )
    assert refusal(bench, toy.TRAIN + "# and nothing else\n")[0].endswith("same as its base e0")


def test_what_was_given_up_may_be_tried_again_with_any_seed(bench: Bench) -> None:
    submit(bench, FASTER)
    for number in range(10):
        bench.board.refresh()
        if bench.board.entry("e1").kind != "candidate":
            break
        bench.journal.append(
            records.TrialStarted(
                trial=f"t{number}", experiment="e1", worker="cpu0", device_class="CPU", seed=42
            )
        )
        bench.journal.append(
            records.TrialFinished(trial=f"t{number}", outcome="interrupted", seconds=1.0)
        )
    assert submit(bench, FASTER.replace("    rng =", "    random.seed(7)\n    rng =")) == "e2"


SEEDED = """
import random
import numpy as np
import torch
import prepare
SEED = 1
OFFSET = 3
torch.manual_seed(SEED + OFFSET)
generator = torch.Generator().manual_seed(5)
noise = np.random.default_rng(seed=2).normal()
loader = prepare.Loader(data, rows, device, int(prepare.SEED))
print(f"seed {SEED}", loader, generator, noise, torch.randperm(9, seed=4))
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SEED = 1", "SEED = 1337"),
        ("OFFSET = 3", "OFFSET = 4"),
        ("SEED + OFFSET", "SEED * 3 - 7"),
        ("SEED + OFFSET", "SEED + prepare.SEED"),
        ("manual_seed(5)", "manual_seed(6)"),
        ("seed=2", "seed=3"),
        ("int(prepare.SEED)", "int(prepare.SEED) + 1"),
        ("int(prepare.SEED)", "1234"),
        ("seed=4", "seed=5"),
        ("SEED = 1", "random.seed(0)\nnp.random.seed(0)\nSEED = 1"),
        ("torch.manual_seed(SEED + OFFSET)", "torch.cuda.manual_seed_all(SEED + OFFSET)"),
    ],
)
def test_a_seed_is_seen_where_it_is_chosen(old: str, new: str) -> None:
    changed = SEEDED.replace(old, new)
    assert changed != SEEDED
    assert prints(changed).fingerprint != prints(SEEDED).fingerprint
    assert prints(changed).seedless == prints(SEEDED).seedless


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rows, device", "rows + 1, device"),
        (".normal()", ".normal(2)"),
        ("randperm(9", "randperm(10"),
        ("noise,", "noise, SEED,"),  # no seed any more
    ],
)
def test_what_is_no_seed_is_not_taken_for_one(old: str, new: str) -> None:
    changed = SEEDED.replace(old, new)
    assert prints(changed).seedless != prints(SEEDED).seedless


def test_what_else_a_seed_is_calculated_with_counts() -> None:
    one = "import prepare\nx = width() * prepare.SEED\nuse(x)\n"
    assert prints(one).seedless != prints(one.replace("width", "height")).seedless


def test_a_constant_that_is_also_a_seed_is_no_seed() -> None:
    one = "import torch\nWIDTH = 7\ntorch.manual_seed(WIDTH)\nbuild(WIDTH)\n"
    assert prints(one).seedless != prints(one.replace("7", "8")).seedless


def test_the_seed_of_the_real_trainer_is_found() -> None:
    for old, new in (
        ("torch.manual_seed(int(prepare.SEED))", "torch.manual_seed(7)"),
        ("device, int(prepare.SEED))", "device, int(prepare.SEED) + 9)"),
        ("int(prepare.SEED)", "int(prepare.SEED + 1)"),
    ):
        changed = TRAIN.replace(old, new)
        assert changed != TRAIN
        assert prints(changed).seedless == prints(TRAIN).seedless
        assert prints(changed).fingerprint != prints(TRAIN).fingerprint
    assert prints(TRAIN.replace("DEPTH = 8", "DEPTH = 9")).seedless != prints(TRAIN).seedless


def test_a_swarm_that_version_0_1_began_goes_on(tmp_path: Path) -> None:
    """Its claims have another fingerprint, and none that is blind to seeds."""
    paths = begin(tmp_path / "a user's repo", ["cpu0"], old=True)
    bench = bench_of(paths, "cpu0")
    baseline = bench.board.claims["e0"]
    assert (len(baseline.fingerprint), baseline.seedless) == (20, "")
    assert refusal(bench, toy.TRAIN + "# nothing\n")[0].endswith("does the same as its base e0")
    assert refusal(bench, "UNUSED = 1\n" + toy.TRAIN)[0].endswith("the same as its base e0")
    seeded = toy.TRAIN.replace("    rng =", "    random.seed(7)\n    rng =")
    assert refusal(bench, seeded)[0].startswith("only the seed was changed")
    assert submit(bench, FASTER) == "e1"
    assert bench.board.claims["e1"].seedless
    assert refusal(bench, FASTER)[0].startswith("this is being tried already: e1")
    started = records.TrialStarted(
        trial="t0", experiment="e0", worker="cpu0", device_class="CPU", seed=42
    )
    bench.journal.append(started)
    bench.journal.append(records.TrialFinished(trial="t0", outcome="ok", seconds=1.0, val_bpb=1.5))
    bench.board.refresh()
    assert experiment.is_recorded(bench.board, bench.worktree, toy.TRAIN)
    assert not experiment.is_recorded(bench.board, bench.worktree, FASTER)


def test_a_change_that_version_0_1_tried_is_refused(tmp_path: Path) -> None:
    bench = bench_of(begin(tmp_path / "a user's repo", ["cpu0"], old=True), "cpu0")
    root = bench.board.claims["e0"].commit
    commit = bench.worktree.commit_trainer(root, FASTER, "faster", "cpu0")
    bench.journal.append(
        records.Claim(
            experiment="e1", worker="cpu0", agent="tuner", parent="e0", commit=commit,
            fingerprint=first_fingerprint(FASTER), description="faster",
        )
    )  # fmt: skip
    told, _ = refusal(bench, FASTER.replace("LR = 0.05", "LR = 0.050  # no other"))
    assert told == "this is being tried already: e1: waits for its trial (faster)"


def test_the_fingerprint_of_version_0_1_is_what_it_was() -> None:
    """Written by that version: journals hold it."""
    source = (
        '"""Doc."""\nLR = 2**-3  # rate\n'
        'x = -(-1) + ~2, 1 / 0, not 3, -True, f"{LR:.3f}" "a"\nif 0:\n    pass\n'
    )
    assert first_fingerprint(source) == "834009f1467496e7eb85"
    assert first_fingerprint(source.replace("0:", "1:")) != first_fingerprint(source)
