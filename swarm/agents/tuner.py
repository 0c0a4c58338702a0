"""The built-in offline agent: proposes changes of a few constants, informed by all results.

It needs no network and no key. Optuna's TPE models what has been measured, by any worker, on the
same program; a proposal changes one to three constants of the worker's base. The constants below
were chosen with `benchmarks/tuner.py`.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from swarm import hyperparameters
from swarm.errors import Refused, SwarmError
from swarm.fingerprint import fingerprint
from swarm.hyperparameters import Constant, Value
from swarm.leaderboard import BASELINE, DeviceClass, Entry, Leaderboard

K_WEIGHTS = (4, 4, 2)
"""How often one, two or three constants are changed together."""
STARTUP_RESULTS = 10
"""Below this many results a proposal is random: TPE has nothing to go by."""
HISTORY = 200
"""So many results feed the model: half of them the best, the others the latest."""
MIN_STEP = 0.0
RADIUS = 1.0
CRASH_IS_BAD = True
CANDIDATES = 24
ASKS = 50
"""How often to ask again when what is proposed was tried, before more constants are changed."""
LIAR = True
MULTI = False


@dataclass(frozen=True)
class Observation:
    """What an experiment says: its constants, the `skeleton` they filled, and how it went.

    `val_bpb` is the mean over replicates; `None` while it runs, and where it failed.
    """

    experiment: str
    skeleton: str
    params: Mapping[str, Value]
    val_bpb: float | None = None
    running: bool = False


@dataclass(frozen=True)
class Proposal:
    """An edited `train.py` and what was changed in it."""

    source: str
    description: str
    changes: Mapping[str, Value]


class Tuner:
    """Proposes experiments that nobody has tried; equal seeds and calls give equal proposals."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._known: dict[str, Observation] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def learn(self, observations: Iterable[Observation]) -> None:
        """Add observations; one of an experiment that is known replaces what it said before."""
        for observation in observations:
            self._known[observation.experiment] = observation

    def propose(self, base_source: str, scale: str, tried: Callable[[str], bool]) -> Proposal:
        """Change a few constants of `base_source` so that `tried` is false of the result.

        Raises `SwarmError` when there is nothing to tune, or nothing left to try.
        """
        constants = hyperparameters.parse(base_source, scale)
        if not constants:
            raise SwarmError("train.py has no constants to tune")
        known = self._relevant(hyperparameters.skeleton(base_source, scale))
        done = {_key(constants, each.params) for each in known}
        base = {name: constant.value for name, constant in constants.items()}
        for changes in self._candidates(constants, known):
            if not changes or _key(constants, {**base, **changes}) in done:
                continue
            source = hyperparameters.edit(base_source, changes, scale)
            if not tried(source):
                return Proposal(source, _described(constants, changes), changes)
            done.add(_key(constants, {**base, **changes}))
        raise SwarmError("nothing left to try")

    def _relevant(self, skeleton: str) -> list[Observation]:
        same = [each for each in self._known.values() if each.skeleton == skeleton]
        return informative(same, lambda each: each.val_bpb)

    def _candidates(self, constants, known):
        names = list(constants)
        for attempt in range(3 * ASKS):
            k = self._random.choices((1, 2, 3), K_WEIGHTS)[0] + attempt // ASKS * 2
            chosen = self._random.sample(names, min(k, len(names)))
            asked = self._ask([constants[name] for name in chosen], known)
            yield {n: v for n, v in asked.items() if v != constants[n].value}

    def _ask(self, chosen, known):
        spaces = {c.name: _Space.of(c) for c in chosen}
        distributions = {n: s.distribution for n, s in spaces.items()}
        sampler = optuna.samplers.TPESampler(
            seed=self._random.getrandbits(32),
            multivariate=MULTI,
            n_startup_trials=STARTUP_RESULTS,
            constant_liar=LIAR,
            n_ei_candidates=CANDIDATES,
        )
        study = optuna.create_study(sampler=sampler)
        study.add_trials([t for each in known if (t := _trial(each, spaces))])
        asked = study.ask(distributions).params
        return {n: spaces[n].value(v) for n, v in asked.items()}


@dataclass(frozen=True)
class _Space:
    """A constant as Optuna sees it: powers of two by exponent, numbers among choices by rank."""

    constant: Constant
    distribution: BaseDistribution
    ranks: tuple[Value, ...] = ()

    @classmethod
    def of(cls, c: Constant) -> "_Space":
        if c.choices:
            if isinstance(c.value, str | bool):
                return cls(c, CategoricalDistribution(c.choices))
            ranks = tuple(sorted(c.choices))
            return cls(c, IntDistribution(0, len(ranks) - 1), ranks)
        if c.powers_of_two:
            low, high = int(c.low).bit_length() - 1, int(c.high).bit_length() - 1
            return cls(c, IntDistribution(low, high), tuple(2**i for i in range(high + 1)))
        low, high = c.low, c.high
        if RADIUS < 1:
            import math

            if c.log:
                r = math.log(high / low) * RADIUS
                low, high = max(low, c.value * math.exp(-r)), min(high, c.value * math.exp(r))
            else:
                r = (high - low) * RADIUS
                low, high = max(low, c.value - r), min(high, c.value + r)
        if c.integer:
            low, high = round(low), round(high)
            if low == high:
                low, high = int(c.low), int(c.high)
            return cls(c, IntDistribution(int(low), int(high), log=c.log))
        return cls(c, FloatDistribution(low, high, log=c.log))

    def unit(self, v):
        import math

        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return None
        p = self.param(v)
        if p is None:
            return None
        if getattr(d, "log", False):
            return math.log(p / d.low) / math.log(d.high / d.low)
        return (p - d.low) / (d.high - d.low)

    def param(self, value: Value) -> Value | None:
        if self.ranks:
            return self.ranks.index(value) if value in self.ranks else None
        return value

    def value(self, param):
        if self.ranks:
            return self.ranks[param]
        v = self.constant.nearest(param)
        if MIN_STEP and not self.constant.choices and not self.constant.integer:
            if abs(self.unit(v) - self.unit(self.constant.value)) < MIN_STEP:
                return self.constant.value
        return v


def _trial(each, spaces):
    if each.val_bpb is not None:
        state = TrialState.COMPLETE
    elif each.running:
        state = TrialState.RUNNING
    elif CRASH_IS_BAD:
        state = TrialState.PRUNED
    else:
        return None
    params = {}
    for n, s in spaces.items():
        if n in each.params:
            p = s.param(each.params[n])
            if p is not None and s.distribution._contains(s.distribution.to_internal_repr(p)):
                params[n] = p
    return create_trial(
        state=state,
        value=each.val_bpb,
        params=params,
        distributions={n: spaces[n].distribution for n in params},
    )


def informative(items, score):
    if len(items) <= HISTORY:
        return items
    best = heapq.nsmallest(HISTORY // 2, (i for i in items if score(i) is not None), key=score)
    ids = {id(i) for i in best}
    rest = [i for i in items if id(i) not in ids][-(HISTORY - len(best)) :]
    keep = ids | {id(i) for i in rest}
    return [i for i in items if id(i) in keep]


def _key(constants, params):
    return tuple(params.get(n) for n in constants)


def _described(constants, changes):
    return ", ".join(
        f"{n} {constants[n].text} → {constants[n].written(v)}" for n, v in changes.items()
    )
