"""What is known of trials, experiments, device classes and workers: the state that is folded.

There are as many trials and entries as experiments, so they are structs, which are made fast.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from swarm import decide, records
from swarm.decide import Estimate, Verdict, VerdictKind, Why
from swarm.effects import Belief, Effects
from swarm.noise import PRIOR_SD, Noise
from swarm.pace import Pace, prior_sd
from swarm.records import Metrics, Outcome, Purpose
from swarm.spending import Bill

_NO_METRICS = Metrics()
_MOST_FAILURES = 2
UNKNOWN = (-1, -1)
"""The version of a bar that was not computed yet."""
LEADERS = 6
"""So many kept experiments are looked at when the next incumbent is chosen."""


class Trial(msgspec.Struct, array_like=True, gc=False):
    """One execution of an experiment; `outcome` is `None` while it runs.

    A `slow` trial took too few `batches` for its code: it is repeated, not scored. Nor is one that
    is `unsure` scored: it had to be verified and could not be.
    """

    id: str
    experiment: str
    worker: str
    device_class: str
    seed: int
    started: datetime
    purpose: Purpose = "experiment"
    outcome: Outcome | None = None
    val_bpb: float | None = None
    heldout_bpb: float | None = None
    batches: int | None = None
    seconds: float = 0.0
    slow: bool = False
    unsure: bool = False
    excused: bool = False
    verified: bool = False

    @property
    def told_nothing(self) -> bool:
        """Whether it has ended without a score that counts."""
        return self.outcome is not None and (self.val_bpb is None or self.slow or self.unsure)


class Entry(msgspec.Struct, array_like=True):
    """An experiment as measured on one device class. `values` are the val_bpb of its trials.

    `base` is the entry it is judged against and `children` those judged against it. `bar` is what
    a child's first trial must be below, valid for the state of the class it was computed in.
    `tested`: a claim was made for it once. `bill`: what its agent used to come up with it.
    """

    claim: records.Claim
    values: list[float] = msgspec.field(default_factory=list)
    estimate: Estimate | None = None
    trials: list[Trial] = msgspec.field(default_factory=list)
    running: int = 0
    interruptions: int = 0
    kind: VerdictKind = "candidate"
    confirmed: bool = False
    metrics: Metrics = _NO_METRICS
    seconds: float = 0.0
    belief: Belief | None = None
    bar: float = 0.0
    bar_version: tuple[int, int] = UNKNOWN
    tested: bool = False
    bill: Bill | None = None
    why: Why = "waits for its trial"
    base: Entry | None = None
    children: list[Entry] | None = None

    @property
    def experiment(self) -> str:
        return self.claim.experiment

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, for a person."""
        return str(self.why)

    @property
    def evidence(self) -> list[float]:
        """Scores that may support a claim: of trials made for one, after the choice had fallen.

        What made somebody choose the experiment is not among them. Nobody chose the baseline.
        """
        chosen = self.claim.parent is not None
        return [
            trial.val_bpb
            for trial in self.trials
            if trial.val_bpb is not None
            and not (trial.slow or trial.unsure)
            and (trial.purpose == "claim" or not chosen)
        ]

    @property
    def may_repeat(self) -> bool:
        """Whether a further trial makes sense: not after two in a row that told nothing."""
        ended = [trial for trial in self.trials if trial.outcome and not trial.excused]
        last = ended[-_MOST_FAILURES:]
        return len(last) < _MOST_FAILURES or not all(trial.told_nothing for trial in last)

    @property
    def expected_evidence(self) -> int:
        """How much evidence there will be once its running trials have ended."""
        chosen = self.claim.parent is not None
        running = (t for t in self.trials if t.outcome is None)
        return len(self.evidence) + sum(t.purpose == "claim" or not chosen for t in running)

    def judge(self, verdict: Verdict) -> None:
        self.kind, self.why, self.confirmed = verdict.kind, verdict.why, verdict.confirmed


class Contest(msgspec.Struct):
    """A claim under test: whether `contender` is better than the best so far, at its `look`."""

    contender: Entry
    look: int = 0

    @property
    def wanted(self) -> int:
        """So many trials of each are needed for the next look."""
        return decide.LOOKS[self.look]


@dataclass(slots=True)
class DeviceClass:
    """The comparable experiments: those measured on the same kind of device.

    `incumbent` is what the search builds on; `best` is what is claimed. The greedy policy claims
    what it keeps, unconfirmed, so there they are the same. `kept` are the entries the search may
    build on, `champions` all that were the best, the last one last. `credits` are replicates that
    claims may use, `gain` the val_bpb that a proposal gained lately. `calibrations` counts
    replicates a person asked for, and `doubtful` are those that the strict policy has not decided
    on. `verifies`: scores of the baseline stood a second evaluation, so others have to, where that
    matters; else `unverified` says why not.
    """

    name: str
    noise: Noise
    effects: Effects
    pace: Pace
    entries: dict[str, Entry] = field(default_factory=dict)
    incumbent: str | None = None
    best: str | None = None
    kept: dict[str, Entry] = field(default_factory=dict)
    champions: list[str] = field(default_factory=list)
    contest: Contest | None = None
    credits: float = 0.0
    gain: float = 0.0
    calibrations: int = 0
    verifies: bool = False
    unverified: str = ""
    doubtful: dict[str, Entry] = field(default_factory=dict)
    noise_version: int = 0
    versioned_sd: float = 0.0
    ranked: list[Entry] | None = None

    @property
    def sigma(self) -> float | None:
        """SD of val_bpb between trials of the same code; `None` before any was replicated."""
        return self.noise.sd if self.noise.freedom else None

    @property
    def version(self) -> tuple[int, int]:
        """Changes when what is known of noise and effects has changed enough to matter."""
        return self.noise_version, self.effects.version

    def top(self) -> Entry | None:
        """The incumbent's entry."""
        return self.entries[self.incumbent] if self.incumbent else None

    def champion(self) -> Entry | None:
        """The entry of the best."""
        return self.entries[self.best] if self.best else None

    def rescore(self, entry: Entry, values: list[float]) -> None:
        """The scores of an experiment are now these; the noise learns from them."""
        before, entry.values, entry.estimate = entry.values, values, decide.estimate(values)
        if len(before) < 2 and len(values) < 2:
            return
        self.noise.change(before, values)
        sd = self.noise.sd
        if not 0.97 < sd / (self.versioned_sd or 1e-18) < 1.03:
            self.versioned_sd = sd
            self.noise_version += 1

    def crown(self, entry: Entry) -> None:
        """What is claimed from now on."""
        self.best = entry.experiment
        self.champions.append(entry.experiment)

    def uncrown(self, entry: Entry) -> None:
        """It must not be claimed any more: what was claimed before it is."""
        self.champions = [name for name in self.champions if name != entry.experiment]
        self.best = self.champions[-1] if self.champions else None

    def keep(self, entry: Entry) -> None:
        """The search may build on this entry."""
        if entry.experiment in self.kept:
            self.ranked = None
            return
        self.kept[entry.experiment] = entry
        if self.ranked is not None and entry.belief:
            bisect.insort(self.ranked, entry, key=_believed_mean)
            del self.ranked[LEADERS:]

    def drop(self, entry: Entry) -> None:
        """The search may no longer build on it."""
        if self.kept.pop(entry.experiment, None):
            self.ranked = None

    def leaders(self) -> list[Entry]:
        """The kept entries with the lowest believed means, lowest first."""
        if self.ranked is None:
            self.ranked = heapq.nsmallest(LEADERS, self.kept.values(), key=_believed_mean)
        return self.ranked

    def rerank(self) -> None:
        """Beliefs have changed: the leaders may be others now."""
        self.ranked = None

    def bases(self, entry: Entry) -> Iterator[Entry]:
        """`entry` and its descendants, where anything was judged against them, parents first."""
        waiting = [entry]
        while waiting:
            base = waiting.pop()
            if base.children:
                yield base
                waiting.extend(child for child in base.children if child.children)


def _believed_mean(entry: Entry) -> float:
    return entry.belief.mean if entry.belief else math.inf


def new_class(name: str, scale: str, kind: str) -> DeviceClass:
    """A device class of which nothing is known yet: what `scale` and `kind` of device suggest."""
    sd = PRIOR_SD.get(scale, PRIOR_SD["small"])
    return DeviceClass(name, Noise(sd), Effects(sd), Pace(prior_sd(kind)))
