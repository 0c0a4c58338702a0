"""What is known of the workers: what they did and spent, which direction each follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from swarm import records
from swarm.spending import Bill, device_usd

PATIENCE = 10
"""So many experiments in a row without a keep, and a worker turns to another direction."""
MIGRATES_EVERY = 20
"""So many experiments of its own, and a worker of an island looks beyond it."""


@dataclass(slots=True)
class Tally:
    """How often a direction was followed, and with what success."""

    tried: int = 0
    kept: int = 0


@dataclass(slots=True)
class WorkerState:
    """A worker with what it has done so far.

    `device_seconds` counts all its finished trials; `busy_seconds` and the times those since the
    swarm was last spawned. `bill` is what its agent has used, `open_bill` the part of that since
    its last experiment, `spent_at` when that was last reported. `direction` is the place of its
    direction among the swarm's, `barren` counts experiments since a keep, `fresh_starts` how often
    it gave a direction up. `founder` is the experiment that it took over from another island,
    `settled` its verdicts since then. `failures` counts the trials in a row that crashed or hung on
    its device.
    """

    joined: records.Worker
    place: int = 0
    experiments: int = 0
    best_val_bpb: float | None = None
    device_seconds: float = 0.0
    busy_seconds: float = 0.0
    first_trial: datetime | None = None
    last_result: datetime | None = None
    open_trial: str | None = None
    parked: str | None = None
    parked_until: datetime | None = None
    paused: bool = False
    paused_because: str = ""
    failures: int = 0
    sync_asked: int = 0
    queue: dict[str, None] = field(default_factory=dict)
    bill: Bill = field(default_factory=Bill)
    open_bill: Bill = field(default_factory=Bill)
    spent_at: datetime | None = None
    direction: int = 0
    barren: int = 0
    fresh_starts: int = 0
    founder: str | None = None
    settled: int = 0
    nudges: int = 0
    restarts: int = 0

    def agent_event(self, event: records.AgentEvent) -> None:
        """What became of its agent."""
        if event.state == "nudged":
            self.nudges += 1
            return
        self.restarts += event.state == "exited"
        self.parked = event.reason if event.state == "parked" else None
        self.parked_until = event.until if event.state == "parked" else None

    def resume(self) -> None:
        """A person wants it to go on, whatever it was parked for."""
        self.paused, self.parked, self.parked_until = False, None, None
        self.paused_because, self.failures = "", 0

    def respawned(self) -> None:
        """The swarm was spawned again."""
        self.resume()
        self.busy_seconds, self.first_trial, self.last_result = 0.0, None, None

    def ended(self, record: records.TrialFinished) -> None:
        """A trial on its device has ended."""
        self.device_seconds += record.seconds
        self.busy_seconds += record.seconds
        self.last_result = record.time
        if record.outcome == "ok":
            self.failures = 0
        elif record.outcome in ("crash", "timeout"):
            self.failures += 1
        if self.open_trial == record.trial:
            self.open_trial = None

    def take_bill(self) -> Bill | None:
        """What was used for the experiment that is claimed now; `None`: nothing."""
        bill, self.open_bill = self.open_bill, Bill()
        return bill if bill.tokens or bill.uncounted else None


class Workforce:
    """The workers of a swarm; those that it was last spawned with are `active`.

    `directions` tells how often each direction of research was followed so far.
    """

    def __init__(self) -> None:
        self.workers: dict[str, WorkerState] = {}
        self.active: dict[str, None] = {}
        self.config: records.Config | None = None
        self.directions: dict[str, Tally] = {}
        self.aims: dict[str, str] = {}

    def spawn(self, config: records.Config, names: Iterable[str]) -> None:
        """The swarm was spawned, or spawned again."""
        self.config, self.active = config, dict.fromkeys(names)
        for worker in self.workers.values():
            worker.respawned()

    def join(self, record: records.Worker) -> None:
        if record.worker in self.workers:
            self.workers[record.worker].joined = record
        else:
            place = len(self.workers)
            self.workers[record.worker] = WorkerState(record, place, direction=place)

    def agent_event(self, record: records.AgentEvent) -> None:
        self.workers[record.worker].agent_event(record)

    def spend(self, record: records.Spend) -> None:
        worker = self.workers[record.worker]
        worker.bill.add(record)
        worker.open_bill.add(record)
        worker.spent_at = record.time

    def control(self, record: records.Control) -> None:
        """Pause, resume or move the workers that are named, or all."""
        for name in record.workers or self.active:
            worker = self.workers[name]
            if record.action == "sync":
                worker.sync_asked = record.seq
            elif record.action == "pause":
                worker.paused, worker.paused_because = True, record.reason
            else:
                worker.resume()

    def claim(self, record: records.Claim) -> Bill | None:
        """A worker has a new experiment; return what its agent used for it, if anything."""
        worker = self.workers[record.worker]
        worker.experiments += 1
        worker.queue[record.experiment] = None
        if aim := self.direction_of(record.worker):
            self.aims[record.experiment] = aim
            self.directions.setdefault(aim, Tally()).tried += 1
        return worker.take_bill()

    def settle(self, claim: records.Claim, kept: bool, incumbent: str | None) -> None:
        """An experiment has its first verdict.

        Once nothing was kept for a while, its worker turns to the direction that the fewest others
        follow, and starts afresh from the `incumbent`, whichever island that comes from. Every now
        and then it takes that over without such a need.
        """
        worker, config = self.workers.get(claim.worker), self.config
        if worker is None or config is None:
            return
        if aim := self.aims.pop(claim.experiment, ""):
            self.directions[aim].kept += kept
        worker.barren = 0 if kept else worker.barren + 1
        worker.settled += 1
        plateau = worker.barren >= PATIENCE
        if plateau:
            worker.barren = 0
            worker.fresh_starts += 1
            worker.direction = self._next_direction(worker, len(config.directions))
        if config.islands > 1 and (plateau or worker.settled >= MIGRATES_EVERY):
            worker.founder, worker.settled = incumbent, 0

    def _next_direction(self, worker: WorkerState, directions: int) -> int:
        """The one that the fewest active workers follow; of equals the nearest one."""
        if directions < 2:
            return worker.direction
        followed = [0] * directions
        for peer in map(self.workers.__getitem__, self.active):
            followed[peer.direction % directions] += peer is not worker
        others = [(worker.direction + step) % directions for step in range(1, directions)]
        return min(others, key=followed.__getitem__)

    def direction_of(self, worker: str) -> str:
        """What a worker is asked to look into; empty where the swarm has no directions."""
        wanted = self.config.directions if self.config else ()
        return wanted[self.workers[worker].direction % len(wanted)] if wanted else ""

    def island(self, worker: str) -> set[str]:
        """The workers that share what they find at once; neighbours are on other islands.

        Those of an earlier spawn are among them: what they found stays where it was.
        """
        count = max(1, self.config.islands if self.config else 1)
        home = self.workers[worker].place % count
        return {name for name, state in self.workers.items() if state.place % count == home}

    @property
    def usd(self) -> float:
        """What agents and devices have cost, as far as prices are known."""
        assert self.config is not None
        seconds = sum(worker.device_seconds for worker in self.workers.values())
        return sum(w.bill.usd for w in self.workers.values()) + device_usd(self.config, seconds)
