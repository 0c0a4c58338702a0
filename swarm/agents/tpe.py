"""What to try next: Optuna's TPE, informed by everything measured on the same program.

A proposal changes one to three constants of a base. The numbers below were tried on surfaces like
those of `benchmarks/tuner.py`; near them the regret differs by less than its standard error.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from swarm import hyperparameters
from swarm.assignments import Value
from swarm.errors import SwarmError
from swarm.hyperparameters import Constant

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import FrozenTrial, TrialState, create_trial
except ModuleNotFoundError as error:
    raise SwarmError(
        f"the tuner needs {error.name}, which is not installed",
        "pip install 'swarm-research[tuner]'",
    ) from error

CHANGED_TOGETHER = (6, 3, 1)
"""How often one, two and three constants are changed at once."""
STARTUP_RESULTS = 10
"""With fewer results a proposal is random: TPE has nothing to go by."""
STARTUP_REACH = 0.2
"""Such a random value stays within this share of the range from the base, which somebody chose."""
FIRST, FIRST_WEIGHT = re.compile(r"LR|LEARNING_RATE|BATCH"), 3
"""What published runs gained most from is changed more often: learning rates and batch sizes."""
HISTORY = 100
"""So many results feed the model, half of them the best, the others the latest. More did not
help, and the device waits while they are weighed."""
ASKS = 50
"""How often to ask anew when a proposal was tried before, until more constants are changed."""
GRID = 4096
"""A space of at most this size is walked to the end before there is nothing left to try."""

_NOTHING_LEFT = "stop the swarm, or add constants or wider ranges to the block in train.py"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Observation:
    """What an experiment says: its constants, the `skeleton` they fill, and how it went.

    `val_bpb` is the mean over replicates; without one the experiment `failed`, or has no result
    yet.
    """

    experiment: str
    skeleton: str
    params: Mapping[str, Value]
    val_bpb: float | None = None
    failed: bool = False


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
            raise SwarmError(
                "the hyperparameters of train.py have nothing to tune",
                "give a constant a range: LR = 0.04  # learning rate [0.004, 0.4]",
            )
        skeleton = hyperparameters.skeleton(base_source, scale)
        same = [each for each in self._known.values() if each.skeleton == skeleton]
        known = informative(same, lambda each: each.val_bpb)
        source, changes = self._untried(base_source, scale, constants, known, tried)
        return Proposal(source, _described(constants, changes), changes)

    def _untried(
        self,
        base_source: str,
        scale: str,
        constants: Mapping[str, Constant],
        known: Sequence[Observation],
        tried: Callable[[str], bool],
    ) -> tuple[str, dict[str, Value]]:
        base = {name: constant.value for name, constant in constants.items()}
        done = {_key(base)} | {_key({**base, **each.params}) for each in known}
        for asked in self._candidates(constants, known):
            key = _key({**base, **asked})
            if key in done:
                continue
            done.add(key)
            changes = {name: value for name, value in asked.items() if value != base[name]}
            source = hyperparameters.edit(base_source, changes, scale)
            if not tried(source):
                return source, changes
        raise SwarmError("nothing left to try: every proposal was tried before", _NOTHING_LEFT)

    def _candidates(
        self, constants: Mapping[str, Constant], known: Sequence[Observation]
    ) -> Iterator[dict[str, Value]]:
        """Ever wider: a few constants, then up to all of them, then the whole grid if finite."""
        for wider in (0, 2, len(constants)):
            for _ in range(ASKS):
                count = wider + self._random.choices((1, 2, 3), CHANGED_TOGETHER)[0]
                chosen = self._chosen(list(constants.values()), min(count, len(constants)))
                if len(known) < STARTUP_RESULTS:
                    chosen = [_near(constant) for constant in chosen]
                yield self._ask(chosen, known)
        grid = [_Space.of(constant).values() for constant in constants.values()]
        if all(grid) and math.prod(map(len, grid)) <= GRID:
            everything = list(itertools.product(*grid))
            self._random.shuffle(everything)
            for values in everything:
                yield dict(zip(constants, values, strict=True))

    def _chosen(self, constants: list[Constant], count: int) -> list[Constant]:
        """Some constants at random (Efraimidis and Spirakis 2006), those that matter more often."""
        weights = [FIRST_WEIGHT if FIRST.search(constant.name) else 1 for constant in constants]
        keys = [self._random.random() ** (1 / weight) for weight in weights]
        order = sorted(range(len(constants)), key=keys.__getitem__, reverse=True)
        return [constants[at] for at in order[:count]]

    def _ask(self, chosen: Sequence[Constant], known: Sequence[Observation]) -> dict[str, Value]:
        """Values for the chosen constants, each from TPE's model of what was seen of it."""
        spaces = {constant.name: _Space.of(constant) for constant in chosen}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=self._random.getrandbits(32),
                n_startup_trials=STARTUP_RESULTS,
                multivariate=False,
                constant_liar=True,
            )
        study = optuna.create_study(sampler=sampler)
        study.add_trials([_trial(each, spaces) for each in known])
        asked = study.ask({name: space.distribution for name, space in spaces.items()}).params
        return {name: spaces[name].value(param) for name, param in asked.items()}


@dataclass(frozen=True)
class _Space:
    """A constant as Optuna sees it: ordered choices and powers of two are numbered, from 0."""

    constant: Constant
    distribution: BaseDistribution
    ranks: tuple[Value, ...] = ()

    @classmethod
    def of(cls, constant: Constant) -> _Space:
        low, high = constant.low, constant.high
        if constant.choices and isinstance(constant.value, str | bool):
            return cls(constant, CategoricalDistribution(constant.choices))
        if constant.choices or constant.powers_of_two:
            powers = range(int(low).bit_length() - 1, int(high).bit_length())
            ranks = tuple(sorted(constant.choices)) or tuple(2**power for power in powers)
            return cls(constant, IntDistribution(0, len(ranks) - 1), ranks)
        if constant.integer:
            return cls(constant, IntDistribution(int(low), int(high), log=constant.log))
        return cls(constant, FloatDistribution(low, high, log=constant.log))

    def param(self, value: Value) -> Any:
        """What Optuna calls `value`; `None` where it is outside of the space."""
        if self.ranks:
            return self.ranks.index(value) if value in self.ranks else None
        if isinstance(self.distribution, CategoricalDistribution):
            return value if value in self.distribution.choices else None
        if isinstance(value, str) or not self.constant.low <= value <= self.constant.high:
            return None
        return value

    def value(self, param: Any) -> Value:
        return self.ranks[param] if self.ranks else self.constant.nearest(param)

    def values(self) -> Sequence[Value]:
        """All values of a finite space; none of a continuous one."""
        if self.constant.integer and not self.ranks:
            return range(int(self.constant.low), int(self.constant.high) + 1)
        return self.ranks or self.constant.choices


def _near(constant: Constant) -> Constant:
    """The same constant with a range that reaches less far from its value."""
    value, low, high = constant.value, constant.low, constant.high
    if isinstance(value, str | bool):
        return constant
    if constant.choices:
        ranked = sorted(constant.choices)
        at = ranked.index(value) if value in ranked else 0
        return replace(constant, choices=tuple(ranked[max(0, at - 1) : at + 2]))
    if constant.powers_of_two:
        return replace(constant, low=max(low, value / 2), high=min(high, value * 2))
    if constant.log:
        reach = (high / low) ** STARTUP_REACH
        low, high = max(low, value / reach), min(high, value * reach)
    else:
        reach = (high - low) * STARTUP_REACH
        low, high = max(low, value - reach), min(high, value + reach)
    if constant.integer:
        low, high = min(value, math.floor(low)), max(value, math.ceil(high))
    return replace(constant, low=low, high=high)


def _trial(observation: Observation, spaces: Mapping[str, _Space]) -> FrozenTrial:
    """A pruned trial ranks below all results, a running one keeps the others from its place."""
    state = TrialState.PRUNED if observation.failed else TrialState.RUNNING
    if observation.val_bpb is not None:
        state = TrialState.COMPLETE
    params = {
        name: param
        for name, space in spaces.items()
        if name in observation.params
        and (param := space.param(observation.params[name])) is not None
    }
    distributions = {name: spaces[name].distribution for name in params}
    return create_trial(
        state=state, value=observation.val_bpb, params=params, distributions=distributions
    )


def informative(items: Sequence[Item], score: Callable[[Item], float | None]) -> list[Item]:
    """At most `HISTORY` of the items, in their order: the half with the best score, the latest."""
    if len(items) <= HISTORY:
        return list(items)
    scored = [(value, at) for at, item in enumerate(items) if (value := score(item)) is not None]
    kept = {at for _, at in heapq.nsmallest(HISTORY // 2, scored)}
    for at in range(len(items) - 1, -1, -1):
        if len(kept) == HISTORY:
            break
        kept.add(at)
    return [items[at] for at in sorted(kept)]


def _key(params: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(params.items()))


def _described(constants: Mapping[str, Constant], changes: Mapping[str, Value]) -> str:
    return ", ".join(
        f"{name} {constants[name].text} → {constants[name].written(value)}"
        for name, value in changes.items()
    )
