"""Synthetic swarms: what they draw, and that honest decisions come out of the real fold."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import sweep
from swarm.effects import Belief, Effects
from swarm.noise import Noise, critical, student_tail
from swarm.pace import Pace
from swarm.simulate import START, Outcome, Simulation, World, effect_at, simulate

Run = Callable[..., subprocess.CompletedProcess[str]]


def summary(count: int, **world: object) -> sweep.Summary:
    made = World(**world)  # type: ignore[arg-type]
    outcomes = [simulate(dataclasses.replace(made, seed=seed)) for seed in range(count)]
    return sweep.summarise(made, outcomes)


def test_the_same_seed_is_the_same_swarm() -> None:
    world = World(hours=1.0, seed=3)
    assert simulate(world) == simulate(world)
    assert simulate(world) != simulate(dataclasses.replace(world, seed=4))


def test_policies_get_the_same_device_hours() -> None:
    hours = [simulate(World(policy=p, hours=3.0)).device_hours for p in ("probable", "greedy")]
    assert hours[0] == pytest.approx(hours[1], rel=0.02)
    assert hours[0] == pytest.approx(24.0, rel=0.04)


def test_placebo_swarms_claim_next_to_nothing() -> None:
    found = summary(20, placebo=True, hours=3.0)
    assert found.claims < 0.1
    greedy = summary(5, placebo=True, hours=3.0, policy="greedy")
    assert greedy.claims > 3, "what it would be without"


def test_a_placebo_that_is_tested_passes_as_rarely_as_the_level_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Test whatever leads, however little it seems to gain: that it leads is no evidence."""
    monkeypatch.setattr("swarm.claims.trials_needed", lambda *_: 1)
    found = summary(40, placebo=True, hours=3.0, think=0.2)
    tested = found.tested * found.swarms
    assert tested > 100
    passed = found.claims / found.tested
    assert passed < 0.05 + 2 * (0.05 * 0.95 / tested) ** 0.5


def test_the_default_policy_claims_little_that_is_false_and_gets_as_far() -> None:
    ours = summary(12, sigma=1e-3)
    greedy = summary(12, sigma=1e-3, policy="greedy")
    assert ours.claims > 2 and ours.false_claims < 0.05 < greedy.false_claims
    assert ours.true.value < greedy.true.value + greedy.true.error
    assert START > ours.claimed.value >= ours.true.value - 1e-3


def test_the_clock_starts_idle_replicates_only_where_agents_think() -> None:
    busy = simulate(World(hours=2.0, think=0.0))
    waits = simulate(World(hours=2.0, think=0.3, idle=False))
    fills = simulate(World(hours=2.0, think=0.3, idle=True))
    assert fills.replicates > waits.replicates
    assert waits.device_hours < fills.device_hours <= busy.device_hours * 1.05


def test_quantiles_of_effects_are_those_published() -> None:
    for share, published in ((0.05, -12e-4), (0.1, -5e-4), (0.5, 8e-4), (0.9, 65e-4)):
        assert effect_at(share) == pytest.approx(published)
    rng = random.Random(0)
    drawn = [effect_at(rng.random()) for _ in range(20000)]
    assert sum(effect < 0 for effect in drawn) / 20000 == pytest.approx(0.2, abs=0.02)
    assert min(drawn) >= -115e-4 and max(drawn) <= 300e-4


def test_summaries_average() -> None:
    outcomes = [Outcome(true=1.0, keeps=4, false_keeps=1), Outcome(true=2.0, keeps=0)]
    outcomes[0].reached[0.01] = 3.0
    found = sweep.summarise(World(), outcomes)
    assert (found.true.value, found.true.error) == (1.5, pytest.approx(0.5))
    assert (found.keeps, found.false_keeps, found.reached) == (2, 0.25, {0.01: (3.0, 1)})


def test_the_limits_of_one_machine_are_measured(tmp_path: Path) -> None:
    found = sweep.limits(World(hours=0.5), cores=4, folder=tmp_path)
    assert 1e-5 < found.append < 1 and 1e-7 < found.fold < 1e-3
    assert 300 < found.memory < 1e5
    assert found.workers_append > 50 and found.workers_fold > 50
    assert not list(tmp_path.iterdir())


def test_the_fold_is_the_real_one() -> None:
    simulation = Simulation(World(hours=0.5), keep_records=True)
    simulation.run()
    kinds = {type(record).__name__ for record in simulation.told}
    assert kinds == {"Swarm", "Worker", "Claim", "TrialStarted", "TrialFinished"}
    assert [record.seq for record in simulation.told] == list(range(1, len(simulation.told) + 1))
    assert {entry.kind for entry in simulation.board.classes["simulated"].entries.values()} <= {
        "keep", "discard", "crash", "candidate"
    }  # fmt: skip


def test_the_command_prints_a_table_and_draws(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "a plot.png"
    done = run("simulate", "--swarms", "2", "--hours", "0.5", "--policy", "probable,greedy",
               "--plot", str(picture))  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["policy", "workers", "σ"]
    assert [line.split()[0] for line in lines[1:3]] == ["probable", "greedy"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = run("simulate", "--swarms", "2", "--hours", "0.5", "--policy", "greedy", "--json")
    assert json.loads(told.stdout)[0]["world"]["policy"] == "greedy"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "lucky"), "there is no policy 'lucky'"),
        (("--sigma", "0"), "'0' is not a positive number"),
        (("--plot", "gain.gif"), "cannot draw a .gif"),
        (("--plot", "nowhere/gain.png"), "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run("simulate", *arguments, check=False)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[0]


# ---- the statistics ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "degrees", "tail"),
    [  # from tables of Student's distribution
        (6.314, 1, 0.05), (2.920, 2, 0.05), (2.132, 4, 0.05), (2.571, 5, 0.025),
        (2.764, 10, 0.01), (1.697, 30, 0.05), (2.358, 120, 0.01), (0.0, 7, 0.5),
        (-2.132, 4, 0.95),
    ],
)  # fmt: skip
def test_students_tail(t: float, degrees: int, tail: float) -> None:
    assert student_tail(t, degrees) == pytest.approx(tail, rel=2e-3)
    if 0 < tail < 0.5:
        assert critical(tail, degrees) == pytest.approx(t, rel=1e-3)


@given(st.floats(-0.02, 0.02), st.floats(1e-8, 1e-5), st.floats(0, 1e-5))
def test_a_belief_lies_between_its_base_and_its_measurement(
    difference: float, own: float, of_base: float
) -> None:
    base = Belief(1.0, of_base, 0.0)
    found = Effects(7e-4).believe(1.0 + difference, own, base)
    slack = 3 * (own + of_base) ** 0.5
    assert min(0, difference) - slack <= found.mean - 1.0 <= max(0, difference) + slack
    assert 0 <= found.better <= 1
    assert 0 <= found.variance <= 1.001 * (own + of_base) + 0.3 * slack**2


def test_a_belief_is_the_posterior_of_a_thousand_draws() -> None:
    """Draw effects from the prior and measure them; of those measured alike, take the mean."""
    effects, rng, own = Effects(7e-4), random.Random(1), 25e-8
    near = []
    for _ in range(150_000):
        size = rng.choices(effects.sizes, effects.weights)[0]
        true = rng.gauss(size, abs(size) / 3)
        if abs(true + rng.gauss(0, 5e-4) + 8e-4) < 4e-5:
            near.append(true)
    found = effects.believe(1.0 - 8e-4, own, Belief(1.0, 0.0, 0.0))
    mean = sum(near) / len(near)
    assert found.mean - 1.0 == pytest.approx(mean, abs=2.5e-5)
    assert found.better == pytest.approx(sum(true < 0 for true in near) / len(near), abs=0.03)
    spread = sum((true - mean) ** 2 for true in near) / len(near)
    assert found.variance == pytest.approx(spread, rel=0.1)


def test_the_bar_is_where_a_first_trial_becomes_probably_better() -> None:
    effects, base = Effects(7e-4), Belief(1.0, 1e-8, 0.0)
    bar = effects.bar(25e-8, base)
    assert effects.believe(bar - 1e-7, 25e-8, base).mean < 1.0
    assert effects.believe(bar + 1e-6, 25e-8, base).mean >= 1.0


def test_effects_are_learnt_from_results() -> None:
    bold, timid = Effects(7e-4), Effects(7e-4)
    rng = random.Random(2)
    for _ in range(400):
        bold.learn(rng.choice([-40e-4, 40e-4]) + rng.gauss(0, 5e-4), 25e-8)
        timid.learn(rng.gauss(0, 5e-4), 25e-8)
    assert bold.gain > 10 * timid.gain
    assert sum(bold.weights) == pytest.approx(1)
    lucky = [e.believe(1.0 - 10e-4, 25e-8, Belief(1.0, 0.0, 0.0)).mean for e in (bold, timid)]
    assert lucky[0] < lucky[1], "where nothing helps, a low score is luck"


def test_the_prior_of_noise_counts_until_there_are_four_replicates() -> None:
    noise = Noise(prior_sd=0.01)
    assert noise.sd == 0.01
    noise.change([1.0], [1.0, 1.0])
    assert noise.sd == pytest.approx(0.01 * (3 / 4) ** 0.5)
    noise.change([1.0, 1.0], [1.0] * 5)
    assert noise.freedom == 4 and noise.sd == pytest.approx(1e-9)


def test_a_disturbed_trial_has_too_few_steps() -> None:
    pace = Pace(prior_sd=0.003)
    assert pace.too_slow([1000, 998, 1001, 960]) == [False, False, False, True]
    rng = random.Random(0)
    wild = Pace(prior_sd=0.003)
    for _ in range(50):
        wild.learn([1000], round(rng.gauss(1000, 40)))
    assert wild.sd == pytest.approx(0.04, rel=0.4)
    assert wild.too_slow([1000, 960]) == [False, False], "which is usual there"
