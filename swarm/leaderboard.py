"""The fold of the journal: what a swarm knows, derived from facts and nothing else."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

from swarm import decide, records
from swarm.decide import Verdict
from swarm.errors import JournalError
from swarm.journal import Cursor, Journal
from swarm.records import Config
from swarm.standings import DeviceClass, Entry, Trial, WorkerState

SwarmState = Literal["running", "stopped", "finished"]
BASELINE = "e0"


class Leaderboard:
    """Folds the journal incrementally; `refresh` costs only what is new."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.cursor = Cursor()
        self.swarm: records.Swarm | None = None
        self.config: Config | None = None
        self.state: SwarmState = "running"
        self.ended_because = ""
        self.stopping: Literal["", "soft", "now"] = ""
        self.stop_reason = ""
        self.started: datetime | None = None
        self.workers: dict[str, WorkerState] = {}
        self.active: dict[str, None] = {}
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
        self._waiting: dict[tuple[str, str], list[Entry]] = {}
        self._apply: dict[type, Callable[[Any], None]] = {
            records.Swarm: self._swarm,
            records.Reconfigured: self._reconfigured,
            records.Worker: self._worker,
            records.Claim: self._claim,
            records.TrialStarted: self._trial_started,
            records.TrialFinished: self._trial_finished,
            records.AgentEvent: self._agent_event,
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
        with _no_collection():
            return self._fold()

    def _fold(self) -> bool:
        new = self.journal.read(self.cursor)
        apply = self._apply
        for record in new:
            try:
                apply[type(record)](record)
            except KeyError as error:
                raise JournalError(
                    f"{self.journal.path}, line {record.seq} names {error}, which is not known",
                    "the journal was edited by hand; restore it from a backup",
                ) from error
        return bool(new)

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
        limit, hours = self.config.max_experiments, self.config.max_hours
        if limit is not None and self.spent_experiments >= limit:
            return f"all {limit} experiments are used"
        if hours is not None and (now - self.started).total_seconds() >= hours * 3600:
            return f"{hours:g} hours are over"
        return ""

    def queued(self, worker: str) -> list[str]:
        """Experiments of `worker` that still need a trial, oldest first."""
        return list(self.workers[worker].queue)

    def baseline_due(self, worker: str) -> bool:
        """Whether `worker` should run the baseline now.

        A device class needs it once, or twice on different devices where it has several.
        """
        device_class = self.workers[worker].joined.device_class
        entry = self.classes[device_class].entries[BASELINE]
        workers = sum(self.workers[w].joined.device_class == device_class for w in self.active)
        done = [t for t in entry.trials if self.trials[t].outcome != "interrupted"]
        if len(done) >= min(2, workers):
            return False
        return all(self.trials[trial].worker != worker for trial in done)

    # ---- one method per kind of record -----------------------------------------------------

    def _swarm(self, record: records.Swarm) -> None:
        self.swarm, self.config, self.started = record, record.config, record.time
        self.active = dict.fromkeys(record.workers)

    def _reconfigured(self, record: records.Reconfigured) -> None:
        self.config, self.started = record.config, record.time
        self.active = dict.fromkeys(record.workers)
        self.state, self.stopping = "running", ""
        self.ended_because = self.stop_reason = ""
        for name, worker in self.workers.items():
            worker.parked, worker.paused = None, False
            worker.busy_seconds, worker.first_trial, worker.last_result = 0.0, None, None
            self._drop_stranded(name, worker)

    def _drop_stranded(self, name: str, worker: WorkerState) -> None:
        """End what a worker can no longer do: it is gone, or now in another device class."""
        trial = self.trials.get(worker.open_trial or "")
        if trial and name not in self.active:
            trial.outcome, worker.open_trial = "interrupted", None
            entry = self.classes[trial.device_class].entries[trial.experiment]
            entry.running -= 1
            worker.queue[entry.experiment] = None
        for experiment in list(worker.queue):
            same = self.home.get(experiment) == worker.joined.device_class
            if name not in self.active or not same:
                del worker.queue[experiment]
                if experiment != BASELINE:
                    self._give_up(self.entry(experiment), "its worker is gone")

    def _worker(self, record: records.Worker) -> None:
        known = self.workers.get(record.worker)
        if known:
            known.joined = record
        else:
            self.workers[record.worker] = WorkerState(record)
        self._class(record.device_class)

    def _class(self, name: str) -> DeviceClass:
        if name not in self.classes:
            self.classes[name] = DeviceClass(name)
            if BASELINE in self.claims:
                self._enter(self.classes[name], self.claims[BASELINE])
        return self.classes[name]

    def _enter(self, device_class: DeviceClass, claim: records.Claim) -> None:
        device_class.entries[claim.experiment] = Entry(claim)

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
        worker = self.workers[record.worker]
        worker.experiments += 1
        worker.queue[record.experiment] = None
        self.spent_experiments += 1
        self.home[record.experiment] = worker.joined.device_class
        self._enter(self.classes[worker.joined.device_class], record)

    def _trial_started(self, record: records.TrialStarted) -> None:
        worker = self.workers[record.worker]
        self.trials[record.trial] = Trial(
            record.trial,
            record.experiment,
            record.worker,
            record.device_class,
            record.seed,
            record.time,
        )
        entry = self.classes[record.device_class].entries[record.experiment]
        entry.trials.append(record.trial)
        entry.running += 1
        if entry.kind == "candidate":
            entry.why = f"is training as {record.trial}"
        worker.open_trial = record.trial
        worker.queue.pop(record.experiment, None)
        if worker.first_trial is None:
            worker.first_trial = record.time

    def _trial_finished(self, record: records.TrialFinished) -> None:
        trial = self.trials[record.trial]
        trial.outcome, trial.val_bpb, trial.seconds = record.outcome, record.val_bpb, record.seconds
        worker = self.workers[trial.worker]
        worker.device_seconds += record.seconds
        worker.busy_seconds += record.seconds
        worker.last_result = record.time
        if worker.open_trial == trial.id:
            worker.open_trial = None
        entry = self.classes[trial.device_class].entries[trial.experiment]
        entry.running -= 1
        entry.seconds += record.seconds
        if record.val_bpb is not None:
            entry.score(record.val_bpb)
            entry.metrics = record.metrics
            if worker.best_val_bpb is None or record.val_bpb < worker.best_val_bpb:
                worker.best_val_bpb = record.val_bpb
        self._judge_result(trial, entry, record)

    def _judge_result(self, trial: Trial, entry: Entry, record: records.TrialFinished) -> None:
        device_class = self.classes[trial.device_class]
        if record.outcome == "interrupted":
            self._interrupted(trial, entry, record.excused)
        elif entry.values:
            self._judge_scored(device_class, entry)
        elif record.outcome != "ok":
            entry.judge(Verdict(record.outcome, record.reason))
        if entry.kind != "candidate":
            for waiting in self._waiting.pop((trial.device_class, entry.experiment), []):
                self._judge_scored(device_class, waiting)

    def _interrupted(self, trial: Trial, entry: Entry, excused: bool) -> None:
        """Queue it again, but not for ever. The baseline comes again by being due."""
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

    def _judge_scored(self, device_class: DeviceClass, entry: Entry) -> None:
        """Give a scored experiment its verdict; once its base has one, it is final."""
        if entry.kind in ("keep", "discard"):
            return
        if entry.claim.parent is None:
            entry.judge(Verdict("keep", "the baseline"))
        else:
            base = device_class.entries.get(entry.claim.parent)
            if base and base.kind == "candidate":
                entry.why = f"waits for the score of its base {base.experiment}"
                waiting = self._waiting.setdefault((device_class.name, base.experiment), [])
                waiting.append(entry)
                return
            if base is None or base.estimate is None:
                base = device_class.entries.get(device_class.incumbent or "")
            assert self.config is not None and entry.estimate is not None
            policy = decide.POLICIES[self.config.policy]
            against = (base.estimate, base.experiment) if base else (None, "")
            entry.judge(policy(entry.estimate, *against))
        self._crown(device_class, entry)

    def _crown(self, device_class: DeviceClass, entry: Entry) -> None:
        if entry.kind != "keep":
            return
        incumbent = device_class.entries.get(device_class.incumbent or "")
        ours, theirs = entry.estimate, incumbent.estimate if incumbent else None
        if ours and (theirs is None or ours.mean < theirs.mean):
            device_class.incumbent = device_class.best = entry.experiment

    def _agent_event(self, record: records.AgentEvent) -> None:
        worker = self.workers[record.worker]
        worker.parked = record.reason if record.state == "parked" else None

    def _control(self, record: records.Control) -> None:
        if record.action == "stop":
            self.stopping = "now" if record.now else self.stopping or "soft"
            self.stop_reason = self.stop_reason or record.reason or "by swarm stop"
            return
        for name in record.workers or list(self.active):
            worker = self.workers[name]
            if record.action == "sync":
                worker.sync_asked = record.seq
            else:
                worker.paused = record.action == "pause"
                if record.action == "resume":
                    worker.parked = None

    def _note(self, record: records.Note) -> None:
        self.notes.append(record)
        if record.request:
            self.requests[record.request] = ""

    def _ended(self, record: records.Ended) -> None:
        self.state, self.ended_because = record.state, record.reason


@contextmanager
def _no_collection() -> Iterator[None]:
    """Folding makes many objects and no garbage: looking for some would take a third of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
