"""A coding CLI watched on its screen: dialogs answered, the prompt sent, an idle one nudged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from swarm.agents.clis import Cli
from swarm.agents.limits import reset_time
from swarm.agents.mind import UNKNOWN_LIMIT, Act, Finding, Mind
from swarm.agents.screens import Sight, limit_in, recognise

_EAGER_SECONDS, _CHANGED_SECONDS, _UNCHANGED_SECONDS = 0.2, 1.0, 5.0
_EAGER_FOR_SECONDS, _HELD_SECONDS = 60.0, 2.0


def limit_upon(cli: Cli, log: str, clock: datetime) -> Finding | None:
    """The usage limit that a CLI ended upon, told from the end of its log."""
    sight = limit_in(cli, log)
    if sight is None:
        return None
    until = reset_time(sight.reset or sight.line, clock) or clock + UNKNOWN_LIMIT
    return Finding("limit", sight.line, until)


class Screen(Protocol):
    """What is needed of a `Terminal`."""

    def screen(self) -> str: ...
    def paste(self, text: str) -> None: ...
    def press(self, *keys: str) -> None: ...
    def person_is_typing(self, now: float) -> bool: ...


class ScreenWatch:
    """Watches one CLI in its pane from its start to its end; a new start needs a new watch.

    `news` is what a nudge says; `clock` gives the time of day, aware.
    """

    def __init__(
        self,
        cli: Cli,
        terminal: Screen,
        prompt: str,
        news: Callable[[], str],
        clock: Callable[[], datetime],
        now: float,
    ) -> None:
        self._cli, self._terminal, self._news, self._clock = cli, terminal, news, clock
        self._mind = Mind(prompt, cli.is_pasted, now)
        self._sight = Sight("starting")
        self._looked_at, self._log_bytes = float("-inf"), -1
        self._hands_off_until = float("-inf")

    def look(self, now: float, log_bytes: int, waits: bool) -> Finding:
        """One round, a few times a second. Raises `SwarmError` when the pane is gone.

        `log_bytes` is the size of the pane's log: while that stays, so does the screen. `waits`
        tells that nothing of this worker trains or is queued.
        """
        is_fresh = now - self._looked_at >= self._pause(now, log_bytes)
        if is_fresh:
            self._see(now, log_bytes)
        finding, act = self._mind.decide(self._sight, now, waits, self._clock())
        if act is None:
            return finding
        if not is_fresh and now >= self._hands_off_until:
            return self.look(self._look_again(now), log_bytes, waits)
        if self._person_is_typing(now):
            return replace(finding, reason="a person is at its pane")
        self._mind.did(act, now, self._perform(act))
        return replace(finding, nudged=act.why)

    def is_taken(self, now: float) -> bool:
        """Whether a person types in its pane, or has unsent text there: it is not to be ended."""
        return self._mind.holds_draft(now) or self._person_is_typing(now)

    def _person_is_typing(self, now: float) -> bool:
        """The same of typing alone; once somebody does, not asked anew for a while."""
        if now >= self._hands_off_until:
            if not self._terminal.person_is_typing(self._clock().timestamp()):
                return False
            self._hands_off_until = now + _HELD_SECONDS
        return True

    def try_now(self) -> None:
        """Try at once whether a usage limit is over."""
        self._mind.try_now(self._clock())

    def _pause(self, now: float, log_bytes: int) -> float:
        """The time from one look at the screen to the next: looking costs a process."""
        mind = self._mind
        is_young = not mind.delivered and now - mind.started < _EAGER_FOR_SECONDS
        if mind.sending or is_young or self._sight.kind == "dialog":
            return _EAGER_SECONDS
        return _UNCHANGED_SECONDS if log_bytes == self._log_bytes else _CHANGED_SECONDS

    def _see(self, now: float, log_bytes: int) -> None:
        self._sight = recognise(self._cli, self._terminal.screen())
        self._looked_at, self._log_bytes = now, log_bytes

    def _look_again(self, now: float) -> float:
        """Nothing is done upon an old sight: have the screen looked at in any case."""
        self._looked_at = float("-inf")
        return now

    def _perform(self, act: Act) -> str:
        """Do it; return the text that was pasted."""
        if act.kind != "paste":
            self._terminal.press(*act.keys)
            return ""
        text = self._news() if act.text is None else act.text
        self._terminal.paste(text)
        return text
