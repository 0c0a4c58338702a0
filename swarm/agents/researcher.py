"""The built-in coding agent: a loop of ideas, each a short conversation with a language model.

An idea begins with a brief of the search and ends with a submission. Nothing is carried over but
what the journal holds, so the thousandth idea costs what the first did.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import astuple
from typing import NoReturn

from swarm.agents import prompts
from swarm.agents.models.chat import (
    Answered,
    BadRequest,
    Busy,
    Call,
    OutOfQuota,
    Provider,
    ProviderError,
    Rejected,
    Replied,
    Reply,
    Result,
    Said,
    TooLong,
    Turn,
    Usage,
)
from swarm.agents.session import Session
from swarm.agents.toolbox import TOOLS, Toolbox
from swarm.errors import SwarmError
from swarm.journal import utc_now
from swarm.views import brief

MOST_REPLIES = 30
"""An idea that needs more is given up."""
MOST_ERRORS = 8
"""So many calls in a row that fail, and the idea is given up: tokens are money."""
MOST_TOKENS = 300_000
"""Of an idea that leads to nothing, without those that came from the provider's cache."""
MOST_SILENT = 2
"""So often in an idea the model is told to use its tools."""
LONGEST_WAIT = 120.0
"""Seconds. For longer the process ends and is started again: it needs no memory."""
MOST_FAILURES = 10
"""So many in a row, over about a quarter of an hour, and the agent is parked for a while."""
_FIRST_WAIT, _PARKED_FOR, _NO_QUOTA_FOR = 1.0, 900.0, 3600.0
_REPORT_EVERY = 30.0
_POLL_SECONDS = 0.5


class Screen:
    """The pane as a person sees it: thoughts as they come, then what was done; never a key."""

    def __init__(
        self, write: Callable[[str], None], colour: bool, scrub: Callable[[str], str] = str
    ) -> None:
        self._write, self._colour, self._scrub = write, colour, scrub
        self._held, self._at_line_start = "", True

    def stream(self, text: str) -> None:
        """Show more of a text; a word is held back until it is whole, since it may be a key."""
        text = self._held + text
        whole = max(text.rfind(" "), text.rfind("\n")) + 1
        self._held = text[whole:]
        self._show(text[:whole])

    def line(self, text: str, colour: str = "") -> None:
        self._show(self._held)
        self._held = ""
        start = "" if self._at_line_start else "\n"
        shown = _safe(self._scrub(text))
        if self._colour and colour:
            shown = f"\x1b[{colour}m{shown}\x1b[0m"
        self._write(f"{start}{shown}\n")
        self._at_line_start = True

    def _show(self, text: str) -> None:
        if text:
            self._write(_safe(self._scrub(text)))
            self._at_line_start = text.endswith("\n")


class Parked(SwarmError):
    """The agent has to wait longer than is worth a process."""


class Researcher:
    """Pursues ideas until it is ended. Clock (Unix seconds) and sleep are arguments."""

    def __init__(
        self,
        session: Session,
        provider: Provider,
        screen: Screen,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.session, self.provider, self.screen = session, provider, screen
        self._clock, self._sleep = clock, sleep
        self._calls, self._usage, self._reported = 0, Usage(), clock()
        self._fruitless, self._outages = 0, 0
        self._open: list[str] = []
        self._idea = Usage()

    def run(self) -> NoReturn:
        """Raises `Parked` when there is no point in going on now."""
        try:
            while True:
                self._await_turn()
                self.pursue()
        finally:
            self._report()

    def pursue(self) -> str | None:
        """Pursue one idea; return the experiment that came of it, if any."""
        toolbox = Toolbox(self.session, self._report)
        turns: list[Turn] = [Said(self._brief())]
        self._idea = Usage()
        context = prompts.context(self.session.program(), toolbox.draft.original)
        silent = 0
        self.session.door.say("working", "thinks of a change")
        why = SwarmError(f"no submission in {MOST_REPLIES} replies")
        for _ in range(MOST_REPLIES):
            if self._is_over():
                return None
            if _fresh(self._idea) > MOST_TOKENS:
                why = SwarmError(f"no submission in {MOST_TOKENS:,} tokens")
                break
            try:
                reply = self._ask(context, turns)
            except (TooLong, BadRequest) as error:
                why = error
                break
            turns.append(Replied(reply))
            if reply.stop == "refusal":
                why = SwarmError(f"the model refuses: {reply.text[:200]}")
                break
            if reply.calls:
                turns.append(Answered(tuple(self._use(toolbox, call) for call in reply.calls)))
                if toolbox.submitted is not None:
                    self._fruitless = 0
                    self._open.append(toolbox.submitted.experiment or "")
                    return toolbox.submitted.experiment
                if toolbox.errors >= MOST_ERRORS:
                    why = SwarmError(f"{MOST_ERRORS} calls in a row failed")
                    break
            elif silent < MOST_SILENT:
                silent += 1
                turns.append(Said(prompts.reminder(reply.stop)))
            else:
                why = SwarmError("the model calls no tools")
                break
        self._gave_up(why)
        return None

    def _is_over(self) -> bool:
        board = self.session.board
        if board.refresh():
            self._show_verdicts()
        return bool(board.stopping or board.exhausted(utc_now()))

    # ---- the model -------------------------------------------------------------------------

    def _ask(self, context: str, turns: list[Turn]) -> Reply:
        """The next reply, asked for until the provider has time."""
        while True:
            try:
                reply = self.provider.reply(
                    prompts.SYSTEM, context, TOOLS, turns, self.screen.stream
                )
            except Busy as error:
                self._pay(error.usage)
                self._back_off(error)
                continue
            except OutOfQuota as error:
                self._park(error, error.retry_after or _NO_QUOTA_FOR)
            except Rejected as error:
                self._park(error, None)
            self._outages = 0
            self._pay(reply.usage)
            self.screen.line("")
            return reply

    def _pay(self, usage: Usage | None) -> None:
        """Remember what a reply cost; tell the runner now and then."""
        if usage is None:
            return
        self._calls, self._usage = self._calls + 1, self._usage + usage
        self._idea = self._idea + usage
        if self._clock() - self._reported > _REPORT_EVERY:
            self._report()

    def _use(self, toolbox: Toolbox, call: Call) -> Result:
        self.screen.line(f"→ {_shown(call)}", "36")
        result = toolbox.run(call)
        first = result.text.partition("\n")[0][:200]
        self.screen.line(f"  {first}", "31" if result.is_error else "2")
        return result

    def _report(self) -> None:
        """Tell what was used, so that it counts for the experiment that is submitted next."""
        if self._calls:
            tokens = astuple(self._usage)
            self.session.door.spend(self.provider.model, self._calls, tokens)
        self._calls, self._usage, self._reported = 0, Usage(), self._clock()

    # ---- when it does not work -------------------------------------------------------------

    def _gave_up(self, why: SwarmError) -> None:
        """An idea came to nothing; several in a row make us wait."""
        self.screen.line(f"{why}: gives this idea up", "33")
        self._fruitless += 1
        if self._fruitless >= MOST_FAILURES:
            self._park(why, _PARKED_FOR)
        if self._fruitless > 1:
            self._wait(_FIRST_WAIT * 2.0**self._fruitless, str(why))

    def _back_off(self, error: ProviderError) -> None:
        self._outages += 1
        wait = error.retry_after
        if wait is None:
            wait = min(LONGEST_WAIT, _FIRST_WAIT * 2.0**self._outages)
            wait *= random.uniform(0.5, 1.0)  # not all workers at the same moment
        if wait > LONGEST_WAIT or self._outages >= MOST_FAILURES:
            self._park(error, max(wait, _PARKED_FOR if self._outages >= MOST_FAILURES else 0.0))
        self._wait(wait, str(error))
        self.session.door.say("working", "thinks of a change")

    def _wait(self, seconds: float, why: str) -> None:
        self.screen.line(f"{why}; waits {seconds:.0f} s", "33")
        self.session.door.say("waiting", f"{why}; asks again soon", self._clock() + seconds)
        self._sleep(seconds)

    def _park(self, error: SwarmError, seconds: float | None) -> NoReturn:
        until = None if seconds is None else self._clock() + seconds
        self.session.door.say("parked", str(error), until)
        raise Parked(str(error), error.hint) from error

    # ---- the swarm -------------------------------------------------------------------------

    def _await_turn(self) -> None:
        """Wait while an experiment of ours is queued: the next idea should know what came of it."""
        board, worker, said = self.session.board, self.session.worker, ""
        while True:
            over, why = self._is_over(), ""
            state = board.workers[worker]
            if over:
                why = "the swarm is ending"
            elif state.paused:
                why = "this worker is paused"
            elif state.queue:
                why = f"{next(iter(state.queue))} waits for the device"
            if not why:
                return
            if why != said:
                self._report()
                self.screen.line(f"{why} …", "2")
                self.session.door.say("waiting", why)
                said = why
            self._sleep(_POLL_SECONDS)

    def _show_verdicts(self) -> None:
        """Show how our experiments went, once it is known."""
        for name in list(self._open):
            entry = self.session.board.entry(name)
            if entry.kind != "candidate":
                self._open.remove(name)
                score = f" {entry.estimate.mean:.6f}" if entry.estimate else ""
                colour = {"keep": "32", "discard": "2"}.get(entry.kind, "31")
                self.screen.line(f"● {name} {entry.kind}{score}: {entry.reason}", colour)

    def _brief(self) -> str:
        self.session.board.refresh()
        text = brief.build(self.session.board, self.session.worker, self.session.source_of)
        self.screen.line(f"—— {utc_now():%H:%M} a new idea", "1")
        return prompts.opening(text)


def _fresh(usage: Usage) -> int:
    return usage.input_tokens + usage.written_tokens + usage.output_tokens


def _shown(call: Call) -> str:
    """A call in a line or two, for who watches."""
    values = {name: str(value) for name, value in call.arguments.items()}
    if call.name == "edit" and {"old", "new"} <= values.keys():
        removed, added = values["old"].splitlines(), values["new"].splitlines()
        lines = [f"- {line}" for line in removed[:12]] + [f"+ {line}" for line in added[:12]]
        return "\n  ".join([f"edit ({len(removed)} → {len(added)} lines)", *lines])
    told = ", ".join(
        value if len(value) < 200 else f"{len(value)} characters" for value in values.values()
    )
    return f"{call.name} {told}".rstrip()


def _safe(text: str) -> str:
    """What a model says cannot steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "·" for c in text)
