"""Keeps the agent of a worker at work: starts, restarts, watches, nudges and parks it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from swarm import devices, records, strays
from swarm.agents import prompts
from swarm.agents.kinds import Agent, Errand
from swarm.agents.mind import Finding
from swarm.agents.parking import Parking, hour
from swarm.agents.process import AgentProcess
from swarm.agents.watching import ScreenWatch, limit_upon
from swarm.directions import name_of
from swarm.errors import SwarmError
from swarm.experiment import Bench
from swarm.journal import utc_now
from swarm.logfile import last_lines, last_words_of
from swarm.mailbox import Mailbox, Saying
from swarm.terminal import Terminal
from swarm.workers import WorkerState

STALLED = 3600.0
"""An agent that should propose something and has not for so many seconds is started again."""
_BLIND_SECONDS = 60.0
"""A tmux that does not answer is asked again after so long: meanwhile the door is served."""
_LOG_LINES = 30
"""A usage limit that ended a CLI stands in the last so many lines of its log."""
log = logging.getLogger("swarm.runner")


class Attendant:
    """The part of a runner that cares for the agent; what it remembers, a restart may forget."""

    def __init__(
        self, bench: Bench, agent: Agent, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bench, self.agent, self.clock = bench, agent, clock
        folder, environment = bench.worktree.folder, dict(bench.environment)
        self.process = AgentProcess(folder)
        self.mailbox = Mailbox(folder)
        self._log = bench.paths.worker_log(bench.worker)
        self.terminal = Terminal.of(environment) if self.agent.cli else None
        self.watch: ScreenWatch | None = None
        self.finding: Finding | None = None
        self.parking, self.fresh_starts = Parking(), self.state.fresh_starts
        self.pid: int | None = None
        self.over, self.blind_until = False, float("-inf")
        self.limited_until: datetime | None = None
        self.log_began = 0
        self.active, self.signs = clock(), self._signs()

    @property
    def state(self) -> WorkerState:
        return self.bench.board.workers[self.bench.worker]

    @property
    def environment(self) -> dict[str, str]:
        """What the agent gets. Its keys are looked up anew: a person may have mended them."""
        folder = self.bench.worktree.folder
        own = {"SWARM_WORKER": self.bench.worker, strays.AGENT_MARK: str(folder)}
        pinned = devices.environment(self.bench.joined.device)
        return self.agent.environment(self.bench.environment) | pinned | own

    @property
    def running(self) -> bool:
        return self.process.running

    def tend(self, over: bool) -> None:
        """One round. When the swarm is `over`, an agent that ends is not started again.

        One whose model costs money is ended then, once its last experiment has been tried.
        """
        now = self.clock()
        self.over = over
        self._reap(now, over)
        if over:
            if self.agent.asks is not None and not self._has_work():
                self.end()  # it would go on paying
            return
        if self.process.running:
            self._attend(now)
        elif self._may_start(now):
            self._start(now)

    def made_progress(self) -> None:
        """The agent has submitted something."""
        self.process.made_progress()
        self.parking.made_progress()
        self.active = self.clock()

    def end(self) -> None:
        """End the agent and what it started, which would go on to edit the same train.py."""
        if self.process.pid is not None:
            self.process.end()
            strays.kill_agent(self.bench.worktree.folder)

    # ---- a round ---------------------------------------------------------------------------

    def _reap(self, now: float, over: bool) -> None:
        code = self.process.reap(now)
        if code is None:
            return
        log.info("the agent exited with code %d", code)
        strays.kill_agent(self.bench.worktree.folder)
        said, words, limit = self.mailbox.said(self.pid), self._last_words(), self._limit(code)
        self.watch = self.finding = None
        if over:
            return
        self._event("exited", f"exit code {code}: {words}", code)
        if said and said.state == "parked":
            self._park_as_asked(said.reason, _moment(said.until), code)
        elif limit:
            self.process.restart_soon()  # that was no failure
            self._park_as_asked(limit.reason, limit.until, code)
        else:
            self._park_when_hopeless(words, code)

    def _may_start(self, now: float) -> bool:
        state = self.state
        if state.parked and (state.parked_until is None or utc_now() < state.parked_until):
            return False
        if self.process.hopeless:
            self.process.restart_soon()  # a person resumed the worker, or its time has come
        return self.process.is_due(now)

    def _start(self, now: float) -> None:
        folder, cli = self.bench.worktree.folder, self.agent.cli
        direction = self.bench.board.workforce.direction_of(self.bench.worker)
        prompt = prompts.errand(self.bench.worker, direction)
        in_pane = self.terminal is not None
        self.log_began = self._log_bytes()
        self._clear_pane()
        errand = Errand(prompt, folder, in_pane, os.geteuid() == 0)
        try:
            environment = self.environment
            self.agent.prepare(folder, environment)
            self.process.start(self.agent.argv(errand), environment)
        except SwarmError as error:
            self._park(f"{error}; {error.hint}", None)
            return
        self.pid, self.active, self.limited_until = self.process.pid, now, None
        self.fresh_starts = self.state.fresh_starts
        if cli and self.terminal:
            self.watch = ScreenWatch(cli, self.terminal, prompt, self._news, _local_now, now)
        self._event("started", f"pid {self.pid}")

    def _clear_pane(self) -> None:
        """A new CLI is not to be judged by what its predecessor left on the screen."""
        try:
            if self.terminal:
                self.terminal.clear()
        except SwarmError as error:
            self._was_blind(error)

    def _attend(self, now: float) -> None:
        waits, signs = self._waits(), self._signs()
        if not waits or signs != self.signs or self._rests():
            self.active, self.signs = now, signs
        if self._wants_fresh_start(waits) and not self._is_taken(now):
            self._event("exited", "starts afresh: nothing was kept for a while")
            self.end()
            return
        if self.watch and now >= self.blind_until:
            self._look(self.watch, now, waits)
        if self.process.running and waits and now - self.active > STALLED:
            self._restart(now, f"no experiment for {STALLED / 3600:g} h")

    def _look(self, watch: ScreenWatch, now: float, waits: bool) -> None:
        if self.limited_until and not self.state.parked:
            self.limited_until = None  # a person resumed the worker
            watch.try_now()
        try:
            finding = self.finding = watch.look(now, self._log_bytes(), waits)
        except SwarmError as error:  # where the pane goes, so shall we, as its leader
            self._was_blind(error)
            return
        if finding.nudged:
            log.info("nudged: %s", finding.nudged)
            self._event("nudged", finding.nudged)
        self._note_limit(finding)
        if finding.hopeless:
            self._restart(now, self._last_words())

    def _note_limit(self, finding: Finding) -> None:
        """Journal that a usage limit holds it up, and until when, and that it does no more."""
        until = finding.until
        if finding.state == "limit" and until and until != self.limited_until:
            if until > utc_now():
                self.limited_until = until
                self._event("parked", finding.reason, until=until)
        elif finding.state != "limit" and self.limited_until:
            self.limited_until = None
            if self.state.parked:
                self._event("started", "its usage limit is over")

    def _wants_fresh_start(self, waits: bool) -> bool:
        """Whether its worker has turned to another direction, and it is at its prompt."""
        turned = self.state.fresh_starts > self.fresh_starts
        return bool(turned and waits and self.finding and self.finding.state == "prompt")

    def _is_taken(self, now: float) -> bool:
        """Whether a person is at its pane, as far as that can be told."""
        try:
            return now < self.blind_until or bool(self.watch and self.watch.is_taken(now))
        except SwarmError as error:
            self._was_blind(error)
            return True

    def _was_blind(self, error: SwarmError) -> None:
        log.warning("%s", error)
        self.blind_until = self.clock() + _BLIND_SECONDS

    # ---- ends ------------------------------------------------------------------------------

    def _restart(self, now: float, why: str) -> None:
        """End an agent that does nothing; it is started again after its backoff.

        Not under the hands of a person, who has an hour more.
        """
        if self._is_taken(now):
            self.active = now
            return
        self.end()
        self.process.failed(now)
        self.watch = self.finding = None
        self._event("exited", why)
        self._park_when_hopeless(why, None)

    def _park_when_hopeless(self, words: str, code: int | None) -> None:
        if self.process.hopeless:
            times = self.process.fruitless_exits
            self._park_as_asked(f"the agent exited {times} times: {words}", None, code)

    def _park_as_asked(self, reason: str, until: datetime | None, code: int | None) -> None:
        """Park it until a time of its own choice, or else for ever longer and then for good."""
        worked = bool(self.state.experiments)
        self._park(reason, self.parking.until(until, worked, utc_now()), code)

    def _park(self, reason: str, until: datetime | None, code: int | None = None) -> None:
        self.end()
        self.watch = self.finding = None
        self._event("parked", reason, code, until)

    def _event(
        self, state: records.AgentState, reason: str, code: int | None = None,
        until: datetime | None = None,
    ) -> None:  # fmt: skip
        reason = self.bench.scrubber.scrub(reason)
        self.bench.journal.append(
            records.AgentEvent(
                worker=self.bench.worker, state=state, reason=reason, exit_code=code, until=until
            )
        )
        self.bench.board.refresh()

    # ---- what is known of it ---------------------------------------------------------------

    def _waits(self) -> bool:
        """Whether it is the agent's turn."""
        return not self._has_work() and not self.state.paused

    def _has_work(self) -> bool:
        """Whether an experiment of its own trains or is queued."""
        trial = self.bench.board.trials.get(self.state.open_trial or "")
        training = trial is not None and trial.purpose == "experiment"
        return training or bool(self.state.queue)

    def _signs(self) -> tuple[Saying | None, datetime | None]:
        """What an agent that reports says of itself: a slow model may think for hours."""
        return self.mailbox.said(self.pid), self.state.spent_at

    def _rests(self) -> bool:
        """Whether the agent waits for something that only time brings."""
        said = self.mailbox.said(self.pid)
        limited = self.finding is not None and self.finding.state == "limit"
        return (
            limited
            or self.state.parked is not None
            or (said is not None and said.state == "waiting")
        )

    def _news(self) -> str:
        """What to tell an agent that sits at its prompt."""
        worker, claims = self.bench.worker, reversed(self.bench.board.claims.values())
        last = next((claim.experiment for claim in claims if claim.worker == worker), None)
        if last is None:
            return prompts.news("")
        verdict = self.bench.board.entry(last).kind
        return prompts.news(f"Your last experiment, {last}, has its verdict: {verdict}.")

    def _limit(self, code: int) -> Finding | None:
        """The usage limit that a CLI has just ended upon, if it was that."""
        if self.finding and self.finding.state == "limit":
            return self.finding
        if self.agent.cli is None or code == 0:
            return None
        log = last_lines(self._log, _LOG_LINES, self.log_began)
        return limit_upon(self.agent.cli, log, _local_now())

    def _last_words(self) -> str:
        """Why it ends, and what to do; the log of a screen is full of what was drawn over."""
        if self.finding is None or not self.finding.reason:
            return last_words_of(self._log)
        if self.finding.state != "login" or self.agent.cli is None:
            return self.finding.reason
        then = f"log in with `{self.agent.cli.program}`, then `swarm resume {self.bench.worker}`"
        return f"{self.finding.reason}; {then}"

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def doing(self) -> tuple[str, str]:
        """What the agent does, in a word for scripts and in one line for people."""
        state = self.state
        if state.parked:
            end = state.parked_until
            until = f"until {hour(end, utc_now())}: " if end else ""
            return "parked", f"{until}{state.parked}"  # what does not fit on a line is cut off
        if not self.process.running and self.over:
            return "ended", "the swarm starts no further experiment"
        if not self.process.running:
            return "starting", "the agent is started again soon"
        said = self.mailbox.said(self.pid)
        if self.finding and self.finding.state != "working":
            return self.finding.state, self.finding.reason
        if self.finding and self.finding.trouble:
            return "working", f"the agent's model fails: {self.finding.trouble}"
        if said and said.state == "waiting":  # one that wants to be parked is not yet
            return said.state, f"the agent waits: {said.reason}"
        aim = self.bench.board.workforce.direction_of(self.bench.worker)
        into = f" ({name_of(aim)})" if aim and self.agent.asks is not None else ""
        return "working", f"the agent proposes a change{into}"


def _local_now() -> datetime:
    return utc_now().astimezone()  # CLIs tell local times


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
