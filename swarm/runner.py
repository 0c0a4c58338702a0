"""One worker's process: the agent's parent and the device's queue."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

from swarm import agents, config, devices, experiment, heartbeat, pollinate, records, strays
from swarm.agents.process import AgentProcess
from swarm.errors import DiskFull, Refused, SwarmError
from swarm.experiment import Bench
from swarm.heartbeat import Heartbeat
from swarm.journal import Journal, utc_now
from swarm.launchers.local import LocalHandle, LocalLauncher
from swarm.leaderboard import BASELINE, Leaderboard
from swarm.locks import DeviceLock, ProcessLock
from swarm.logfile import last_words_of
from swarm.mailbox import Answer, Mailbox, NoteRequest, Request, Submission, SyncRequest
from swarm.paths import Paths
from swarm.worktree import Worktree

QUEUE_DEPTH = 1
_TICK_SECONDS = 0.25
_DISK_RETRY_SECONDS = 5.0
_DEVICE_WAIT_SECONDS = 15.0
log = logging.getLogger("swarm.runner")


class Runner:
    """Owns a worktree and a device; takes requests, runs trials, appends facts, moves git."""

    def __init__(
        self,
        paths: Paths,
        worker: str,
        environment: dict[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paths, self.worker, self.clock = paths, worker, clock
        self.board = Leaderboard(Journal(paths.journal))
        self.board.refresh()
        if worker not in self.board.workers:
            raise SwarmError(f"swarm {paths.tag} has no worker {worker}", "see swarm status")
        joined = self.board.workers[worker].joined
        worktree = Worktree(paths.worktree(worker), joined.branch)
        self.bench = Bench(paths, worker, self.board.journal, self.board, worktree, environment)
        self.mailbox = Mailbox(worktree.folder)
        self.process_lock = ProcessLock(paths.worker_lock(worker))
        self.device_lock = DeviceLock(config.cache_folder(environment) / "locks", joined.device)
        self.launcher: LocalLauncher
        self.agent = self._make_agent(joined, environment)
        self.trial: LocalHandle | None = None
        self.result: records.TrialFinished | None = None
        self.requests_of: dict[str, str] = {}
        self.last_sync = clock()
        self.synced_at = self.board.cursor.lines
        self.ending: str = ""
        self.beat: Heartbeat | None = None
        self.doorbell = -1

    # ---- life ------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the swarm ends. Raises `Refused` when worker or device is taken."""
        if not self.process_lock.try_acquire():
            raise Refused(f"worker {self.worker} is running already", "see swarm status")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._say("thinking", "takes its device")
        holder = f"worker {self.worker} of swarm {self.paths.tag} in {self.paths.root}"
        self.device_lock.acquire(_DEVICE_WAIT_SECONDS, holder)
        self.launcher = LocalLauncher(self.device_lock.filenos)
        self.doorbell = self.mailbox.open_doorbell()
        try:
            self._repair()
            while not self._finished():
                self._guarded_step()
                self._wait()
        finally:
            self._close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.ending = self.ending or f"got {signal.Signals(number).name}"

    def _guarded_step(self) -> None:
        """One round. A full disk pauses the worker; what was being done is done again later."""
        try:
            self._step()
        except DiskFull as error:
            log.warning("%s", error)
            self._say("paused", f"disk full: {error}")
            time.sleep(_DISK_RETRY_SECONDS)

    def _step(self) -> None:
        self.board.refresh()
        self._collect()
        self._take_requests()
        self._dispatch()
        self._pollinate()
        self._tend_agent()
        self._say(*self._doing())

    def _repair(self) -> None:
        """End what a dead predecessor left half-done, and answer what it left unanswered."""
        strays.kill_agent(self.bench.worktree.folder)
        trial = self.board.workers[self.worker].open_trial
        if trial:
            strays.kill_trial(self.paths.trial(trial))
            self._record(
                records.TrialFinished(
                    trial=trial, outcome="interrupted", seconds=0.0, reason="its runner died"
                )
            )
        experiment.reconcile(self.bench)
        mine = [claim for claim in self.board.claims.values() if claim.worker == self.worker]
        for claim in mine[-QUEUE_DEPTH - 2 :]:
            answer = self.mailbox.read_answer(claim.request)
            if answer and answer.state == "queued":
                self.requests_of[claim.experiment] = claim.request
        self._answer_verdicts()

    def _finished(self) -> bool:
        if self.board.workers[self.worker].open_trial:
            return False
        if self.ending or self.board.stopping:
            return True
        return bool(self.board.exhausted(utc_now())) and not self.board.queued(self.worker)

    def _close(self) -> None:
        self.agent.end()
        if self.trial is not None:  # only on the way out through an error
            self.launcher.cancel(self.trial)
        for request in self._waiting_requests():
            self._refuse(request.id, SwarmError("the swarm has ended", "see swarm board"))
        os.close(self.doorbell)
        self.device_lock.release()
        self.process_lock.release()

    def _wait(self) -> None:
        sources: list[int | LocalHandle] = [self.doorbell]
        if self.trial is not None and self.result is None:
            sources.append(self.trial)
        ready, _, _ = select.select(sources, [], [], _TICK_SECONDS)
        if self.doorbell in ready:
            os.read(self.doorbell, 4096)

    # ---- the device ------------------------------------------------------------------------

    def _collect(self) -> None:
        """Record a finished trial; end a running one when told to."""
        if self.trial is None:
            return
        if self.ending or self.board.stopping == "now":
            self.launcher.cancel(self.trial)
        self.result = self.result or self.launcher.poll(self.trial)
        if self.result is None:
            return
        if self.result.outcome == "interrupted":
            strays.kill_trial(self.paths.trial(self.result.trial))
        self._record(self.result)  # on a full disk this comes again
        self.trial = self.result = None

    def _record(self, result: records.TrialFinished) -> None:
        entry = experiment.record(self.bench, result)
        log.info("%s %s: %s", result.trial, entry.experiment, entry.reason)
        if entry.claim.worker == self.worker and entry.kind != "candidate":
            experiment.sync(self.bench)
            self.last_sync = self.clock()
        else:
            experiment.advance_branches(self.bench)
        self._answer_verdicts()

    def _answer_verdicts(self) -> None:
        """Tell the agent about its experiments that now have a verdict."""
        for name in list(self.requests_of):
            answer = experiment.describe(self.bench, self.requests_of[name], name)
            if answer.state == "done":
                self.mailbox.answer(answer)
                del self.requests_of[name]

    def _dispatch(self) -> None:
        """Start the next trial on an idle device: the baseline if due, else the queue's head."""
        self._end_unstarted_trial("the disk was full")
        if self.trial or self.ending or self.board.stopping or self._paused():
            return
        if self.board.baseline_due(self.worker):
            self._start(BASELINE)
        queue = self.board.queued(self.worker)
        if self.trial is None and queue:
            self._start(queue[0])

    def _start(self, name: str) -> None:
        try:
            job = experiment.start_trial(self.bench, name)
            if job is not None:
                self.trial = self.launcher.submit(job)
                log.info("%s of %s started", job.trial, name)
        except DiskFull:
            raise
        except SwarmError as error:
            log.error("%s: %s", name, error)
            if not self._end_unstarted_trial(str(error)):
                raise

    def _end_unstarted_trial(self, why: str) -> bool:
        """End a trial that is in the journal but does not run: once more, then it is given up."""
        trial = self.board.workers[self.worker].open_trial
        if trial is None or self.trial is not None:
            return False
        self._record(
            records.TrialFinished(
                trial=trial, outcome="interrupted", seconds=0.0, reason=f"not started: {why}"
            )
        )
        return True

    def _paused(self) -> bool:
        return self.board.workers[self.worker].paused

    # ---- the agent -------------------------------------------------------------------------

    def _make_agent(self, joined: records.Worker, environment: dict[str, str]) -> AgentProcess:
        agent = agents.build(joined.agent)
        folder = self.bench.worktree.folder
        own = {"SWARM_WORKER": self.worker, strays.AGENT_MARK: str(folder)}
        pinned = devices.environment(joined.device)
        return AgentProcess(agent.argv(), agent.environment(environment) | pinned | own, folder)

    def _tend_agent(self) -> None:
        """Restart an agent that exited, with backoff; park it when it keeps failing."""
        state = self.board.workers[self.worker]
        over = self.ending or self.board.stopping or self.board.exhausted(utc_now())
        code = self.agent.reap(self.clock())
        if code is not None and not over:
            log.info("the agent exited with code %d", code)
            said = last_words_of(self.paths.worker_log(self.worker))
            self._agent_event("exited", f"exit code {code}: {said}", code)
            if self.agent.hopeless:
                times = self.agent.fruitless_exits
                self._agent_event("parked", f"the agent exited {times} times: {said}", code)
        if self.agent.hopeless and not state.parked:
            self.agent.restart_soon()  # a person resumed the worker
        if not over and not state.parked and self.agent.start_when_due(self.clock()):
            self._agent_event("started", f"pid {self.agent.pid}")

    def _agent_event(
        self, state: records.AgentState, reason: str, exit_code: int | None = None
    ) -> None:
        self.board.journal.append(
            records.AgentEvent(worker=self.worker, state=state, reason=reason, exit_code=exit_code)
        )
        self.board.refresh()

    # ---- requests --------------------------------------------------------------------------

    def _waiting_requests(self) -> list[Request]:
        waiting = []
        for found in self.mailbox.requests():
            if isinstance(found, Answer):
                self.mailbox.answer(found)
            else:
                waiting.append(found)
        return waiting

    def _take_requests(self) -> None:
        for request in self._waiting_requests():
            try:
                self._take(request)
            except DiskFull:
                raise  # it stays in the box until there is space
            except SwarmError as error:
                self._refuse(request.id, error)

    def _take(self, request: Request) -> None:
        match request:
            case Submission():
                self._take_submission(request)
            case NoteRequest():
                self.board.journal.append(records.Note(worker=self.worker, text=request.text))
                self.mailbox.answer(Answer(id=request.id, state="done"))
            case SyncRequest():
                self._answer_sync(request)

    def _take_submission(self, submission: Submission) -> None:
        known = self.board.requests.get(submission.id)
        if known:  # a predecessor died between journal and answer
            self.requests_of[known] = submission.id
            self.mailbox.answer(experiment.describe(self.bench, submission.id, known))
            return
        if self.board.stopping:
            raise SwarmError("the swarm is stopping", "swarm spawn --tag starts it again")
        queue = self.board.queued(self.worker)
        if len(queue) >= QUEUE_DEPTH + (self.trial is None):
            raise Refused(
                f"the queue is full: {', '.join(queue)} not yet started",
                "wait for it: swarm result --wait 90",
            )
        name = experiment.submit(self.bench, submission)
        self.agent.made_progress()
        self.requests_of[name] = submission.id
        self.mailbox.answer(experiment.describe(self.bench, submission.id, name))

    def _answer_sync(self, request: SyncRequest) -> None:
        if not experiment.sync(self.bench):
            raise Refused(
                "train.py has edits that were not submitted, so it was not moved",
                "submit them with swarm eval, or drop them: git checkout -- train.py",
            )
        base = pollinate.base_for(self.board, self.worker)
        self.mailbox.answer(
            Answer(id=request.id, state="done", base=base.commit, reason=f"on {base.experiment}")
        )

    def _refuse(self, request: str, error: SwarmError) -> None:
        self.mailbox.answer(
            Answer(
                id=request,
                state="refused",
                reason=str(error),
                hint=error.hint,
                exit_code=error.exit_code,
            )
        )

    # ---- pollination and heartbeat ---------------------------------------------------------

    def _pollinate(self) -> None:
        """Move an idle worktree onto the incumbent when its interval is over or on request."""
        asked = self.board.workers[self.worker].sync_asked
        every = self.bench.settings.sync_every
        if not pollinate.is_due(self.last_sync, self.clock(), every, asked, self.synced_at):
            return
        self.last_sync, self.synced_at = self.clock(), max(asked, self.synced_at)
        if not self.board.queued(self.worker):
            moved = experiment.sync(self.bench)
            log.info("pollinated" if moved else "not pollinated: train.py has edits")

    def _doing(self) -> tuple[heartbeat.Doing, str]:
        state = self.board.workers[self.worker]
        if self.trial is not None:
            trial = self.board.trials[self.trial.job.trial]
            return "training", f"{trial.experiment} as {trial.id}, seed {trial.seed}"
        if state.paused:
            return "paused", "by swarm pause"
        if state.parked:
            return "parked", state.parked
        waits = "proposes a change" if self.agent.running else "is started again soon"
        return "thinking", f"the agent {waits}"

    def _say(self, state: heartbeat.Doing, reason: str) -> None:
        beat = Heartbeat(
            os.getpid(),
            state,
            reason,
            round(time.time(), 3),
            pane=self.bench.environment.get("TMUX_PANE"),
            agent_pid=self.agent.pid,
            trial=self.trial.job.trial if self.trial else None,
        )
        old = self.beat
        if old is None or (old.state, old.reason, old.agent_pid) != (state, reason, beat.agent_pid):
            heartbeat.write(self.paths.heartbeat(self.worker), beat)
            self.beat = beat
