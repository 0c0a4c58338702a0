"""The fold of the journal: what a swarm knows, derived from facts and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from swarm import claims, decide, records, scoring, spending, standings
from swarm.decide import Verdict
from swarm.errors import JournalError
from swarm.garbage import without_collection
from swarm.journal import Cursor, Journal
from swarm.policies import POLICIES, Due, Occasion, Policy
from swarm.records import Config
from swarm.standings import DeviceClass, Entry, Trial
from swarm.workers import WorkerState, Workforce

SwarmState = Literal["running", "stopped", "finished"]
BASELINE = "e0"


class Leaderboard:
    """Folds the journal incrementally; `refresh` costs only what is new."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.cursor = Cursor()
        self.resumed = False  # from a snapshot, instead of the journal's first line
        self.swarm: records.Swarm | None = None
        self.config: Config | None = None
        self.state: SwarmState = "running"
        self.ended_because = ""
        self.stopping: Literal["", "soft", "now"] = ""
        self.stop_reason = ""
        self.started: datetime | None = None
        self.workforce = Workforce()
        self.workers = self.workforce.workers
        self.claims: dict[str, records.Claim] = {}
        self.trials: dict[str, Trial] = {}
        self.classes: dict[str, DeviceClass] = {}
        self.fingerprints: dict[str, str] = {}
        self.seedless: dict[str, str] = {}
        self.commits: dict[str, str] = {}
        self.requests: dict[str, str] = {}
        self.home: dict[str, str] = {}
        self.notes: list[records.Note] = []
        self.spent_experiments = 0
        self.waiting: dict[tuple[str, str], list[Entry]] = {}
        self._apply: dict[type, Callable[[Any], None]] = {
            records.Swarm: self._swarm,
            records.Reconfigured: self._reconfigured,
            records.Worker: self._worker,
            records.Claim: self._claim,
            records.TrialStarted: self._trial_started,
            records.TrialFinished: self._trial_finished,
            records.AgentEvent: self.workforce.agent_event,
            records.Spend: self._spend,
            records.Control: self._control,
            records.Note: self._note,
            records.Ended: self._ended,
        }

    def refresh(self) -> bool:
        """Fold what is new in the journal; return whether there was anything.

        Raises `JournalError`, naming the line, for a damaged line or one that contradicts
        what came before.
        """
        if self.journal.size() == self.cursor.offset:
            return False
        with without_collection():
            return self._fold()

    def _fold(self) -> bool:
        before = self.cursor.lines
        for new in self.journal.batches(self.cursor):
            self._fold_batch(new)
        return self.cursor.lines > before

    def _fold_batch(self, new: list[records.AnyRecord]) -> None:
        apply, record = self._apply, new[0]
        try:
            for record in new:
                apply[type(record)](record)
        except KeyError as error:
            raise JournalError(
                f"{self.journal.path}, line {record.seq} names {error}, which is not known",
                "the journal was edited by hand; restore it from a backup",
            ) from error
        except ArithmeticError as error:
            raise JournalError(
                f"{self.journal.path}, line {record.seq} has an impossible number: {error}",
                "the journal was edited by hand; restore it from a backup",
            ) from error

    def apply(self, record: records.AnyRecord) -> None:
        """Fold one record. Raises `KeyError` with a name that no earlier record made known."""
        self._apply[type(record)](record)

    @property
    def active(self) -> dict[str, None]:
        """The workers that the swarm was last spawned with, in order."""
        return self.workforce.active

    @property
    def policy(self) -> Policy:
        assert self.config is not None
        return POLICIES[self.config.policy]

    def class_of(self, worker: str) -> DeviceClass:
        """The device class that a worker trains in."""
        return self.classes[self.workers[worker].joined.device_class]

    def replicate(self, worker: str, occasion: Occasion) -> Due | None:
        """The replicate that the device of `worker` should run now, if any is worth it."""
        return self.policy.replicate(self.class_of(worker), occasion)

    def entry(self, experiment: str, device_class: str | None = None) -> Entry:
        """The experiment as measured on `device_class`, or where it was first measured."""
        name = device_class or self.home_class(experiment)
        return self.classes[name].entries[experiment]

    def home_class(self, experiment: str) -> str:
        """The device class it was submitted in; for the baseline that of the first worker."""
        return self.home.get(experiment) or self._first_class()

    def _first_class(self) -> str:
        return self.workers[next(iter(self.active))].joined.device_class

    @property
    def primary(self) -> DeviceClass | None:
        """The device class of the first worker: its incumbent and best have the branches."""
        return self.classes[self._first_class()] if self.active else None

    def incumbent_of(self, worker: str) -> records.Claim:
        """What a worker builds on: its class's incumbent, or the baseline before there is one."""
        device_class = self.classes[self.workers[worker].joined.device_class]
        return self.claims[device_class.incumbent or BASELINE]

    def exhausted(self, now: datetime) -> str:
        """Why no further experiment may start, or nothing."""
        assert self.config is not None and self.started is not None
        usd = self.workforce.usd if self.config.max_usd is not None else 0.0
        return spending.exhausted(self.config, self.started, now, self.spent_experiments, usd)

    def queued(self, worker: str) -> list[str]:
        """Experiments of `worker` that still need a trial, oldest first."""
        return list(self.workers[worker].queue)

    # ---- one method per kind of record -----------------------------------------------------

    def _swarm(self, record: records.Swarm) -> None:
        self.swarm, self.config, self.started = record, record.config, record.time
        self.workforce.spawn(record.config, record.workers)

    def _reconfigured(self, record: records.Reconfigured) -> None:
        self.config, self.started = record.config, record.time
        self.workforce.spawn(record.config, record.workers)
        self.state, self.stopping = "running", ""
        self.ended_because = self.stop_reason = ""
        for name, worker in self.workers.items():
            self._drop_stranded(name, worker)

    def _drop_stranded(self, name: str, worker: WorkerState) -> None:
        """End what a worker can no longer do: it is gone, or now in another device class."""
        trial = self.trials.get(worker.open_trial or "")
        if trial and name not in self.active:
            trial.outcome, worker.open_trial = "interrupted", None
            entry = self.classes[trial.device_class].entries[trial.experiment]
            entry.running -= 1
            if entry.kind == "candidate" and not entry.values:
                worker.queue[entry.experiment] = None
        for experiment in list(worker.queue):
            same = self.home.get(experiment) == worker.joined.device_class
            if name not in self.active or not same:
                del worker.queue[experiment]
                if experiment != BASELINE:
                    self._give_up(self.entry(experiment), "its worker is gone")

    def _worker(self, record: records.Worker) -> None:
        self.workforce.join(record)
        self._class(record.device_class, record.device.kind)

    def _class(self, name: str, kind: str) -> DeviceClass:
        if name not in self.classes:
            assert self.config is not None
            self.classes[name] = standings.new_class(name, self.config.scale, kind)
            if BASELINE in self.claims:
                self._enter(self.classes[name], self.claims[BASELINE])
        return self.classes[name]

    def _enter(self, device_class: DeviceClass, claim: records.Claim) -> Entry:
        entry = device_class.entries[claim.experiment] = Entry(claim)
        return entry

    def _claim(self, record: records.Claim) -> None:
        self.claims[record.experiment] = record
        self.commits[record.commit] = record.experiment
        self.requests[record.request] = record.experiment
        self.fingerprints.setdefault(record.fingerprint, record.experiment)
        if record.seedless:
            self.seedless.setdefault(record.seedless, record.experiment)
        if not record.worker:
            for device_class in self.classes.values():
                self._enter(device_class, record)
            return
        bill = self.workforce.claim(record)
        self.spent_experiments += 1
        known = self.class_of(record.worker)
        self.home[record.experiment] = known.name
        self._enter(known, record).bill = bill

    def _trial_started(self, record: records.TrialStarted) -> None:
        worker = self.workers[record.worker]
        self.trials[record.trial] = Trial(
            record.trial,
            record.experiment,
            record.worker,
            record.device_class,
            record.seed,
            record.time,
            record.purpose,
        )
        known = self.classes[record.device_class]
        entry = known.entries[record.experiment]
        entry.trials.append(self.trials[record.trial])
        entry.running += 1
        if record.purpose == "claim":
            claims.begin(known, entry)
        elif record.purpose == "calibration" and known.calibrations:
            known.calibrations -= 1
        elif record.purpose == "calibration" and claims.lacks_noise(known):
            claims.pay(known)
        if entry.kind == "candidate":
            entry.why = f"is training as {record.trial}"
        worker.open_trial = record.trial
        worker.queue.pop(record.experiment, None)
        if worker.first_trial is None:
            worker.first_trial = record.time

    def _trial_finished(self, record: records.TrialFinished) -> None:
        trial = self.trials[record.trial]
        trial.outcome, trial.val_bpb, trial.seconds = record.outcome, record.val_bpb, record.seconds
        trial.heldout_bpb, trial.verified = record.heldout_bpb, record.verified
        trial.batches, trial.excused = record.metrics.batches, record.excused
        self.workers[trial.worker].ended(record)
        known = self.classes[trial.device_class]
        entry = known.entries[trial.experiment]
        entry.running -= 1
        entry.seconds += record.seconds
        waited = entry.kind == "candidate"
        if record.outcome == "interrupted":
            self._interrupted(trial, entry, record.excused)
        elif record.outcome != "ok":
            scoring.failed(known, entry, record, self.policy)
        elif scoring.is_sure(known, entry, trial, record, self.policy):
            self._scored(known, entry, trial, record)
        if entry.kind == "candidate":
            return
        if waited:
            self._settle(known, entry)
        for waiting in self.waiting.pop((trial.device_class, entry.experiment), []):
            if waiting.estimate:
                self._judge_scored(known, waiting)
                self._settle(known, waiting)

    def _settle(self, known: DeviceClass, entry: Entry) -> None:
        self.workforce.settle(entry.claim, entry.kind == "keep", known.incumbent)

    def _scored(
        self, known: DeviceClass, entry: Entry, trial: Trial, record: records.TrialFinished
    ) -> None:
        if not scoring.add(known, entry, trial):
            self.policy.failed(known, entry)
            return
        entry.metrics = record.metrics
        worker = self.workers[trial.worker]
        lowest, found = worker.best_val_bpb, trial.val_bpb
        if trial.purpose == "experiment" and found and (lowest is None or found < lowest):
            worker.best_val_bpb = found
        self._judge_scored(known, entry)

    def _interrupted(self, trial: Trial, entry: Entry, excused: bool) -> None:
        """Queue it again, but not for ever. The baseline comes again by being due."""
        known = self.classes[trial.device_class]
        if trial.purpose == "claim":
            claims.refund(known)
        if trial.purpose != "experiment" and not excused:
            self.policy.failed(known, entry)
        if not entry.claim.worker or entry.kind != "candidate" or entry.values:
            return
        entry.interruptions += not excused
        if entry.interruptions >= decide.MAX_INTERRUPTIONS:
            self._give_up(entry, f"interrupted {entry.interruptions} times")
        else:
            entry.why = "was interrupted; is queued again"
            self.workers[trial.worker].queue[entry.experiment] = None

    def _give_up(self, entry: Entry, why: str) -> None:
        """What was never measured is not spent, and may be tried again by anyone."""
        entry.judge(Verdict("interrupted", why))
        self.spent_experiments -= 1
        claim = entry.claim
        for known, key in (
            (self.fingerprints, claim.fingerprint),
            (self.seedless, claim.seedless),
        ):
            if known.get(key) == entry.experiment:
                del known[key]

    def _judge_scored(self, known: DeviceClass, entry: Entry) -> None:
        """Give a scored experiment its verdict, once its base has one."""
        parent = entry.claim.parent
        base = known.entries.get(parent) if parent else None
        if base and base.kind == "candidate" and entry.kind == "candidate":
            entry.why = f"waits for the score of its base {base.experiment}"
            waiting = self.waiting.setdefault((known.name, base.experiment), [])
            if entry not in waiting:
                waiting.append(entry)
            return
        if parent and (base is None or base.estimate is None):
            base = known.top()
        self.policy.scored(known, entry, base)

    def _spend(self, record: records.Spend) -> None:
        self.workforce.spend(record)
        if record.request:
            self.requests[record.request] = ""

    def _control(self, record: records.Control) -> None:
        if record.action == "stop":
            self.stopping = "now" if record.now else self.stopping or "soft"
            self.stop_reason = self.stop_reason or record.reason or "by swarm stop"
            return
        if record.action == "calibrate":
            names = record.workers or tuple(self.active)
            for known in {id(known): known for known in map(self.class_of, names)}.values():
                known.calibrations += record.count
            return
        self.workforce.control(record)

    def _note(self, record: records.Note) -> None:
        self.notes.append(record)
        if record.request:
            self.requests[record.request] = ""

    def _ended(self, record: records.Ended) -> None:
        self.state, self.ended_because = record.state, record.reason
