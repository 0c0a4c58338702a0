"""One worker's process: the agent's parent and the device's queue."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

import msgspec.structs

from swarm import (
    agents,
    allocate,
    config,
    experiment,
    heartbeat,
    pollinate,
    records,
    snapshots,
    strays,
)
from swarm.agents.kinds import Agent
from swarm.attendant import Attendant
from swarm.backoff import Backoff
from swarm.bookkeeper import Bookkeeper
from swarm.errors import DiskFull, SwarmError
from swarm.experiment import Bench
from swarm.heartbeat import Heartbeat
from swarm.journal import utc_now
from swarm.keys import Keys, Scrubber
from swarm.launchers.local import LocalHandle, LocalLauncher
from swarm.locks import DeviceLock
from swarm.paths import Paths
from swarm.prices import Prices
from swarm.reception import Reception
from swarm.worktree import Worktree

_TICK_SECONDS = 0.25
_DISK_RETRY_SECONDS = 5.0
_DEVICE_WAIT_SECONDS = 15.0
_IDLE_SECONDS, _IDLE_SHARE = 2.0, 0.03
"""A device is idle after so many seconds, or so much of a trial's budget, without an experiment."""
log = logging.getLogger("swarm.runner")


class Runner:
    """Owns a worktree and a device; takes requests, runs trials, appends facts, moves git.

    The caller holds the worker's `ProcessLock`, so there is only one runner of a worker.
    """

    def __init__(
        self,
        paths: Paths,
        worker: str,
        environment: dict[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paths, self.worker, self.clock = paths, worker, clock
        self.board = snapshots.leaderboard(paths)
        self.board.refresh()
        if worker not in self.board.workers:
            raise SwarmError(f"swarm {paths.tag} has no worker {worker}", "see swarm status")
        joined = self.board.workers[worker].joined
        worktree = Worktree(paths.worktree(worker), joined.branch)
        agent = self._agent(joined, environment)
        scrubber = Scrubber(Keys.load(environment).secrets(agent.needs))
        self.bench = Bench(
            paths, worker, self.board.journal, self.board, worktree, environment, scrubber
        )
        prices = Prices.load(config.prices_file(environment))
        since = self.board.workers[worker].spent_at or utc_now()
        self.books = Bookkeeper(
            self.bench, prices, agent.transcripts(worktree.folder, environment, since)
        )
        self.attendant = Attendant(self.bench, agent, clock)
        self.reception = Reception(self.bench, self.books)
        self.device_lock = DeviceLock(config.cache_folder(environment) / "locks", joined.device)
        self.launcher: LocalLauncher
        self.trial: LocalHandle | None = None
        self.result: records.TrialFinished | None = None
        self.last_sync = self.free_since = clock()
        self.fills_pause, self.makes_way_for = False, ""
        self.backoff = Backoff()
        self.synced_at = self.board.cursor.lines
        self.ending: str = ""
        self.beat: Heartbeat | None = None
        self.repaired = False

    # ---- life ------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the swarm ends. Raises `Refused` when the device is taken."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._say("thinking", "takes its device")
        holder = f"worker {self.worker} of swarm {self.paths.tag} in {self.paths.root}"
        self.device_lock.acquire(_DEVICE_WAIT_SECONDS, holder)
        self.launcher = LocalLauncher(self.device_lock.filenos)
        try:
            while not self._finished():
                self._guarded_step()
                self._wait()
        finally:
            self._close()

    def _agent(self, joined: records.Worker, environment: dict[str, str]) -> Agent:
        assert self.board.config is not None
        return agents.build(joined.agent, environment, self.board.config.pass_env)

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
        self.reception.open()
        if not self.repaired:
            self._repair()
        self._collect()
        self.reception.answer_verdicts()
        self.books.read(self.clock(), self.reception.is_asked())
        if self.reception.take_all():
            self.attendant.made_progress()
        self._dispatch()
        self._pollinate()
        over = self.ending or self.board.stopping or self.board.exhausted(utc_now())
        self.attendant.tend(bool(over))
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
        self.repaired = True
        self.reception.take_over()

    def _finished(self) -> bool:
        if self.board.workers[self.worker].open_trial:
            return False
        if self.ending or self.board.stopping:
            return True
        return bool(self.board.exhausted(utc_now())) and allocate.is_over(self.board, self.worker)

    def _close(self) -> None:
        self.attendant.end()
        self.books.read(self.clock(), True)
        if self.trial is not None:  # only on the way out through an error
            self.launcher.cancel(self.trial)
        if self.board.stopping or self.board.exhausted(utc_now()):
            self.reception.close()
        self.device_lock.release()

    def _wait(self) -> None:
        bell = self.reception.doorbell
        sources: list[int | LocalHandle] = [bell] if bell >= 0 else []
        if self.trial is not None and self.result is None:
            sources.append(self.trial)
        ready, _, _ = select.select(sources, [], [], _TICK_SECONDS)
        if bell in ready:
            os.read(bell, 4096)

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
        if self.ending or self.board.stopping == "now" or self.makes_way_for:
            excused = self.result.outcome == "interrupted"
            way = f"made way for {self.makes_way_for}" if self.makes_way_for and excused else ""
            self.result = msgspec.structs.replace(
                self.result, excused=excused, reason=way or self.result.reason
            )
        if self.result.outcome != "interrupted":
            self.backoff.succeeded()
        elif not self.result.excused:
            self.backoff.failed(self.clock(), self.result.reason)
        if self.result.outcome == "interrupted":
            strays.kill_trial(self.paths.trial(self.result.trial))
        self._record(self.result)  # on a full disk this comes again
        self.trial = self.result = None
        self.fills_pause, self.makes_way_for, self.free_since = False, "", self.clock()

    def _record(self, result: records.TrialFinished) -> None:
        entry = experiment.record(self.bench, result)
        log.info("%s %s: %s", result.trial, entry.experiment, entry.reason)
        if entry.claim.worker == self.worker and entry.kind != "candidate":
            experiment.sync(self.bench)
            self.last_sync = self.clock()
        else:
            experiment.advance_branches(self.bench)
        self.reception.answer_verdicts()
        if self.board.workers[self.worker].failures > allocate.DOUBTFUL:
            self._pause(f"its device fails even with what worked before: {result.reason}")

    def _pause(self, why: str) -> None:
        log.error("%s", why)
        self.board.journal.append(
            records.Control(action="pause", workers=(self.worker,), reason=why)
        )
        self.board.refresh()

    def _dispatch(self) -> None:
        """Start the next trial on a free device, or end one that only fills a pause."""
        self._end_unstarted_trial(DiskFull("the disk was full"))
        if self.trial is not None:
            self._make_way(self.trial)
        elif not (self.ending or self.board.stopping or self._paused()):
            self._start_next()

    def _start_next(self) -> None:
        idle, over = self._is_idle(), bool(self.board.exhausted(utc_now()))
        urgent = allocate.next_trial(self.board, self.worker, False, over)
        due = urgent or allocate.next_trial(self.board, self.worker, idle, over)
        if due is None or self.clock() < self.backoff.until:
            return
        try:
            job = experiment.start_trial(
                self.bench, due, lambda: allocate.next_trial(self.board, self.worker, idle, over)
            )
            if job is not None:
                self.trial = self.launcher.submit(job)
                self.fills_pause = idle and urgent is None
                log.info("%s of %s started: %s", job.trial, due.experiment, due.why or due.purpose)
        except DiskFull:
            raise
        except SwarmError as error:
            log.error("%s: %s", due.experiment, error)
            if not self._end_unstarted_trial(error):
                raise
            self.backoff.failed(self.clock(), str(error))

    def _is_idle(self) -> bool:
        """Whether the device waits for an agent that will take a while."""
        if not self.attendant.running:
            return True
        grace = max(_IDLE_SECONDS, _IDLE_SHARE * self.bench.settings.seconds)
        return self.clock() - self.free_since > grace

    def _make_way(self, running: LocalHandle) -> None:
        """End a replicate that fills a pause when an experiment waits and it is far from done."""
        queue = self.board.queued(self.worker)
        if not (self.fills_pause and queue and self.result is None) or self.makes_way_for:
            return
        trial = self.board.trials[running.job.trial]
        entry = self.board.entry(trial.experiment, trial.device_class)
        whole = [known.seconds for known in entry.trials if known.outcome == "ok"]
        usual = sum(whole) / len(whole) if whole else self.bench.settings.seconds
        done = (time.monotonic() - running.started) / max(usual, 1e-9)
        if done < allocate.MAKES_WAY_UNTIL:
            self.makes_way_for = queue[0]
            self.launcher.cancel(running)

    def _end_unstarted_trial(self, why: SwarmError) -> bool:
        """End a trial that is in the journal but does not run: once more, then it is given up."""
        trial = self.board.workers[self.worker].open_trial
        if trial is None or self.trial is not None:
            return False
        self._record(
            records.TrialFinished(
                trial=trial,
                outcome="interrupted",
                seconds=0.0,
                reason=f"not started: {why}",
                excused=isinstance(why, DiskFull),
            )
        )
        return True

    def _paused(self) -> bool:
        return self.board.workers[self.worker].paused

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
            purpose = "" if trial.purpose == "experiment" else f", a {trial.purpose}"
            return "training", f"{trial.experiment} as {trial.id}, seed {trial.seed}{purpose}"
        if state.paused:
            return "paused", state.paused_because or "by swarm pause"
        if self.clock() < self.backoff.until:
            return "paused", f"no trial can be started: {self.backoff.why}"
        doing, reason = self.attendant.doing()
        return ("parked" if doing == "parked" else "thinking"), reason

    def _say(self, state: heartbeat.Doing, reason: str) -> None:
        agent, agent_reason = self.attendant.doing()
        beat = Heartbeat(
            os.getpid(),
            state,
            reason,
            round(time.time(), 3),
            pane=self.bench.environment.get("TMUX_PANE"),
            agent=agent,
            agent_reason=agent_reason,
        )
        old = self.beat
        if old is None or msgspec.structs.replace(old, since=beat.since) != beat:
            heartbeat.write(self.paths.heartbeat(self.worker), beat)
            self.beat = beat
