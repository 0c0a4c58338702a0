"""Workers in the fold: their directions, islands, what they spend, and when they are parked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import toy_swarm
from toy_swarm import WORKERS, Story

from swarm import allocate, pollinate, records
from swarm.experiment import Bench
from swarm.spending import Bill
from swarm.views import documents, status
from swarm.views.table import Style
from swarm.workers import MIGRATES_EVERY, PATIENCE


def test_workers_begin_with_different_directions_and_turn_when_nothing_is_kept(
    tmp_path: Path,
) -> None:
    story = Story(tmp_path, directions=("optimizer", "schedules", "data"))
    follow = story.board.workforce.direction_of
    assert [follow(name) for name in WORKERS] == ["optimizer", "schedules", "data", "optimizer"]
    for _ in range(PATIENCE - 1):
        story.experiment("cpu0", 2.0)
    assert follow("cpu0") == "optimizer"
    kept = story.experiment("cpu0", 0.9)  # what pays is followed on
    for _ in range(PATIENCE - 1):
        story.experiment("cpu0", 2.0)
    assert follow("cpu0") == "optimizer"
    story.experiment("cpu0", None)  # a crash is no keep either
    # two directions are followed by one other worker each: the nearest one is taken
    assert follow("cpu0") == "schedules"
    assert story.board.workers["cpu0"].fresh_starts == 1
    tally = story.board.workforce.directions["optimizer"]
    assert (tally.tried, tally.kept) == (2 * PATIENCE, 1)
    assert story.board.entry(kept).kind == "keep"


def test_the_direction_with_the_fewest_followers_is_next(tmp_path: Path) -> None:
    story = Story(tmp_path, directions=("a", "b", "c", "d", "e"))
    for _ in range(PATIENCE):
        story.experiment("cpu0", 2.0)
    assert story.board.workforce.direction_of("cpu0") == "e"


def test_islands_share_what_they_keep_and_migrate_rarely(tmp_path: Path) -> None:
    story = Story(tmp_path, islands=2)

    def base(worker: str) -> str:
        return pollinate.base_for(story.board, worker).experiment

    assert {base(name) for name in WORKERS} == {"e0"}
    even = story.experiment("cpu0", 0.9)
    assert [base(name) for name in WORKERS] == [even, "e0", even, "e0"]
    odd = story.experiment("cpu1", 0.8)
    assert [base(name) for name in WORKERS] == [even, odd, even, odd]
    for _ in range(PATIENCE):  # a plateau: the worker starts afresh, its island stays what it was
        story.experiment("cpu0", 2.0, even)
    assert [base(name) for name in WORKERS] == [odd, odd, even, odd]
    story.experiment("cpu2", 0.85, even)
    assert base("cpu2") != odd
    for number in range(MIGRATES_EVERY - 1):  # keeps alone do not carry it beyond its island
        assert base("cpu2") != odd, number
        story.experiment("cpu2", 0.84 - number * 1e-3, base("cpu2"))
    assert base("cpu2") == odd


def test_without_islands_everyone_builds_on_the_incumbent(tmp_path: Path) -> None:
    story = Story(tmp_path)
    best = story.experiment("cpu3", 0.9)
    assert {pollinate.base_for(story.board, name).experiment for name in WORKERS} == {best}


def test_an_island_keeps_what_workers_found_that_are_gone(tmp_path: Path) -> None:
    story = Story(tmp_path, islands=2)
    found = story.experiment("cpu2", 0.8)
    assert story.board.config is not None
    story.tell(records.Reconfigured(config=story.board.config, workers=("cpu0", "cpu1")))
    assert pollinate.base_for(story.board, "cpu0").experiment == found
    assert pollinate.base_for(story.board, "cpu1").experiment == "e0"


def test_a_device_on_which_everything_fails_is_tried_with_what_worked(tmp_path: Path) -> None:
    story = Story(tmp_path)
    worker = story.board.workers["cpu0"]
    best = story.experiment("cpu1", 0.9)
    story.trial("e0", "cpu2", 1.0)  # the baseline is measured often enough
    for _ in range(allocate.DOUBTFUL):
        due = allocate.next_trial(story.board, "cpu0", False, False)
        assert due is None or due.purpose != "calibration"
        story.experiment("cpu0", None)
    due = allocate.next_trial(story.board, "cpu0", False, False)
    assert due is not None
    assert (due.experiment, due.purpose) == (best, "calibration")
    assert "does the device still work" in due.why
    story.trial(best, "cpu0", 0.91)
    assert worker.failures == 0


def test_a_paused_worker_does_not_keep_a_swarm_from_its_end(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.claim("cpu0")
    assert not allocate.is_over(story.board, "cpu0")
    story.tell(records.Control(action="pause", workers=("cpu0",), reason="its device fails"))
    assert allocate.is_over(story.board, "cpu0")
    assert story.board.workers["cpu0"].paused_because == "its device fails"
    story.tell(records.Control(action="resume", workers=("cpu0",)))
    assert not allocate.is_over(story.board, "cpu0")


def test_calls_of_unknown_size_have_no_known_price(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.tell(records.Spend(worker="cpu0", model="m", calls=3, usd=0.0))
    name = story.claim("cpu0")
    bill = story.board.entry(name).bill
    assert bill is not None
    assert (bill.uncounted, bill.known_usd) == (3, None)
    shown = status.status(documents.status(story.paths, story.board), Style(False, 160))
    assert "of 3 calls the provider did not say how much they took" in shown


def test_what_is_spent_belongs_to_the_next_experiment(tmp_path: Path) -> None:
    story = Story(tmp_path, device_hour_usd=2.0)
    story.spend("cpu0", 0.25)
    story.spend("cpu0", 0.5)
    story.spend("cpu1", None)
    first, second = story.claim("cpu0"), story.claim("cpu0")
    foreign = story.claim("cpu1")
    story.spend("cpu0", 1.0)
    board = story.board
    assert board.entry(first).bill == Bill(0.75, 200, 0)
    assert board.entry(second).bill is None
    unknown = board.entry(foreign).bill
    assert unknown is not None
    assert unknown.known_usd is None
    assert board.workers["cpu0"].bill == Bill(1.75, 300, 0)
    # one trial of 36 seconds at 2 USD an hour, and the agents
    assert board.workforce.usd == pytest.approx(1.75 + 0.02)


def test_the_budget_of_a_swarm_is_for_agents_and_devices_together(tmp_path: Path) -> None:
    story = Story(tmp_path, max_usd=1.0, device_hour_usd=50.0)  # half a dollar a trial
    now = datetime.now(UTC)
    assert story.board.exhausted(now) == ""
    story.spend("cpu0", 0.49)
    assert story.board.exhausted(now) == ""
    story.spend("cpu2", 0.02)
    assert story.board.exhausted(now) == "1.01 of 1 USD are spent"


@pytest.mark.parametrize(
    "wrong",
    [
        {"usd": -1.0}, {"usd": float("nan")}, {"usd": float("inf")}, {"input_tokens": -1},
        {"output_tokens": 10**13}, {"calls": 2**70},
    ],
)  # fmt: skip
def test_nobody_earns_by_spending_or_spends_beyond_measure(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="nobody can have used that"):
        records.Spend(worker="cpu0", model="m", **wrong)  # type: ignore[arg-type]


def test_a_parked_worker_comes_back_by_a_start_or_a_person(tmp_path: Path) -> None:
    story = Story(tmp_path)
    worker = story.board.workers["cpu0"]
    until = datetime.now(UTC) + timedelta(hours=1)
    parked = records.AgentEvent(worker="cpu0", state="parked", reason="limit", until=until)
    story.tell(parked, records.AgentEvent(worker="cpu0", state="nudged", reason="wake up"))
    assert (worker.parked, worker.parked_until, worker.nudges) == ("limit", until, 1)
    story.tell(records.AgentEvent(worker="cpu0", state="started"))
    assert (worker.parked, worker.parked_until) == (None, None)
    story.tell(parked, records.Control(action="resume"))
    assert worker.parked_until is None


def test_an_empty_journal_has_no_bill(tmp_path: Path) -> None:
    bench: Bench = toy_swarm.bench_of(toy_swarm.begin(tmp_path, ["cpu0"]), "cpu0")
    assert bench.board.workforce.usd == 0
