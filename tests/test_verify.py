"""`swarm verify` on a short real swarm, which weights are kept, and who sees held-out scores."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import toy
from examination_fixtures import TINY
from toy_swarm import Story
from trainer_fixtures import ROOT, prepared  # noqa: F401  a fixture

import prepare
from swarm import records, weights
from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.locks import DeviceLock
from swarm.paths import Paths
from swarm.standings import Entry, Trial, new_class

Run = Callable[..., subprocess.CompletedProcess[str]]

AGENT = """
import subprocess, time
source = open("train.py").read()
open("train.py", "w").write(source.replace("# trained", "model.table.weight.data *= 0.5"))
subprocess.run(["swarm", "eval", "-m", "smaller logits"], check=False)
time.sleep(60)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the real harness and the tiny trainer."""
    root = tmp_path / "a user's repo"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "swarm" / "harness", root / "swarm" / "harness", ignore=ignored)
    shutil.copy(ROOT / "swarm" / "__init__.py", root / "swarm")
    (root / ".gitignore").write_text("/worktrees/\n/leaderboard/\n__pycache__/\n")
    return toy.make_repository(root, TINY, (ROOT / "prepare.py").read_text())


@pytest.fixture
def swarm(
    run: Run,
    repository: Path,
    environment: dict[str, str],
    prepared: tuple[Path, prepare.Dataset],  # noqa: F811
    tmp_path: Path,
) -> Paths:
    """A swarm that has tried one change, which was better."""
    environment["SWARM_CACHE"] = str(prepared[0])
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    run("spawn", "--agents", "1", "--devices", "cpu", "--no-tmux", "--scale", "small", "--tag", "v",
        "--seconds", "5", "--agent", f"cmd:exec python3 '{script}'", "--max-experiments", "1",
        "--policy", "greedy", "--wait")  # fmt: skip
    return Paths(repository, "v")


def test_swarm_verify(
    run: Run, swarm: Paths, repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    board = Leaderboard(Journal(swarm.journal))
    board.refresh()
    assert board.primary is not None and board.primary.incumbent == "e1"
    assert weights.kept(swarm) == {board.primary.entries["e1"].trials[-1].id}

    found = json.loads(run("verify", "e1", "--json").stdout)
    assert (found["verified"], found["rows"], found["heldout_rows"]) == (True, 256, 256)
    assert found["examined_bpb"] == pytest.approx(found["val_bpb"], abs=1e-5)
    assert 0.9 < found["heldout_bpb"] / found["val_bpb"] < 1.1

    refused = run("verify", "e0", check=False)
    assert refused.returncode == 3
    assert "the weights of e0 were not kept" in refused.stderr
    assert "kept are those of e1" in refused.stderr
    agent = run("verify", "e1", cwd=swarm.worktree("cpu0"), check=False)
    assert agent.returncode == 3 and "are for people" in agent.stderr
    agent = run("board", "--held-out", cwd=swarm.worktree("cpu0"), check=False)
    assert agent.returncode == 3 and "held-out scores are for people" in agent.stderr

    device = board.workers["cpu0"].joined.device
    lock = DeviceLock(Path(environment["SWARM_CACHE"]) / "locks", device)
    lock.acquire(5.0, "a test")
    busy = run("verify", "e1", check=False)
    lock.release()
    assert busy.returncode == 3 and "is already training" in busy.stderr
    assert "a test" in busy.stderr

    path = swarm.weights(found["trial"])
    content = bytearray(path.read_bytes())
    content[-2_000_000:] = b"\x00" * 2_000_000  # about half of them
    path.write_bytes(content)
    broken = run("verify", "e1", check=False)
    assert broken.returncode == 1
    assert "error: e1 does not hold: its saved weights score" in broken.stderr
    assert broken.stdout == ""

    attestation = swarm.trial(found["trial"]) / "attested.json"
    forged = json.loads(attestation.read_text()) | {"val_bpb": 0.5}
    attestation.write_text(json.dumps(forged))
    other = run("verify", "e1", check=False)
    assert other.returncode == 1 and "is not what its folder attests" in other.stderr

    (swarm.pristine / "prepare.py").write_text("# changed\n")
    changed = run("verify", "e1", check=False)
    assert changed.returncode == 1 and "was changed since the swarm began" in changed.stderr


def test_held_out_scores_are_for_people(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "another user's repo"
    story = Story(root)
    story.experiment("cpu0", 0.9)
    for experiment, val in (("e0", 1.0), ("e1", 0.9)) * 3:
        trial = f"t{len(story.board.trials)}"
        story.tell(
            records.TrialStarted(
                trial=trial, experiment=experiment, worker="cpu0", device_class="CPU",
                seed=len(story.board.trials), purpose="claim",
            ),
            records.TrialFinished(
                trial=trial, outcome="ok", seconds=1.0, verified=True, val_bpb=val,
                heldout_bpb=7.654321,
            ),
        )  # fmt: skip
    run = partial(run, cwd=root)
    for reader in (("board", "--json"), ("board",), ("show", "e1"), ("show", "e1", "--json")):
        shown = run(*reader)
        assert "7.654" not in shown.stdout + shown.stderr and "held-out" not in shown.stdout
        assert "heldout" not in shown.stdout
    board = run("board", "--held-out")
    assert "held-out" in board.stdout and "e1 gained" in board.stderr
    document = json.loads(run("board", "--held-out", "--json").stdout)["device_classes"][0]
    assert document["drift"]["experiment"] == "e1"
    held_out = {e["experiment"]: e["heldout_bpb"] for e in document["experiments"]}
    assert held_out == {"e0": pytest.approx(7.654321), "e1": pytest.approx(7.654321)}


def test_weights_stay_for_what_the_swarm_rests_on(tmp_path: Path) -> None:
    board = Leaderboard(Journal(tmp_path / "journal.jsonl"))
    known = board.classes["C"] = new_class("C", "small", "cpu")
    known.incumbent, known.best = "e3", "e1"
    start = datetime(2026, 11, 21, tzinfo=UTC)
    outcomes: dict[str, list[records.Outcome | None]] = {
        "e0": ["ok", "ok"], "e1": ["ok", "ok", "crash"], "e2": ["ok"], "e3": ["ok", None],
        "e4": ["ok"], "e5": ["interrupted"],
    }  # fmt: skip
    for experiment, trials in outcomes.items():
        claim = records.Claim(
            experiment=experiment, worker="cpu0", agent="tuner", parent="e0", commit=experiment,
            fingerprint=experiment, description="",
        )  # fmt: skip
        entry = known.entries[experiment] = Entry(claim)
        entry.kind = "candidate" if experiment in ("e4", "e5") else "discard"
        for number, outcome in enumerate(trials):
            name = f"{experiment}t{number}"
            begun = start + timedelta(seconds=number)
            trial = Trial(name, experiment, "cpu0", "C", 1, begun, outcome=outcome)
            entry.trials.append(trial)
            board.trials[name] = trial
    paths = Paths(tmp_path, "v")
    for name in [*board.trials, "unheard-of"]:
        paths.weights(name).parent.mkdir(parents=True, exist_ok=True)
        paths.weights(name).touch()
    weights.prune(paths, board)
    stay = {"e1t1", "e3t0", "e3t1", "e4t0", "unheard-of"}
    assert weights.kept(paths) == stay
    weights.prune(paths, board)
    assert weights.kept(paths) == stay


def test_weights_are_taken_from_ok_trials_only(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "v")
    for trial, outcome in (("t1", "ok"), ("t2", "rejected"), ("t3", "ok")):
        paths.trial(trial).mkdir(parents=True)
        if trial != "t3":
            (paths.trial(trial) / "weights.safetensors").write_text(trial)
        score = 0.9 if outcome == "ok" else None
        result = records.TrialFinished(trial=trial, outcome=outcome, seconds=1.0, val_bpb=score)  # type: ignore[arg-type]
        for _ in range(2):
            weights.keep(paths, result)
        assert list(paths.trial(trial).iterdir()) == []
    assert weights.kept(paths) == {"t1"}
