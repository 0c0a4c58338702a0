"""The fold and the decisions: everyone who reads the same lines agrees."""

from __future__ import annotations

import math
import random
import statistics
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec.structs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import allocate, decide
from swarm.errors import JournalError
from swarm.journal import Journal
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.noise import Noise
from swarm.records import (
    AgentEvent,
    AnyRecord,
    Claim,
    Config,
    Control,
    Device,
    Ended,
    Metrics,
    Reconfigured,
    Swarm,
    TrialFinished,
    TrialStarted,
    Worker,
)
from swarm.views import documents, tsv

CONFIG = Config(
    seconds=1.0, timeout=9.0, scale="small", dataset="/d", dataset_fingerprint="f",
    max_experiments=5,
)  # fmt: skip
CLASS = "cpu/1s/f/torch"


def worker(name: str, device_class: str = CLASS) -> Worker:
    device = Device(name=name, kind="cpu", id=name, model="cpu")
    return Worker(
        worker=name, agent="tuner", device=device, device_class=device_class,
        branch="b", worktree="w",
    )  # fmt: skip


def claim(name: str, worker: str = "cpu0", parent: str | None = BASELINE) -> Claim:
    return Claim(
        experiment=name, worker=worker, agent="tuner", parent=parent, commit=f"{name:0>40}",
        fingerprint=f"print of {name}", description=f"change {name}", request=f"r-{name}",
    )  # fmt: skip


def started(trial: str, experiment: str, worker: str = "cpu0", cls: str = CLASS) -> TrialStarted:
    return TrialStarted(
        trial=trial, experiment=experiment, worker=worker, device_class=cls, seed=42
    )


def scored(trial: str, val_bpb: float) -> TrialFinished:
    return TrialFinished(trial=trial, outcome="ok", seconds=2.0, val_bpb=val_bpb)


def failed(trial: str, outcome: str = "crash", reason: str = "exit code 1") -> TrialFinished:
    return TrialFinished(trial=trial, outcome=outcome, seconds=1.0, reason=reason)  # type: ignore[arg-type]


FOUNDING: list[AnyRecord] = [
    Swarm(
        tag="t",
        root="0" * 40,
        prepare_sha256="",
        config=CONFIG,
        version="0",
        workers=("cpu0", "cpu1"),
    ),
    claim(BASELINE, worker="", parent=None),
    worker("cpu0"),
    worker("cpu1"),
]


class Story:
    """A journal that grows and the board that folds it."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal.jsonl")
        self.board = Leaderboard(self.journal)
        self.tell(*FOUNDING)

    def tell(self, *records: AnyRecord) -> None:
        for record in records:
            self.journal.append(record)
        self.board.refresh()

    def run(self, trial: str, experiment: str, val_bpb: float, worker: str = "cpu0") -> None:
        self.tell(started(trial, experiment, worker), scored(trial, val_bpb))


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_lower_than_its_base_is_kept_and_becomes_the_incumbent(story: Story) -> None:
    story.run("t0", BASELINE, 1.0)
    story.tell(claim("e1"), claim("e2"))
    story.run("t1", "e1", 0.99)
    story.run("t2", "e2", 1.01)
    one, two = story.board.entry("e1"), story.board.entry("e2")
    assert (one.kind, two.kind) == ("keep", "discard")
    assert one.reason == "0.990000 vs 1.000000 of e0: 0.010000 lower, kept; not confirmed"
    assert two.reason == "1.010000 vs 1.000000 of e0: 0.010000 higher"
    primary = story.board.primary
    assert primary is not None and (primary.incumbent, primary.best) == ("e1", "e1")
    assert story.board.incumbent_of("cpu1").experiment == "e1"


def test_the_same_score_is_no_improvement(story: Story) -> None:
    story.run("t0", BASELINE, 1.0)
    story.tell(claim("e1"))
    story.run("t1", "e1", 1.0)
    assert story.board.entry("e1").kind == "discard"
    assert story.board.entry("e1").reason == "1.000000 vs 1.000000 of e0: equal"


def test_kept_against_an_old_base_does_not_dethrone_a_better_one(story: Story) -> None:
    story.run("t0", BASELINE, 1.0)
    story.tell(claim("e1"), claim("e2", "cpu1"))
    story.run("t1", "e1", 0.95)
    story.run("t2", "e2", 0.97, "cpu1")
    assert story.board.entry("e2").kind == "keep"
    assert story.board.incumbent_of("cpu0").experiment == "e1"


def test_a_score_waits_for_the_baseline(story: Story) -> None:
    story.tell(started("t0", BASELINE), claim("e1", "cpu1"))
    story.run("t1", "e1", 0.9, "cpu1")
    assert story.board.entry("e1").kind == "candidate"
    assert story.board.entry("e1").reason == "waits for the score of its base e0"
    story.tell(scored("t0", 1.0))
    assert story.board.entry("e1").kind == "keep"
    assert story.board.incumbent_of("cpu0").experiment == "e1"


def test_a_crashed_baseline_leaves_anything_that_runs_better(story: Story) -> None:
    story.tell(started("t0", BASELINE), failed("t0"), claim("e1"))
    story.run("t1", "e1", 3.0)
    assert story.board.entry(BASELINE).kind == "crash"
    assert story.board.entry("e1").reason == "3.000000: the first with a score"
    assert story.board.incumbent_of("cpu0").experiment == "e1"


@pytest.mark.parametrize("outcome", ["crash", "timeout", "rejected"])
def test_failures_are_verdicts_with_their_reason(story: Story, outcome: str) -> None:
    story.tell(claim("e1"), started("t1", "e1"), failed("t1", outcome, "out of memory"))
    entry = story.board.entry("e1")
    assert (entry.kind, entry.reason, entry.estimate) == (outcome, "out of memory", None)
    assert story.board.queued("cpu0") == []


def test_an_interrupted_trial_is_queued_once_more(story: Story) -> None:
    story.run("t0", BASELINE, 1.0)
    story.tell(claim("e1"))
    assert story.board.queued("cpu0") == ["e1"]
    story.tell(started("t1", "e1"))
    assert story.board.queued("cpu0") == []
    story.tell(failed("t1", "interrupted"))
    assert story.board.queued("cpu0") == ["e1"]
    story.tell(started("t2", "e1"), failed("t2", "interrupted"))
    assert story.board.queued("cpu0") == []
    assert story.board.entry("e1").kind == "interrupted"
    assert story.board.spent_experiments == 0, "what was never measured is not spent"
    assert "print of e1" not in story.board.fingerprints, "and may be tried again"


def test_what_a_person_cut_off_does_not_count(story: Story) -> None:
    story.run("t0", BASELINE, 1.0)
    story.tell(claim("e1"))
    for i in range(1, 5):
        cut = TrialFinished(trial=f"t{i}", outcome="interrupted", seconds=1.0, excused=True)
        story.tell(started(f"t{i}", "e1"), cut)
        assert story.board.queued("cpu0") == ["e1"]


def test_work_of_a_worker_that_is_gone_may_be_claimed_again(story: Story) -> None:
    story.run("t0", BASELINE, 1.0)
    story.tell(claim("e1"), claim("e2", "cpu1"), claim("e3", "cpu1"))
    story.tell(started("t1", "e2", "cpu1"), Ended(state="stopped"))
    story.tell(Reconfigured(config=CONFIG, workers=("cpu0",)))
    board = story.board
    assert [board.entry(name).kind for name in ("e1", "e2", "e3")] == [
        "candidate",
        "interrupted",
        "interrupted",
    ]
    assert board.trials["t1"].outcome == "interrupted"
    assert (board.spent_experiments, board.queued("cpu0")) == (1, ["e1"])
    assert set(board.fingerprints.values()) == {"e0", "e1"}
    story.tell(worker("cpu0", "other class"), Reconfigured(config=CONFIG, workers=("cpu0",)))
    assert board.entry("e1").kind == "interrupted"
    assert board.primary is not None and board.primary.name == "other class"
    assert allocate.baseline_due(board, "cpu0")


def test_the_baseline_is_due_twice_where_there_are_two_workers(story: Story) -> None:
    due = partial(allocate.baseline_due, story.board)
    assert due("cpu0") and due("cpu1")
    story.tell(started("t0", BASELINE))
    assert not due("cpu0"), "the second one goes to another device"
    assert due("cpu1")
    story.tell(started("t1", BASELINE, "cpu1"))
    assert not due("cpu1")
    story.tell(failed("t1", "interrupted"))
    assert due("cpu1") and not due("cpu0")
    story.tell(scored("t0", 1.0))
    story.run("t2", BASELINE, 1.02, "cpu1")
    assert not due("cpu0") and not due("cpu1")
    assert story.board.primary is not None
    noise = story.board.primary.noise
    assert (noise.freedom, noise.squares) == (1, pytest.approx(0.0002))


def test_device_classes_do_not_mix(story: Story) -> None:
    story.tell(worker("gpu0", "fast"), claim("e1"), claim("e2", "gpu0"))
    story.run("t0", BASELINE, 1.0)
    story.run("t1", "e1", 0.9)
    story.tell(started("t2", BASELINE, "gpu0", "fast"), scored("t2", 0.8))
    story.tell(started("t3", "e2", "gpu0", "fast"), scored("t3", 0.85))
    assert story.board.entry("e2").kind == "discard"
    assert story.board.incumbent_of("gpu0").experiment == BASELINE
    assert story.board.incumbent_of("cpu0").experiment == "e1"


def test_budgets_controls_and_a_second_spawn(story: Story) -> None:
    board = story.board
    now = datetime.now(UTC)
    assert board.exhausted(now) == ""
    story.tell(*[claim(f"e{i}") for i in range(1, 6)])
    assert board.exhausted(now) == "all 5 experiments are used"
    story.tell(AgentEvent(worker="cpu0", state="parked", reason="no"), Control(action="pause"))
    assert (board.workers["cpu0"].parked, board.workers["cpu1"].paused) == ("no", True)
    story.tell(Control(action="resume", workers=("cpu1",)))
    assert (board.workers["cpu0"].paused, board.workers["cpu1"].paused) == (True, False)
    story.tell(Control(action="stop"), Ended(state="stopped", reason="by swarm stop"))
    assert (board.stopping, board.state) == ("soft", "stopped")
    config = Config(
        seconds=1.0, timeout=9.0, scale="small", dataset="/d", dataset_fingerprint="f",
        max_hours=1.0,
    )  # fmt: skip
    story.tell(Reconfigured(config=config, workers=("cpu1",)))
    assert (board.stopping, board.state, list(board.active)) == ("", "running", ["cpu1"])
    assert board.workers["cpu0"].parked is None
    assert board.exhausted(now + timedelta(hours=1.1)) == "1 hours are over"


def test_a_record_about_nothing_known_names_its_line(story: Story) -> None:
    with pytest.raises(JournalError, match=r"line 5 names 'e9'"):
        story.tell(started("t1", "e9"))


def random_story(rng: random.Random, length: int) -> list[AnyRecord]:
    """A valid journal: claims, trials and results in a random but possible order."""
    policy = rng.choice(["greedy", "probable", "strict"])
    begun = msgspec.structs.replace(
        FOUNDING[0], config=msgspec.structs.replace(CONFIG, policy=policy)
    )
    records: list[AnyRecord] = [begun, *FOUNDING[1:]]
    queue: list[tuple[str, str]] = [(BASELINE, "cpu0")]
    running: list[tuple[str, str, str]] = []
    experiments, trials = 1, 0
    for _ in range(length):
        move = rng.random()
        if move < 0.4:
            name, who = f"e{experiments}", rng.choice(["cpu0", "cpu1"])
            records.append(claim(name, who, f"e{rng.randrange(experiments)}"))
            queue.append((name, who))
            experiments += 1
        elif move < 0.7 and queue:
            name, who = queue.pop(rng.randrange(len(queue)))
            running.append((f"t{trials}", name, who))
            records.append(started(*running[-1]))
            trials += 1
        elif move < 0.8:
            name = f"e{rng.randrange(experiments)}"
            running.append((f"t{trials}", name, rng.choice(["cpu0", "cpu1"])))
            purpose = rng.choice(["replicate", "claim", "calibration"])
            records.append(msgspec.structs.replace(started(*running[-1]), purpose=purpose))
            trials += 1
        elif running:
            trial, name, who = running.pop(rng.randrange(len(running)))
            outcome = rng.choice(["ok"] * 7 + ["crash", "interrupted", "rejected"])
            result = scored(trial, rng.gauss(1, 0.1)) if outcome == "ok" else failed(trial, outcome)
            steps = Metrics(batches=rng.choice([90, 99, 100, 101]))
            records.append(msgspec.structs.replace(result, metrics=steps))
            if outcome == "interrupted":
                queue.append((name, who))
    return records


def shape(board: Leaderboard) -> list[object]:
    """All that a fold has derived for its device classes, without its references to itself."""
    return [
        (
            known.incumbent, known.best, sorted(known.kept), known.credits, known.gain,
            known.noise, known.pace, known.effects.weights,
            known.contest and (known.contest.contender.experiment, known.contest.look),
            [(e.kind, e.reason, e.values, e.belief, e.evidence) for e in known.entries.values()],
        )
        for known in board.classes.values()
    ]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), length=st.integers(0, 200))
def test_folding_piece_by_piece_is_folding_at_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int, length: int
) -> None:
    rng = random.Random(seed)
    journal = Journal(tmp_path_factory.mktemp("fold") / "journal.jsonl")
    stepwise = Leaderboard(journal)
    for record in random_story(rng, length):
        journal.append(record)
        if rng.random() < 0.3:
            stepwise.refresh()
    stepwise.refresh()
    whole = Leaderboard(journal)
    whole.refresh()
    assert list(tsv.rows(stepwise)) == list(tsv.rows(whole))
    assert shape(stepwise) == shape(whole)
    assert stepwise.workers == whole.workers
    known = whole.classes[CLASS]
    kept = [e for e in known.entries.values() if e.kind == "keep" and e.estimate]
    if known.incumbent:
        assert known.incumbent in {entry.experiment for entry in kept}
    scores = [e for e in known.entries.values() if e.estimate]
    ranked = documents.ranked(known)[: len(scores)]
    assert [e.estimate.mean for e in ranked if e.estimate] == sorted(
        e.estimate.mean for e in scores if e.estimate
    )


@given(st.lists(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_estimates_are_those_of_statistics(groups: list[list[float]]) -> None:
    for values in groups:
        found = decide.estimate(values)
        assert found is not None
        assert found.mean == pytest.approx(statistics.fmean(values))
        if len(values) > 1:
            assert found.sd == pytest.approx(statistics.stdev(values), abs=1e-9)
        else:
            assert found.sd is None
    squares = sum(statistics.variance(v) * (len(v) - 1) for v in groups if len(v) > 1)
    freedom = sum(len(v) - 1 for v in groups)
    noise = Noise(prior_sd=0.1)
    for values in groups:
        for count in range(len(values)):
            noise.change(values[:count], values[: count + 1])
    assert noise.freedom == freedom
    prior = max(0, 4 - freedom)
    pooled = math.sqrt((squares + prior * 0.01) / (freedom + prior))
    assert noise.sd == pytest.approx(pooled, abs=1e-7)


@given(st.text())
def test_a_description_stays_in_its_cell(text: str) -> None:
    escaped = tsv.escape(text)
    assert not set(escaped) & set("\t\n\r")
    back = escaped.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
    assert (
        back.replace("\\\\", "\0")
        .replace("\\t", "\t")
        .replace("\\n", "\n")
        .replace("\\r", "\r")
        .replace("\0", "\\")
        == text
        or "\0" in text
    )
