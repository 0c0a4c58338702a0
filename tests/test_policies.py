"""Two levels: the search builds on what is probably better, and claims what replicates confirm."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec.structs
import pytest
from test_leaderboard import CONFIG, FOUNDING, Story, claim, failed, scored, started

from swarm import allocate
from swarm.leaderboard import BASELINE
from swarm.policies import Due, Likely
from swarm.records import Control, Metrics, Purpose, Reconfigured, TrialFinished
from swarm.standings import DeviceClass

SIGMA = 0.001


class Night(Story):
    """A swarm with the default policy, whose baseline has told how noisy it is."""

    policy = "probable"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.trials = 0

    def begin(self) -> None:
        for value in (1.0 - SIGMA, 1.0 + SIGMA, 1.0, 1.0 - SIGMA, 1.0 + SIGMA):
            self.trial(BASELINE, value)

    def trial(
        self, experiment: str, val_bpb: float | None, purpose: Purpose = "experiment",
        worker: str = "cpu0", steps: int | None = None, outcome: str = "crash",
    ) -> str:  # fmt: skip
        name = f"t{self.trials}"
        self.trials += 1
        begun = msgspec.structs.replace(started(name, experiment, worker), purpose=purpose)
        ended = failed(name, outcome) if val_bpb is None else scored(name, val_bpb)
        self.tell(begun, msgspec.structs.replace(ended, metrics=Metrics(batches=steps)))
        return name

    def tried(self, name: str, val_bpb: float, parent: str = BASELINE) -> None:
        self.tell(claim(name, parent=parent))
        self.trial(name, val_bpb)

    @property
    def known(self) -> DeviceClass:
        assert self.board.primary is not None
        return self.board.primary

    def due(self, idle: bool = False, ending: bool = False) -> Due | None:
        return allocate.next_trial(self.board, "cpu0", idle, ending)


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    config = msgspec.structs.replace(CONFIG, policy="probable", max_experiments=None)
    begun = msgspec.structs.replace(FOUNDING[0], config=config)
    monkeypatch.setattr("test_leaderboard.FOUNDING", [begun, *FOUNDING[1:]])
    made = Night(tmp_path)
    made.begin()
    return made


def test_a_little_lower_is_not_kept_and_much_lower_is(night: Night) -> None:
    night.tried("e1", 1.0 - 0.2 * SIGMA)
    night.tried("e2", 1.0 - 6 * SIGMA)
    one, two = night.board.entry("e1"), night.board.entry("e2")
    assert (one.kind, two.kind) == ("discard", "keep")
    assert (night.known.incumbent, night.known.best) == ("e2", BASELINE)
    assert not two.confirmed
    assert two.reason == (
        "0.994000 ± 0.001000 vs 1.000000 ± 0.000447 (mean of 5) of e0;"
        " P(better) 1.00: kept, not yet confirmed"
    )
    assert "P(better) 0." in one.reason and "kept" not in one.reason


def test_a_lucky_first_trial_does_not_stay_champion(night: Night) -> None:
    night.tried("e1", 1.0 - 3 * SIGMA)
    assert night.known.incumbent == "e1"
    believed = night.board.entry("e1").belief
    assert believed and 1.0 - 3 * SIGMA < believed.mean < 1.0, "it is shrunk towards its base"
    for _ in range(4):
        night.trial("e1", 1.0 + 2 * SIGMA, "replicate")
    assert night.board.entry("e1").kind == "discard"
    assert night.known.incumbent == BASELINE


def test_what_was_judged_against_a_lucky_base_is_judged_again(night: Night) -> None:
    night.tried("e1", 1.0 - 5 * SIGMA)
    night.tried("e2", 1.0 - 4.5 * SIGMA, parent="e1")
    assert night.board.entry("e2").kind == "discard"
    for _ in range(6):
        night.trial("e1", 1.0 + 1 * SIGMA, "replicate")
    assert night.board.entry("e1").kind == "discard"
    assert night.board.entry("e2").kind == "keep"
    assert night.known.incumbent == "e2"


def test_a_claim_needs_trials_made_for_it(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    due = night.due()
    assert due and (due.experiment, due.purpose) == ("e1", "claim")
    night.trial("e1", 1.0 - 8 * SIGMA, "claim")
    entry = night.board.entry("e1")
    assert entry.evidence == [1.0 - 8 * SIGMA], "not the trial it was chosen for"
    assert (night.known.best, entry.kind, entry.confirmed) == ("e1", "keep", True)
    assert entry.reason.startswith(
        "confirmed by 1 trial made for it: 0.992000 vs 1.000000 of e0 (5 trials), 8."
    )


def test_a_claim_that_its_trials_do_not_support_fails_and_is_not_made_again(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 1.0 + SIGMA, "claim")
    while night.known.contest:
        due = night.due(idle=True)
        assert due and due.purpose == "claim"
        night.trial(due.experiment, 1.0, "claim")
    entry = night.board.entry("e1")
    assert night.known.best == BASELINE and not entry.confirmed and entry.tested
    night.trial("e1", 0.9, "claim")
    assert night.known.best == BASELINE


def test_both_sides_of_a_claim_get_trials(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 1.0 - 8 * SIGMA, "claim")
    night.tried("e2", 1.0 - 16 * SIGMA, parent="e1")
    night.known.credits = 8
    asked = []
    while (due := night.due(idle=True)) and due.purpose == "claim" and len(asked) < 9:
        asked.append(due.experiment)
        night.trial(due.experiment, 0.99 if due.experiment == "e1" else 0.9893, "claim")
    assert asked[0] == "e2"
    assert {"e1", "e2"} == set(asked), "one of e1 alone would not do for two looks"


def test_busy_devices_pay_for_claims_with_credits(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.known.credits = 0.5
    assert night.due() is None
    idle = night.due(idle=True)
    assert idle and idle.purpose == "claim"
    night.known.credits = 2.0
    night.trial("e1", 0.99, "claim")
    assert night.known.credits == 1.0


def test_the_last_claim_is_tested_when_nothing_else_may_start(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.known.credits = 0.0
    assert not allocate.is_over(night.board, "cpu0")
    due = night.due(ending=True)
    assert due and due.purpose == "claim"
    night.trial("e1", 0.992, "claim")
    assert night.due(ending=True) is None
    assert allocate.is_over(night.board, "cpu0")


def test_an_idle_device_calibrates_until_the_noise_is_known(night: Night) -> None:
    seen = 0
    while due := night.due(idle=True):
        assert (due.experiment, due.purpose) == (BASELINE, "calibration")
        night.trial(BASELINE, 1.0 + SIGMA * (-1) ** seen, "calibration")
        seen += 1
        assert seen < 99
    assert night.known.noise.freedom == 30
    assert night.due() is None, "and a busy one never does"


def test_people_may_ask_for_calibration(night: Night) -> None:
    night.tell(Control(action="calibrate", count=2))
    for _ in range(2):
        due = night.due()
        assert due and due.purpose == "calibration" and "as asked" in due.why
        night.trial(due.experiment, 1.0, "calibration")
    assert night.due() is None


def test_a_doubtful_incumbent_is_measured_again_when_that_is_worth_a_trial(night: Night) -> None:
    night.tried("e1", 1.0 - 1.5 * SIGMA)
    assert night.known.incumbent == "e1"
    assert night.due() is None
    night.known.gain = 1e-6  # nothing else has gained for long
    due = night.due()
    assert due and due.purpose == "replicate" and due.why.startswith("worth 0.000")


def test_nothing_is_repeated_that_fails_again_and_again(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", None, "claim")
    due = night.due(idle=True)
    assert due and due.experiment == "e1"
    night.trial("e1", None, "claim", outcome="timeout")
    assert night.known.contest is None
    due = night.due(idle=True)
    assert due is None or due.experiment == BASELINE
    assert night.board.entry("e1").kind == "keep"


def test_who_is_found_out_loses_all_and_others_are_judged_without_it(night: Night) -> None:
    night.tried("e1", 1.0 - 9 * SIGMA)
    night.tried("e2", 1.0 - 8 * SIGMA, parent="e1")
    assert night.board.entry("e2").kind == "discard"
    name = night.trial("e1", None, "claim", outcome="rejected")
    entry = night.board.entry("e1")
    assert (entry.kind, entry.estimate, entry.reason) == ("rejected", None, f"{name}: exit code 1")
    assert night.board.entry("e2").kind == "keep", "it is held against the baseline now"
    assert night.known.incumbent == "e2" and night.known.contest is None
    night.trial("e1", 0.5, "replicate")
    assert entry.kind == "rejected" and night.known.incumbent == "e2"


def test_a_confirmed_experiment_that_is_found_out_is_no_longer_claimed(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 1.0 - 8 * SIGMA, "claim")
    night.trial("e1", None, "calibration", outcome="rejected")
    assert (night.known.best, night.known.incumbent) == (BASELINE, BASELINE)


def test_a_slow_trial_is_repeated_and_not_scored(night: Night) -> None:
    for _ in range(3):
        night.trial(BASELINE, 1.0, "calibration", steps=1000)
    before = list(night.board.entry(BASELINE).values)
    night.trial(BASELINE, 1.2, "calibration", steps=700)
    entry = night.board.entry(BASELINE)
    assert entry.values == before and entry.trials[-1].slow
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 0.99, "claim", steps=700)
    assert night.known.best == "e1"
    night.trial("e1", 0.985, "replicate", steps=1000)
    assert [t.slow for t in night.board.entry("e1").trials] == [False, True, False]
    assert night.board.entry("e1").values == [1.0 - 8 * SIGMA, 0.985]


def test_a_slow_claim_is_asked_for_again(night: Night) -> None:
    night.tell(claim("e1"))
    night.trial("e1", 1.0 - 8 * SIGMA, steps=1000)
    night.trial("e1", 0.9, "claim", steps=600)
    due = night.due()
    assert night.known.best == BASELINE
    assert due and (due.experiment, due.purpose) == ("e1", "claim")


def test_noise_is_pooled_and_the_prior_gives_way(night: Night) -> None:
    noise = night.known.noise
    values = [1.0 - SIGMA, 1.0 + SIGMA, 1.0, 1.0 - SIGMA, 1.0 + SIGMA]
    assert noise.is_measured and noise.freedom == 4
    assert noise.sd == pytest.approx(statistics.stdev(values))
    low, high = noise.interval()
    assert low == pytest.approx(noise.sd * 0.5991, rel=0.01)  # √(4 / χ² quantiles 0.025, 0.975)
    assert high == pytest.approx(noise.sd * 2.874, rel=0.05)


def test_strict_builds_on_nothing_that_is_not_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = msgspec.structs.replace(CONFIG, policy="strict", max_experiments=None)
    begun = msgspec.structs.replace(FOUNDING[0], config=config)
    monkeypatch.setattr("test_leaderboard.FOUNDING", [begun, *FOUNDING[1:]])
    night = Night(tmp_path)
    night.begin()
    night.tried("e1", 1.0 - 5 * SIGMA)
    assert night.board.entry("e1").kind == "candidate"
    assert night.known.incumbent == BASELINE
    due = night.due()
    assert due and (due.experiment, due.purpose) == ("e1", "replicate")
    night.trial("e1", 1.0 - 5 * SIGMA, "replicate")
    assert (night.known.incumbent, night.known.best) == ("e1", "e1")
    assert night.board.entry("e1").confirmed
    night.tried("e2", 1.0, parent="e1")
    assert night.board.entry("e2").kind == "discard"


def test_an_interrupted_replicate_changes_nothing(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    before = night.board.entry("e1").belief, night.known.credits
    begun = msgspec.structs.replace(started("t90", "e1"), purpose="replicate")
    way = TrialFinished(
        trial="t90", outcome="interrupted", seconds=1.0, excused=True, reason="made way for e2"
    )
    night.tell(begun, way)
    assert (night.board.entry("e1").belief, night.known.credits) == before
    assert night.board.queued("cpu0") == []
    assert isinstance(night.board.entry("e1").why, Likely)


def test_a_device_class_that_became_slower_is_believed_the_second_time(night: Night) -> None:
    """Else an end, or an agent's experiment, would wait for replicates that never count."""
    night.tell(claim("e1"))
    night.trial("e1", 1.0 - 8 * SIGMA, steps=1000)
    night.trial("e1", 1.0 - 8 * SIGMA, "claim", steps=700)
    assert [trial.slow for trial in night.board.entry("e1").trials] == [False, True]
    night.trial("e1", 1.0 - 8 * SIGMA, "claim", steps=702)
    assert [trial.slow for trial in night.board.entry("e1").trials] == [False, False, False]
    assert night.known.best == "e1"


def test_no_claim_rests_on_noise_that_is_only_assumed(night: Night) -> None:
    known = night.known
    night.tried("e1", 1.0 - 8 * SIGMA)
    known.noise.freedom = 2  # as if only three trials of the baseline had run
    due = night.due()
    assert due and (due.experiment, due.purpose) == (BASELINE, "calibration")
    before = known.credits
    night.tell(msgspec.structs.replace(started("t70", BASELINE), purpose="calibration"))
    assert known.credits == before - 1
    night.tell(msgspec.structs.replace(started("t71", BASELINE, "cpu1"), purpose="calibration"))
    assert night.due() is None, "two are enough, and they run"


def test_who_was_claimed_before_is_claimed_again(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 1.0 - 8 * SIGMA, "claim")
    night.tried("e2", 1.0 - 18 * SIGMA)  # built on the baseline, not on e1
    night.trial("e2", 1.0 - 18 * SIGMA, "claim")
    assert night.known.best == "e2"
    night.trial("e2", None, "calibration", outcome="rejected")
    assert (night.known.best, night.known.incumbent) == ("e1", "e1")


def test_a_contender_may_be_claimed_again_when_the_best_was_at_fault(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 1.0 - 8 * SIGMA, "claim")
    night.tried("e2", 1.0 - 10.5 * SIGMA, parent="e1")
    night.tell(msgspec.structs.replace(started("t80", "e2"), purpose="claim"))
    assert night.known.contest
    night.trial("e1", None, "claim", outcome="rejected")
    assert night.known.contest is None and not night.board.entry("e2").tested
    assert night.known.best == BASELINE


def test_two_failures_long_ago_do_not_end_claims_for_ever(night: Night) -> None:
    night.trial(BASELINE, None, "calibration")
    night.trial(BASELINE, None, "calibration")
    night.tried("e1", 1.0 - 8 * SIGMA)
    assert night.due() is None, "the baseline fails now"
    night.trial(BASELINE, 1.0, "calibration")
    due = night.due()
    assert due and due.purpose == "claim"


def test_what_a_cut_claim_trial_cost_is_given_back(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    before = night.known.credits
    cut = TrialFinished(trial="t91", outcome="interrupted", seconds=1.0, excused=True)
    night.tell(msgspec.structs.replace(started("t91", "e1"), purpose="claim"), cut)
    assert night.known.credits == before


def test_no_leader_stands_there_twice(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 1.0 - 8 * SIGMA, "claim")
    names = [entry.experiment for entry in night.known.leaders()]
    assert names == ["e1", BASELINE]


def test_what_must_be_verified_and_cannot_be_does_not_count(night: Night) -> None:
    verified = msgspec.structs.replace(scored("t60", 1.0), verified=True, heldout_bpb=1.1)
    night.tell(msgspec.structs.replace(started("t60", BASELINE), purpose="calibration"), verified)
    night.tell(claim("e1"), claim("e2"))
    doubtful = msgspec.structs.replace(
        scored("t61", 0.5), unverified=True, reason="not verified: it took all memory"
    )
    night.tell(started("t61", "e1"), doubtful)
    entry = night.board.entry("e1")
    assert (entry.kind, entry.values) == ("rejected", [])
    assert entry.reason == "t61: not verified: it took all memory"
    night.trial("e2", 1.0 - 8 * SIGMA)
    later = msgspec.structs.replace(doubtful, trial="t62", val_bpb=0.4)
    night.tell(msgspec.structs.replace(started("t62", "e2"), purpose="claim"), later)
    assert night.board.entry("e2").values == [1.0 - 8 * SIGMA]
    assert night.board.entry("e2").evidence == []


def test_a_gone_worker_with_an_open_replicate_takes_no_verdict_with_it(night: Night) -> None:
    night.tried("e1", 1.0 - 8 * SIGMA)
    night.trial("e1", 1.0 - 8 * SIGMA, "claim")
    open_one = msgspec.structs.replace(started("t95", "e1", "cpu1"), purpose="calibration")
    assert night.board.config is not None
    night.tell(open_one, Reconfigured(config=night.board.config, workers=("cpu0",)))
    entry = night.board.entry("e1")
    assert (entry.kind, entry.confirmed, entry.running) == ("keep", True, 0)
    assert night.board.queued("cpu1") == [] and night.known.best == "e1"


def test_a_rejected_baseline_leaves_what_ran_to_begin_with(night: Night) -> None:
    night.tried("e1", 1.0 + 3 * SIGMA)
    night.tried("e2", 1.0 - 8 * SIGMA)
    night.trial(BASELINE, None, "calibration", outcome="rejected")
    assert {night.board.entry(name).kind for name in ("e1", "e2")} == {"keep"}
    assert night.known.incumbent == "e2" and night.known.best in ("e1", "e2")
