"""Synthetic swarms, run through the fold and the decisions of real ones.

A proposal changes the true val_bpb of its base by a random effect and a trial adds noise; all else
(verdicts, incumbents, replicates, claims) is the code that real swarms run.
"""

from __future__ import annotations

import bisect
import heapq
import math
import os
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec.structs

from swarm import allocate, records
from swarm.effects import QUANTILES
from swarm.journal import Journal
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.policies import Due

START = 0.9979
"""val_bpb of the stock trainer on an H100 in 5 minutes, as published."""
CRASHES, CRASH_SHARE = 0.063, 0.1
"""How many proposals crash, and how much of a trial's time such a one takes."""
TRIAL_HOURS = 330 / 3600
FADE = 60.0
"""Gains shrink as exp(-FADE × relative improvement so far). With it 8 workers gain 3 to 4 % in 768
trials and 6 % in 2,430, as published swarms did (2.9 % in 700, 6.4 % in 2,430)."""
_RESERVE = 3
"""Trials kept for the last claim, so that policies are compared at equal device hours."""
_MARKS = (0.01, 0.02, 0.03)
_CLASS = "simulated"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """What is simulated. `sigma` is the SD of a trial's val_bpb; times are in hours.

    An agent proposes `think` hours (mean, exponential) after its last experiment began to train;
    `idle` lets devices run replicates while they wait. In a `placebo` world no change does
    anything.
    """

    policy: str = "probable"
    sigma: float = 5e-4
    workers: int = 8
    hours: float = 8.8
    think: float = 0.0
    idle: bool = True
    fade: float = FADE
    placebo: bool = False
    seed: int = 0


@dataclass
class Outcome:
    """How a simulated swarm ended. `reached` are the hours until each of `_MARKS` was gained."""

    true: float = START
    claimed: float = START
    experiments: int = 0
    keeps: int = 0
    false_keeps: int = 0
    claims: int = 0
    false_claims: int = 0
    tested: int = 0
    replicates: int = 0
    device_hours: float = 0.0
    wasted_hours: float = 0.0
    reached: dict[float, float] = field(default_factory=dict)


class Simulation:
    """One swarm of a world, from its first trial to its last claim."""

    def __init__(self, world: World, keep_records: bool = False) -> None:
        self.world = world
        self.told: list[records.AnyRecord] = []
        self._keep_records = keep_records
        self.proposals = random.Random(f"proposals {world.seed}")
        self.noise = random.Random(f"noise {world.seed}")
        self.board = Leaderboard(Journal(Path(os.devnull)))
        self.true: dict[str, float | None] = {BASELINE: START}
        self.seen = Outcome()
        self.best = BASELINE
        self.ready = [0.0] * world.workers
        self.now = 0.0
        self.records = 0
        self._found()

    def run(self) -> Outcome:
        """Run it to its end."""
        events = [(0.0, number, "") for number in range(self.world.workers)]
        resting: list[int] = []
        while events:
            now, number, trial = heapq.heappop(events)
            self.now = now
            if trial:
                self._finish(now, trial)
                for other in resting:  # a result may be what they wait for
                    heapq.heappush(events, (now, other, ""))
                resting.clear()
            started = self._begin(now, number)
            if started:
                heapq.heappush(events, started)
            elif not self._over and self.ready[number] > now:
                heapq.heappush(events, (self.ready[number], number, ""))
            else:
                resting.append(number)
        return self._result()

    # ---- what happens ----------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self.now >= self.world.hours - _RESERVE * TRIAL_HOURS / self.world.workers

    def _begin(self, now: float, number: int) -> tuple[float, int, str] | None:
        """Start the next trial on a device; return when it ends, where, and its name."""
        worker = _worker(number)
        thinking = self.ready[number] > now
        busy = self.board.queued(worker) or allocate.baseline_due(self.board, worker)
        if not (self._over or thinking or busy):
            self._propose(now, worker)
        idle = self.world.idle and thinking
        urgent = allocate.next_trial(self.board, worker, False, self._over)
        due = urgent or allocate.next_trial(self.board, worker, idle, self._over)
        if due is None:
            return None
        if due.purpose == "experiment" and due.experiment != BASELINE and self.world.think:
            self.ready[number] = now + self.proposals.expovariate(1 / self.world.think)
        return self._start(now, number, due, urgent is None)

    def _start(self, now: float, number: int, due: Due, idle: bool) -> tuple[float, int, str]:
        trial = f"t{len(self.board.trials)}"
        self._tell(
            now,
            records.TrialStarted(
                trial=trial, experiment=due.experiment, worker=_worker(number),
                device_class=_CLASS, seed=0, purpose=due.purpose,
            ),
        )  # fmt: skip
        crashes = self.true[due.experiment] is None
        hours = TRIAL_HOURS * (CRASH_SHARE if crashes else 1.0)
        waits = self.ready[number] - now
        if idle and waits < allocate.MAKES_WAY_UNTIL * hours and not self._over:
            hours = waits
            self.cut.add(trial)
        self.seen.device_hours += hours
        self.seen.replicates += due.purpose != "experiment"
        entry = self.board.entry(due.experiment)
        if entry.claim.parent and self._is_false(entry.claim.parent):
            self.seen.wasted_hours += hours
        return now + hours, number, trial

    def _finish(self, now: float, trial: str) -> None:
        experiment = self.board.trials[trial].experiment
        true = self.true[experiment]
        if trial in self.cut:
            self._tell(now, records.TrialFinished(trial=trial, outcome="interrupted",
                                                  seconds=0.0, excused=True))  # fmt: skip
        elif true is None:
            self._tell(now, records.TrialFinished(trial=trial, outcome="crash", seconds=0.0))
        else:
            score = true + self.noise.gauss(0.0, self.world.sigma)
            self._tell(
                now, records.TrialFinished(trial=trial, outcome="ok", seconds=0.0, val_bpb=score)
            )
        self._look(now)

    def _propose(self, now: float, worker: str) -> None:
        parent = self._base(worker)
        name = f"e{len(self.board.claims)}"
        self._tell(now, _claim(name, worker, parent))
        base = self.true[parent]
        assert base is not None
        self.true[name] = self._changed(base)
        self.seen.experiments += 1

    def _base(self, worker: str) -> str:
        return self.board.incumbent_of(worker).experiment

    def _changed(self, base: float) -> float | None:
        """The true val_bpb of a random change of `base`; `None` when it crashes."""
        chance = self.proposals.random()
        effect = effect_at(self.proposals.random())
        if chance < CRASHES:
            return None
        if self.world.placebo:
            return base
        if effect < 0:
            effect *= math.exp(-self.world.fade * (1 - base / START))
        return base * (1 + effect)

    # ---- what is noted ---------------------------------------------------------------------

    def _is_false(self, name: str) -> bool:
        """Whether an experiment is truly no better than what it builds on."""
        parent = self.board.claims[name].parent
        if parent is None:
            return False
        own, before = self.true[name], self.true[parent]
        return own is None or before is None or own >= before

    def _look(self, now: float) -> None:
        known = self.board.classes[_CLASS]
        true = self.true[known.incumbent or BASELINE] or START
        for mark in _MARKS:
            if mark not in self.seen.reached and true <= START * (1 - mark):
                self.seen.reached[mark] = now
        if known.best and known.best != self.best:
            new, old = self.true[known.best], self.true[self.best]
            self.seen.claims += 1
            self.seen.false_claims += new is None or old is None or new >= old
            self.best = known.best

    def _result(self) -> Outcome:
        known = self.board.classes[_CLASS]
        kept = [name for name in known.kept if name != BASELINE]
        return replace(
            self.seen,
            true=self.true[known.incumbent or BASELINE] or START,
            claimed=self.true[self.best] or START,
            keeps=len(kept),
            false_keeps=sum(map(self._is_false, kept)),
            tested=sum(entry.tested for entry in known.entries.values()),
        )

    # ---- the journal that is not written ----------------------------------------------------

    def _found(self) -> None:
        names = tuple(_worker(number) for number in range(self.world.workers))
        settings = records.Config(
            seconds=300.0, timeout=600.0, scale="full", dataset="", dataset_fingerprint="",
            policy=self.world.policy,
        )  # fmt: skip
        founding = records.Swarm(
            tag="s", root="", prepare_sha256="", config=settings, version="", workers=names
        )
        self.cut: set[str] = set()
        self._tell(0.0, founding)
        self._tell(0.0, _claim(BASELINE, "", None))
        for name in names:
            device = records.Device(name=name, kind="cuda", id=name, model="simulated")
            self._tell(
                0.0,
                records.Worker(
                    worker=name, agent="simulated", device=device, device_class=_CLASS,
                    branch="", worktree="",
                ),
            )  # fmt: skip

    def _tell(self, now: float, record: records.AnyRecord) -> None:
        self.records += 1
        time = _EPOCH + timedelta(hours=now)
        for name, value in (("seq", self.records), ("time", time)):
            msgspec.structs.force_setattr(record, name, value)
        self.board.apply(record)
        if self._keep_records:
            self.told.append(record)


def simulate(world: World) -> Outcome:
    """Run one swarm of a world."""
    return Simulation(world).run()


def effect_at(share: float) -> float:
    """The relative change of val_bpb that `share` of all proposals do not exceed."""
    shares = [quantile for quantile, _ in QUANTILES]
    i = min(bisect.bisect_right(shares, share), len(shares) - 1)
    (low, a), (high, b) = QUANTILES[i - 1], QUANTILES[i]
    return 1e-4 * (a + (b - a) * (share - low) / (high - low))


def _worker(number: int) -> str:
    return f"gpu{number}"


def _claim(name: str, worker: str, parent: str | None) -> records.Claim:
    return records.Claim(
        experiment=name, worker=worker, agent="simulated", parent=parent, commit=name,
        fingerprint=name, description="",
    )  # fmt: skip
