"""How fast the tuner finds better constants, against simpler searches, on synthetic surfaces.

    python benchmarks/tuner.py [SEEDS]

A surface has 24 constants with a quadratic penalty each (in the logarithm where that is searched),
importances spread over two orders of magnitude (log-normal, σ = 1.2), the optimum σ = 0.2 of the
range away from the start, and couplings between random pairs. The start is 0.025 above the
optimum, about what published swarms gained; a trial adds noise of σ = 5e-4, and the far end of
four constants crashes. Eight workers share results; each builds on the incumbent, which is
replaced by whatever measures lower. Regret is the *true* val_bpb of the incumbent above the
optimum. The same seeds make the same surfaces for every search.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarm import hyperparameters
from swarm.agents.tpe import CHANGED_TOGETHER, Observation, Tuner
from swarm.assignments import Value
from swarm.fingerprint import fingerprint, first_fingerprint, prints
from swarm.hyperparameters import Constant

WORKERS = 8
AFTER = (10, 30, 100, 300)
SIGMA = 5e-4
GAP = 0.025
SCALE = "full"

PROGRAM = """
# ---------- Hyperparameters ----------
DEPTH = 8  # [2, 24]
ASPECT_RATIO = 64  # [32, 128]
HEAD_DIM = 128  # {64, 128}
MLP_RATIO = 4  # {2, 3, 4, 5, 6}
SHORT_WINDOW = 0.5  # [0.0625, 1.0]
ROPE_BASE = 10000.0  # [1000.0, 1000000.0]
SOFTCAP = 15.0  # [5.0, 50.0]
INIT_SCALE = 1.0  # [0.25, 2.0]
X0_INIT = 0.1  # [0.0, 0.5]
TOTAL_BATCH_SIZE = 2**19  # [2**16, 2**20]
MATRIX_LR = 0.04  # [0.004, 0.2]
EMBEDDING_LR = 0.6  # [0.06, 3.0]
UNEMBEDDING_LR = 0.004  # [0.0005, 0.04]
SCALAR_LR = 0.5  # [0.05, 2.0]
WEIGHT_DECAY = 0.2  # [0.0, 1.0]
ADAM_BETA1 = 0.8  # [0.5, 0.95]
ADAM_BETA2 = 0.95  # [0.8, 0.999]
MUON_MOMENTUM = 0.95  # [0.8, 0.99]
MUON_MOMENTUM_START = 0.85  # [0.5, 0.95]
MUON_MOMENTUM_STEPS = 300  # [1, 1000]
MUON_BETA2 = 0.95  # [0.5, 0.999]
WARMUP_RATIO = 0.0  # [0.0, 0.3]
WARMDOWN_RATIO = 0.5  # [0.1, 1.0]
FINAL_LR_FRAC = 0.0  # [0.0, 0.2]
# ---------- Model ----------
"""
CONSTANTS = hyperparameters.parse(PROGRAM, SCALE)
SKELETON = hyperparameters.skeleton(PROGRAM, SCALE)
MAY_CRASH = ("DEPTH", "ASPECT_RATIO", "MATRIX_LR", "EMBEDDING_LR")

Params = Mapping[str, Value]
Observations = Mapping[str, Observation]
Search = Callable[[str, Observations, set[str]], str]
"""From a base, what is known, and the sources tried so far to the next source."""


def params_of(source: str) -> dict[str, Value]:
    return {c.name: c.value for c in hyperparameters.parse(source, SCALE).values()}


def numbers(constant: Constant) -> list[int]:
    """The values of a constant with few of them, in order."""
    if constant.powers_of_two:
        low, high = int(constant.low).bit_length(), int(constant.high).bit_length()
        return [2**power for power in range(low - 1, high)]
    return sorted(int(choice) for choice in constant.choices)


def position(constant: Constant, value: Value) -> float:
    """Where `value` is in its range, from 0 to 1."""
    if steps := numbers(constant):
        return steps.index(int(value)) / (len(steps) - 1)
    number, low, high = float(value), constant.low, constant.high
    if constant.log:
        return math.log(number / low) / math.log(high / low)
    return (number - low) / (high - low)


def at(constant: Constant, where: float) -> Value:
    """The value at a position, the inverse of `position`."""
    where = min(1.0, max(0.0, where))
    if steps := numbers(constant):
        return steps[round(where * (len(steps) - 1))]
    low, high = constant.low, constant.high
    return constant.nearest(
        low * (high / low) ** where if constant.log else low + (high - low) * where
    )


class Surface:
    """True val_bpb as a function of the constants, and noisy measurements of it."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(f"surface {seed}")
        self._noise = random.Random(f"noise {seed}")
        start = {name: position(c, c.value) for name, c in CONSTANTS.items()}
        self._optimum = {n: min(1, max(0, p + chance.gauss(0, 0.2))) for n, p in start.items()}
        self._weight = {name: math.exp(chance.gauss(0, 1.2)) for name in CONSTANTS}
        self._pairs = [
            (a, chance.choice(list(CONSTANTS)), chance.uniform(-0.7, 0.7)) for a in CONSTANTS
        ]
        self._crashes_above = {name: chance.uniform(0.8, 1.0) for name in MAY_CRASH}
        self._scale = 1.0
        self._scale = GAP / self.regret(params_of(PROGRAM))

    def regret(self, params: Params) -> float:
        away = {
            name: math.sqrt(self._weight[name]) * (position(CONSTANTS[name], params[name]) - best)
            for name, best in self._optimum.items()
        }
        alone = sum(distance**2 for distance in away.values())
        coupled = sum(
            abs(c) * (away[a] + math.copysign(1, c) * away[b]) ** 2 for a, b, c in self._pairs
        )
        return self._scale * (alone + coupled)

    def measure(self, params: Params) -> float | None:
        for name, limit in self._crashes_above.items():
            if position(CONSTANTS[name], params[name]) > limit:
                return None
        return 0.97 + self.regret(params) + self._noise.gauss(0, SIGMA)


def tuner(seed: int) -> Search:
    own = Tuner(seed)

    def search(base: str, known: Observations, tried: set[str]) -> str:
        own.learn(known.values())
        return own.propose(base, SCALE, tried.__contains__).source

    return search


def random_search(seed: int) -> Search:
    """Every constant anew, uniformly in its range."""
    chance = random.Random(seed)

    def search(base: str, known: Observations, tried: set[str]) -> str:
        anywhere = {name: at(c, chance.random()) for name, c in CONSTANTS.items()}
        return hyperparameters.edit(base, anywhere, SCALE)

    return search


def random_changes(seed: int) -> Search:
    """As many constants of the base as the tuner changes, but uniformly in their range."""
    chance = random.Random(seed)

    def search(base: str, known: Observations, tried: set[str]) -> str:
        while True:
            count = chance.choices((1, 2, 3), CHANGED_TOGETHER)[0]
            chosen = chance.sample(list(CONSTANTS), count)
            changes = {name: at(CONSTANTS[name], chance.random()) for name in chosen}
            source = hyperparameters.edit(base, changes, SCALE)
            if source not in tried:
                return source

    return search


def coordinates(seed: int) -> Search:
    """One constant after the other, a step of ±10 to 30 % of its range."""
    chance = random.Random(seed)
    rounds: list[str] = []

    def search(base: str, known: Observations, tried: set[str]) -> str:
        now = params_of(base)
        while True:
            if not rounds:
                rounds.extend(chance.sample(list(CONSTANTS), len(CONSTANTS)))
            constant = CONSTANTS[rounds.pop()]
            step = chance.choice((-1, 1)) * chance.uniform(0.1, 0.3)
            moved = at(constant, position(constant, now[constant.name]) + step)
            source = hyperparameters.edit(base, {constant.name: moved}, SCALE)
            if source not in tried:
                return source

    return search


def regrets(surface: Surface, searches: list[Search]) -> list[float]:
    """Regret of the incumbent after so many experiments, the workers running side by side."""
    start = params_of(PROGRAM)
    score = surface.measure(start)
    incumbent = (math.inf if score is None else score, PROGRAM)
    known = {"e0": Observation("e0", SKELETON, start, score, failed=score is None)}
    tried, found, chance = {PROGRAM}, [], random.Random(0)
    queue: list[tuple[float, int, str, str, float]] = []
    finished = 0
    for number in range(1, max(AFTER) + len(searches) + 1):
        worker, now = number - 1, 0.0
        if number > len(searches):
            now, worker, name, source, against = heapq.heappop(queue)
            params = params_of(source)
            score = surface.measure(params)
            known[name] = Observation(name, SKELETON, params, score, failed=score is None)
            if score is not None and score < min(against, incumbent[0]):
                incumbent = (score, source)
            finished += 1
            if finished in AFTER:
                found.append(surface.regret(params_of(incumbent[1])))
        proposed = searches[worker](incumbent[1], known, tried)
        tried.add(proposed)
        known[f"e{number}"] = Observation(f"e{number}", SKELETON, params_of(proposed))
        ready = now + chance.uniform(0.97, 1.03)
        heapq.heappush(queue, (ready, worker, f"e{number}", proposed, incumbent[0]))
    return found


def milliseconds(observations: int, proposals: int = 30) -> float:
    """Median time of one proposal with so many observations, what is hashed included."""
    surface, own, anywhere = Surface(0), Tuner(0), random_changes(0)
    for number in range(observations):
        params = params_of(anywhere(PROGRAM, {}, set()))
        score = surface.measure(params)
        own.learn([Observation(f"e{number}", SKELETON, params, score, failed=score is None)])
    taken = []
    for _ in range(proposals):
        began = time.perf_counter()
        own.propose(PROGRAM, SCALE, lambda source: False)
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def milliseconds_to_hash(hash_it: Callable[[str], object], times: int = 20) -> float:
    """Fewest CPU milliseconds to hash the real `train.py`: what others do meanwhile is left out."""
    source = (Path(__file__).resolve().parent.parent / "train.py").read_text()
    taken = []
    for _ in range(times):
        began = time.process_time()
        hash_it(source)
        taken.append(1000 * (time.process_time() - began))
    return min(taken)


def main(seeds: int) -> None:
    searches: dict[str, Callable[[int], Search]] = {
        "tuner": tuner,
        "one at a time": coordinates,
        "1-3 at random": random_changes,
        "all at random": random_search,
    }
    print(f"regret in 1e-4 bpb, mean ± SE over {seeds} surfaces; start {GAP * 1e4:.0f}")
    print(f"{'after experiments':18}" + "".join(f"{count:>14}" for count in AFTER))
    for name, make in searches.items():
        rows = [
            regrets(Surface(seed), [make(1000 * seed + w) for w in range(WORKERS)])
            for seed in range(seeds)
        ]
        cells = ""
        for column in zip(*rows, strict=True):
            error = statistics.stdev(column) / math.sqrt(seeds)
            cells += f"{statistics.mean(column) * 1e4:7.1f} ± {error * 1e4:4.1f}"
        print(f"{name:18}{cells}", flush=True)
    print(
        "\nms per proposal    "
        + "".join(f"{milliseconds(n):8.1f} ({n} results)" for n in (0, 100, 1000))
    )
    print("ms per hash of train.py")
    hashes: dict[str, Callable[[str], object]] = {
        "fingerprint": fingerprint, "blind to seeds, too": prints, "version 0.1": first_fingerprint,
    }  # fmt: skip
    for name, hash_it in hashes.items():
        print(f"{name:20}{milliseconds_to_hash(hash_it):7.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 24)
