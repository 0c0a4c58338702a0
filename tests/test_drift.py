"""A warning when val_bpb falls and the held-out score does not follow, and only then."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

from swarm import drift, records
from swarm.standings import DeviceClass, Entry, Trial, new_class

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SEED_SD, GAP_SD = 7e-4, 1e-4


def entry(name: str, scores: list[tuple[float, float | None]]) -> Entry:
    claim = records.Claim(
        experiment=name, worker="gpu0", agent="tuner", parent=None if name == "e0" else "e0",
        commit=name, fingerprint=name, description=name,
    )  # fmt: skip
    trials = [
        Trial(f"{name}t{i}", name, "gpu0", "C", i, NOW, outcome="ok", val_bpb=val, heldout_bpb=held)
        for i, (val, held) in enumerate(scores)
    ]
    return Entry(claim, trials=trials)


def class_of(*entries: Entry, best: str | None = "e1") -> DeviceClass:
    known = new_class("C", "full", "cuda")
    known.entries = {one.experiment: one for one in entries}
    known.best, known.incumbent = best, "e0"
    return known


def scores(rng: Random, val: float, heldout: float, trials: int) -> list[tuple[float, float]]:
    """Trials whose seed moves both scores together, and their difference a little."""
    seeds = [rng.gauss(0, SEED_SD) for _ in range(trials)]
    return [(val + seed, heldout + seed + rng.gauss(0, GAP_SD)) for seed in seeds]


def found(rng: Random, gain: float, heldout_gain: float, trials: int = 4) -> drift.Drift:
    e0 = entry("e0", [*scores(rng, 0.98, 0.99, trials)])
    e1 = entry("e1", [*scores(rng, 0.98 - gain, 0.99 - heldout_gain, trials)])
    drifted = drift.of(class_of(e0, e1))
    assert drifted is not None
    return drifted


def test_a_gain_that_both_splits_have_is_no_drift() -> None:
    rng = Random(1)
    assert not any(found(rng, gain, gain).is_real for gain in [0.0, 0.002, 0.02] * 100)


def test_a_gain_of_the_validation_split_alone_is_drift() -> None:
    rng = Random(2)
    assert all(found(rng, gain, 0.2 * gain).is_real for gain in [0.005, 0.02] * 50)
    told = found(rng, 0.02, 0.0)
    assert str(told).startswith("e1 gained 0.0") and str(told).endswith("val_bpb is overfitted")


def test_texts_may_profit_a_little_differently() -> None:
    rng = Random(3)
    assert not any(found(rng, 0.02, 0.9 * 0.02).is_real for _ in range(100))


def test_one_trial_each_says_less_than_many() -> None:
    rng = Random(4)
    assert not found(rng, 0.002, 0.0, trials=1).is_real
    assert found(rng, 0.002, 0.0, trials=8).is_real


def test_nothing_is_said_without_both_scores() -> None:
    bare = [(0.9, None), (0.9, None)]
    both: list[tuple[float, float | None]] = [(0.9, 0.91)]
    assert drift.of(class_of(entry("e0", bare), entry("e1", both))) is None  # type: ignore[arg-type]
    assert drift.of(class_of(entry("e0", both), entry("e1", bare))) is None  # type: ignore[arg-type]
    assert drift.of(class_of(entry("e0", both), entry("e1", both), best=None)) is None
    assert drift.heldout(entry("e1", [*both, (0.8, None), (0.9, 0.93)])) == 0.92
