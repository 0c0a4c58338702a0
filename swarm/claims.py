"""Claims: the incumbent is held against the best so far with trials made for that alone."""

from __future__ import annotations

from typing import NamedTuple

from swarm.beliefs import belief_of
from swarm.decide import (
    LEVEL,
    LOOKS,
    Verdict,
    claim_passes,
    margin,
    trials_needed,
)
from swarm.standings import Contest, DeviceClass, Entry

_MOST_AT_THE_END = 8
"""Trials that the last claim of a swarm may take, on all devices together."""


class Confirmed(NamedTuple):
    """Why a claim passed."""

    mean: float
    trials: int
    best: str
    best_mean: float
    best_trials: int
    errors: float

    def __str__(self) -> str:
        return (
            f"confirmed by {_counted(self.trials)} made for it: {self.mean:.6f} vs"
            f" {self.best_mean:.6f} of {self.best} ({_counted(self.best_trials)}),"
            f" {self.errors:.1f} standard errors lower (level {LEVEL})"
        )


def due(known: DeviceClass, idle: bool, ending: bool) -> str | None:
    """The experiment that needs a trial for a claim now; opens none that is not worth it.

    A claim is paid with credits, which results earn. What idle devices do for it and the last claim
    of a swarm need none.
    """
    best = known.champion()
    if best is None or not known.noise.is_measured:
        return None
    free = idle or ending
    if known.contest is None:
        return _contender(known, best, free, _MOST_AT_THE_END if ending else None)
    if not free and known.credits < 1:
        return None
    pair = (known.contest.contender, best)
    wanting = [entry for entry in pair if entry.expected_evidence < known.contest.wanted]
    chosen = min(wanting, key=lambda entry: entry.expected_evidence, default=None)
    return chosen.experiment if chosen else None


def _contender(known: DeviceClass, best: Entry, free: bool, most: int | None) -> str | None:
    top = known.top()
    if top is None or top is best or top.tested or best.estimate is None:
        return None
    if not (top.may_repeat and best.may_repeat):
        return None
    noise, gain = known.noise, belief_of(known, best).mean - belief_of(known, top).mean
    needed = trials_needed(gain, noise.sd, noise.degrees)
    if needed is None:
        return None
    cost = needed + max(0, needed - len(best.evidence))
    affordable = cost <= most if most is not None else free or cost <= known.credits
    return top.experiment if affordable else None


def lacks_noise(known: DeviceClass) -> bool:
    """Whether there is something to claim, but the noise is not known from replicates yet."""
    top, best = known.top(), known.champion()
    wanted = top is not None and best is not None and top is not best and not top.tested
    return wanted and not known.noise.is_measured


def begin(known: DeviceClass, entry: Entry) -> None:
    """A trial for a claim of `entry` starts: it opens a claim, or adds to the one under test."""
    pay(known)
    fresh = entry.kind == "keep" and not entry.tested
    if fresh and known.contest is None and entry.experiment != known.best:
        entry.tested = True
        known.contest = Contest(entry)


def pay(known: DeviceClass) -> None:
    known.credits = max(0.0, known.credits - 1)


def refund(known: DeviceClass) -> None:
    """A trial that was paid for was cut off."""
    known.credits += 1


def give_up(known: DeviceClass, entry: Entry) -> None:
    """A trial of `entry` failed; a claim that cannot be tested for that is over.

    Where that is the fault of the best, the contender may be claimed again.
    """
    contest, best = known.contest, known.champion()
    if contest is None or entry.may_repeat:
        return
    if entry is contest.contender or entry is best:
        contest.contender.tested = entry is contest.contender
        known.contest = None


def look(known: DeviceClass) -> None:
    """Decide the claim under test, if there is evidence enough for its next look."""
    best = known.champion()
    while (contest := known.contest) and best:
        contender = contest.contender
        ours, theirs = contender.evidence, best.evidence
        if min(len(ours), len(theirs)) < contest.wanted:
            return
        noise = known.noise
        if claim_passes(ours, theirs, noise.sd, noise.degrees):
            why = Confirmed(
                sum(ours) / len(ours), len(ours), best.experiment,
                sum(theirs) / len(theirs), len(theirs), margin(ours, theirs, noise.sd),
            )  # fmt: skip
            contender.judge(Verdict("keep", why, confirmed=True))
            contender.belief = belief_of(known, contender)
            known.keep(contender)
            known.crown(contender)
            known.contest = None
        elif contest.look + 1 == len(LOOKS) or _hopeless(known, contender, best):
            known.contest = None
        else:
            contest.look += 1


def _hopeless(known: DeviceClass, contender: Entry, best: Entry) -> bool:
    """Whether the contender is not even believed to be better any more."""
    return belief_of(known, contender).mean >= belief_of(known, best).mean


def _counted(trials: int) -> str:
    return "1 trial" if trials == 1 else f"{trials} trials"
