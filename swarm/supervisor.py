"""One per swarm: starts runners, restarts the dead, parks the hopeless, and ends the swarm."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from types import FrameType

import filelock

from swarm import agents, config, heartbeat, keys, records, snapshots, strays
from swarm.errors import GitError, Refused, SwarmError
from swarm.experiment import Bench, reconcile
from swarm.heartbeat import Heartbeat
from swarm.journal import Journal, utc_now
from swarm.leaderboard import Leaderboard
from swarm.locks import ProcessLock, is_held
from swarm.logfile import last_words_of
from swarm.panes import Panes, choose_panes, tmux_available
from swarm.paths import Paths
from swarm.views import tsv
from swarm.worktree import Worktree

_TICK_SECONDS = 0.2
_START_GRACE_SECONDS = 20.0
_TRY_AGAIN_SECONDS = 5.0
_BACKOFF_SECONDS = (0.0, 1.0, 5.0, 15.0, 60.0)
_LAST_BACKOFF = len(_BACKOFF_SECONDS) - 1
_HEALTHY_SECONDS = 120.0
_RESULTS_TSV_SHARE = 0.02
_SNAPSHOT_SHARE = 0.01
log = logging.getLogger("swarm.supervisor")


@dataclass
class Watch:
    """What the supervisor remembers of one runner; times are seconds of a monotonic clock.

    `trouble` is why it cannot even be started.
    """

    started: float = float("-inf")
    due: float = float("-inf")
    deaths: int = 0
    seen_alive: bool = False
    trouble: str = ""


class Supervisor:
    """Holds no state that the journal does not: a dead one is replaced by starting another."""

    def __init__(self, paths: Paths, environment: dict[str, str]) -> None:
        self.paths, self.environment = paths, environment
        self.board = Leaderboard(Journal(paths.journal))
        self.board.refresh()
        assert self.board.config is not None
        self.panes: Panes = choose_panes(self.board.config.tmux, paths.tag, paths.root, environment)
        self.watches = {worker: Watch() for worker in self.board.active}
        self.lock = ProcessLock(paths.supervisor_lock)
        self.ending = False
        self.results = tsv.ResultsFile(paths.results_tsv, _RESULTS_TSV_SHARE)
        self.snapshot = snapshots.Keeper(paths.snapshot, _SNAPSHOT_SHARE)

    def run(self) -> None:
        """Run until the swarm ends. Raises `Refused` when another supervisor runs."""
        if not self.lock.try_acquire():
            raise Refused(f"swarm {self.paths.tag} has a supervisor already", "see swarm status")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with filelock.FileLock(self.paths.spawn_lock, fallback_to_soft=False):
            self.board.refresh()  # whoever spawns has now laid out the worktrees
        while not self.ending:
            try:
                if self._step():
                    return
            except SwarmError as error:  # a full disk, a tmux that does not answer: try again
                log.warning("%s", error)
            time.sleep(_TICK_SECONDS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Leave; the runners go on without a supervisor."""
        log.info("got %s", signal.Signals(number).name)
        self.ending = True

    def _step(self) -> bool:
        """One round; return whether the swarm has come to rest."""
        self.board.refresh()
        self.results.refresh(self.board)
        self.snapshot.refresh(self.board)
        now = time.monotonic()
        alive = {name: is_held(self.paths.worker_lock(name)) for name in self.watches}
        self._stop_when_all_are_parked()
        ended = self._end_state()
        if ended and not any(alive.values()):
            conclude(self.paths, self.board, self.panes, ended)
            return True
        for worker, watch in self.watches.items():
            if alive[worker]:
                watch.deaths -= not watch.seen_alive
                watch.seen_alive = True
                if now - watch.started > _HEALTHY_SECONDS:
                    watch.deaths = 0
            elif not ended and self._has_work(worker):
                self._revive(worker, watch, now)
        return False

    def _end_state(self) -> records.Ended | None:
        """How the swarm ends once its runners are gone; `None` while it should go on."""
        if self.board.stopping:
            return records.Ended(state="stopped", reason=self.board.stop_reason)
        over = self.board.exhausted(utc_now())
        if over and not any(self._has_work(name) for name in self.watches):
            return records.Ended(state="finished", reason=over)
        return None

    def _stop_when_all_are_parked(self) -> None:
        workers = [self.board.workers[name] for name in self.watches]
        given_up = all(worker.parked and worker.parked_until is None for worker in workers)
        if self.board.stopping or not given_up:
            return
        reason = f"every worker is parked: {workers[0].parked}"
        self.board.journal.append(records.Control(action="stop", reason=reason))

    def _has_work(self, worker: str) -> bool:
        """Whether a runner of this worker would find something to do."""
        state = self.board.workers[worker]
        if state.parked and state.parked_until is None:
            return False
        if not self.board.exhausted(utc_now()):
            return True
        if state.paused:
            return False
        if self.board.queued(worker):
            return True
        return self.board.replicate(worker, "ending") is not None

    def _revive(self, worker: str, watch: Watch, now: float) -> None:
        """Start a runner that is not alive, with backoff when it dies again and again."""
        if watch.seen_alive:
            watch.seen_alive = False
            watch.deaths += 1
            watch.due = watch.started + _BACKOFF_SECONDS[min(watch.deaths, _LAST_BACKOFF)]
            log.warning("the runner of %s died for the %d. time", worker, watch.deaths)
        if now < watch.due:
            return
        if watch.deaths > _LAST_BACKOFF:
            self._park(worker, watch)
            return
        try:
            pane = self._start(worker)
        except SwarmError as error:  # not its fault: a damaged table, a tmux that does not answer
            self._cannot_start(worker, watch, str(error), now)
            return
        watch.started, watch.due, watch.trouble = now, now + _START_GRACE_SECONDS, ""
        watch.deaths += 1  # until it is seen alive
        log.info("started the runner of %s in pane %s", worker, pane)

    def _start(self, worker: str) -> str | None:
        """Start the runner of a worker; return its pane. Raises `SwarmError`."""
        return self.panes.start(
            worker,
            [config.python(), "-P", "-m", "swarm.cli", "runner", worker, "--tag", self.paths.tag],
            self._environment_of(worker),
            self.paths.root,
            self.paths.worker_log(worker),
        )

    def _cannot_start(self, worker: str, watch: Watch, error: str, now: float) -> None:
        """Say why a runner cannot be started; that is tried again, for the cause may go away."""
        watch.due = now + _TRY_AGAIN_SECONDS
        if error == watch.trouble:
            return
        watch.trouble = error
        log.warning("the runner of %s cannot be started: %s", worker, error)
        beat = Heartbeat(os.getpid(), "dead", f"its runner cannot be started: {error}", time.time())
        heartbeat.write(self.paths.heartbeat(worker), beat)

    def _environment_of(self, worker: str) -> dict[str, str]:
        """What a runner gets: of the secrets those that its agent needs."""
        assert self.board.config is not None
        passed = self.board.config.pass_env
        agent = agents.build(self.board.workers[worker].joined.agent, self.environment, passed)
        return keys.for_runner(self.environment, agent.needs, ())

    def _park(self, worker: str, watch: Watch) -> None:
        """Give up on a runner that keeps dying, until `swarm resume`."""
        said = last_words_of(self.paths.runner_log(worker))
        reason = f"its runner died {watch.deaths} times: {said}"
        trial = self.board.workers[worker].open_trial
        if trial:  # others may wait for it
            strays.kill_trial(self.paths.trial(trial))
            self.board.journal.append(
                records.TrialFinished(
                    trial=trial, outcome="interrupted", seconds=0.0, reason=reason, excused=True
                )
            )
        self.board.journal.append(records.AgentEvent(worker=worker, state="parked", reason=reason))
        watch.deaths = 0


def launch(paths: Paths, environment: dict[str, str]) -> None:
    """Start a supervisor as a process of its own that outlives this one."""
    paths.home.mkdir(parents=True, exist_ok=True)
    with open(paths.supervisor_log, "ab") as output:
        subprocess.Popen(
            [config.python(), "-P", "-m", "swarm.cli", "supervise", "--tag", paths.tag],
            cwd=paths.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def conclude(paths: Paths, board: Leaderboard, panes: Panes, ended: records.Ended) -> None:
    """Put every worktree on the incumbent, write down that the swarm rests, close its panes."""
    for worker in board.active:
        strays.kill_agent(paths.worktree(worker))
        worktree = Worktree(paths.worktree(worker), board.workers[worker].joined.branch)
        try:
            reconcile(Bench(paths, worker, board.journal, board, worktree, {}))
        except GitError as error:  # a worktree that is gone or broken does not keep a swarm alive
            log.warning("%s was not moved onto the incumbent: %s", worker, error)
    board.journal.append(ended)
    board.refresh()
    tsv.write(paths.results_tsv, board)
    panes.close()


def is_running(paths: Paths) -> bool:
    """Whether any process of the swarm is alive."""
    locks = [paths.supervisor_lock, *(paths.home / "workers").glob("*.lock")]
    return any(is_held(lock) for lock in locks)


def wait_until_at_rest(paths: Paths, board: Leaderboard, environment: dict[str, str]) -> None:
    """Wait until a stopping swarm has come to rest; conclude it where no supervisor does."""
    while is_running(paths):
        time.sleep(_TICK_SECONDS)
    board.refresh()
    if board.state == "running":
        assert board.config is not None
        tmux = board.config.tmux and tmux_available(environment)  # else there are no panes to close
        panes = choose_panes(tmux, paths.tag, paths.root, environment)
        conclude(paths, board, panes, records.Ended(state="stopped", reason="by swarm stop"))
