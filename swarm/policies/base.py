"""What a policy is, and what all of them use."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from swarm.beliefs import belief_of
from swarm.decide import spelled
from swarm.records import Purpose
from swarm.standings import DeviceClass, Entry

Occasion = Literal["busy", "idle", "ending"]
"""Why a device asks for a replicate: instead of a proposal, for want of one, or after the last."""


class Due(NamedTuple):
    """A replicate worth running: of which experiment, what for, and why."""

    experiment: str
    purpose: Purpose
    why: str


class Policy(Protocol):
    """What scores mean, and which of them should be taken again."""

    def scored(self, known: DeviceClass, entry: Entry, base: Entry | None) -> None:
        """A trial of `entry` was scored (or one was struck out); `base` is what it builds on."""
        ...

    def replicate(self, known: DeviceClass, occasion: Occasion) -> Due | None:
        """The replicate that a device of this class should run now, if any is worth it."""
        ...

    def withdrawn(self, known: DeviceClass, entry: Entry) -> None:
        """`entry` proved not to be what it said: nothing may build on it any more."""
        ...

    def failed(self, known: DeviceClass, entry: Entry) -> None:
        """A replicate of `entry`, which has scores, gave none."""
        ...


class Likely(NamedTuple):
    """Why a change is, or is not, probably better; the text says what is known by now."""

    known: DeviceClass
    entry: Entry

    def __str__(self) -> str:
        entry, base, sigma = self.entry, self.entry.base, self.known.noise.sd
        if entry.estimate is None or base is None or base.estimate is None:
            return "what it built on was rejected"
        better = belief_of(self.known, entry).better
        text = f"{spelled(entry.estimate, sigma)} vs {spelled(base.estimate, sigma)} of"
        text = f"{text} {base.experiment}; P(better) {better:.2f}"
        if entry.kind != "keep":
            return text
        failed = ", claimed once in vain" if entry.tested and self.known.contest is None else ""
        kept = "kept" if better >= 0.5 else "kept as a long shot"
        return f"{text}: {kept}, not yet confirmed{failed}"


def first_reason(entry: Entry) -> str:
    assert entry.estimate is not None
    if entry.claim.parent is None:
        return "the baseline"
    return f"{entry.estimate.mean:.6f}: the first with a score"


def asked_for(known: DeviceClass) -> Due | None:
    top = known.top()
    if known.calibrations > 0 and top and top.may_repeat:
        return Due(top.experiment, "calibration", "to measure the noise, as asked")
    return None
