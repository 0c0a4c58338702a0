"""What is to be done about a coding CLI, decided from what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from swarm.agents.limits import reset_time
from swarm.agents.screens import Sight

State = Literal["starting", "working", "prompt", "dialog", "limit", "login", "asks"]

NUDGE_AFTER_SECONDS = (20.0, 60.0, 180.0, 540.0, 600.0)
"""Before the first nudge, and before each further one; after the last it has as long once more."""
_WAITED_SECONDS = 2.0
_PASTED_READY_SECONDS, _ARGUMENT_SECONDS = 0.2, 4.0
"""An empty prompt box stands so long before the prompt is pasted; where it was handed over on the
command line it is only pasted if it was lost there."""
_ENTER_SECONDS, _ENTER_AGAIN_SECONDS, _PASTE_AGAIN_SECONDS = 0.25, 0.8, 1.5
_ENTERS, _PASTES = 4, 3
_ANSWER_AGAIN_SECONDS, _ANSWERS = 3.0, 12
"""A key that was taken late must not answer the next dialog."""
_SETTLED_SECONDS = 1.0
_START_SECONDS, _FROZEN_SECONDS, _PATIENCE_SECONDS = 180.0, 60.0, 600.0
UNKNOWN_LIMIT, _LIMIT_AGAIN = timedelta(minutes=30), timedelta(minutes=5)
_OURS_CHARACTERS = 20
_DRAFT_SECONDS = 3600.0
"""What a person typed and did not send is kept for so long."""


@dataclass(frozen=True)
class Finding:
    """What a look found: `reason` is one line for people, `until` when a usage limit ends.

    `nudged` is what was just done about it, `trouble` what the CLI says of a server that fails.
    `hopeless`: nothing more helps but to start it again.
    """

    state: State
    reason: str = ""
    until: datetime | None = None
    nudged: str = ""
    hopeless: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class Act:
    """What to do: press `keys`, or paste `text` (`None`: the news).

    `clock` is set where it tries whether a usage limit is over.
    """

    kind: Literal["answer", "paste", "enter"]
    why: str
    keys: tuple[str, ...] = ()
    text: str | None = None
    clock: datetime | None = None


@dataclass(frozen=True)
class Sending:
    """A text on its way into the CLI: pasted, then sent with Enter, seen to be gone."""

    act: Act
    pasted_at: float
    pastes: int = 1
    enters: int = 0
    entered_at: float = 0.0


Step = tuple[Finding, Act | None]


class Mind:
    """Decides from sights, times and memory alone. Times are seconds of one monotonic clock."""

    def __init__(self, prompt: str, is_pasted: bool, now: float) -> None:
        self.prompt, self.is_pasted, self.started = prompt, is_pasted, now
        self.delivered = False
        self.sending: Sending | None = None
        self.nudges, self.nudged_at = 0, now
        self._seen: tuple[str, str | None, str] | None = None
        self._since, self._looks = now, 0
        self._waits_since: float | None = None
        self._draft, self._drafted_at = "", now
        self._answered, self._answered_at, self._answers = Sight("unknown"), now, 0
        self._limit, self._until = "", datetime.max
        self._sent = prompt
        self._tried: datetime | None = None

    def decide(self, sight: Sight, now: float, waits: bool, clock: datetime) -> Step:
        """What is so, and what to do; whoever does it says so with `did`.

        `waits` tells that the swarm has nothing to do for the agent's device; `clock` is aware.
        """
        self._remember(sight, now, waits)
        if self.sending:
            step = self._send_on(self.sending, sight, now)
            if step:
                return step
        if sight.kind == "dialog":
            return self._answer(sight, now)
        if sight.kind in ("asks", "login"):
            return self._needs_a_person(sight, now)
        if sight.kind == "limit":
            return self._wait_for_limit(sight, clock)
        self._limit = ""
        frozen = sight.kind == "busy" and sight.draft == "" and self._still(now) > _FROZEN_SECONDS
        if sight.kind == "prompt" or frozen:
            return self._idle(sight, now) if self.delivered else self._deliver(now)
        if sight.kind == "drafted":
            return self._drafted(sight, now)
        if sight.kind == "busy":
            return Finding("working", sight.line, trouble=sight.trouble), None
        return self._unclear(sight, now), None

    def did(self, act: Act, now: float, text: str = "") -> None:
        """Remember that it was done, and what text was pasted."""
        self._sent = text or self._sent
        if act.kind == "answer":
            self._answered_at, self._answers = now, self._answers + 1
        elif act.kind == "enter" and self.sending:
            enters = self.sending.enters + 1
            self.sending = replace(self.sending, enters=enters, entered_at=now)
        elif self.sending:
            self.sending = replace(self.sending, pasted_at=now, pastes=self.sending.pastes + 1)
        else:
            self.sending = Sending(act, now)
            if act.clock:
                self._tried, self._until = act.clock, act.clock + _LIMIT_AGAIN
            elif act.text is None:
                self.nudges, self.nudged_at = self.nudges + 1, now

    def try_now(self, clock: datetime) -> None:
        """A person thinks that the usage limit is over."""
        self._until = clock

    # ---- memory ----------------------------------------------------------------------------

    def _remember(self, sight: Sight, now: float, waits: bool) -> None:
        seen = (sight.kind, sight.draft, sight.above)
        if seen != self._seen:
            self._seen, self._since, self._looks = seen, now, 0
        self._looks += 1
        if sight.draft is not None and sight.draft != self._draft:
            self._draft, self._drafted_at = sight.draft, now
        if not waits:
            self._waits_since, self.nudges = None, 0
        elif self._waits_since is None:
            self._waits_since = now
        if not self.is_pasted and (sight.kind == "busy" or sight.took):
            self.delivered = True

    def holds_draft(self, now: float) -> bool:
        """Whether a person's unsent text stands in the prompt box."""
        is_ours = self.sending or self._is_ours(self._draft)
        return bool(self._draft) and not is_ours and now - self._drafted_at <= _DRAFT_SECONDS

    def _is_ours(self, draft: str) -> bool:
        """Whether it begins like what we sent."""
        first_line = (self._sent.splitlines() or [""])[0]
        return draft[:_OURS_CHARACTERS] == first_line[:_OURS_CHARACTERS]

    def _still(self, now: float) -> float:
        """For how long nothing has changed on the screen."""
        return now - self._since

    def _waited(self, now: float) -> float:
        """For how long both nothing has changed and the device has had nothing to do."""
        return -1.0 if self._waits_since is None else min(self._still(now), now - self._waits_since)

    @property
    def _before(self) -> State:
        return "working" if self.delivered else "starting"

    # ---- what is seen ----------------------------------------------------------------------

    def _answer(self, sight: Sight, now: float) -> Step:
        """Press the next key of a dialog; the same one again only if that had no effect."""
        if sight.line != self._answered.line:
            self._answers = 0
        is_new = (sight.line, sight.keys) != (self._answered.line, self._answered.keys)
        self._answered = sight
        if self._answers >= _ANSWERS:
            return self._needs_a_person(sight, now)
        finding = Finding("dialog", sight.line)
        if not (is_new or self._answers == 0 or now - self._answered_at > _ANSWER_AGAIN_SECONDS):
            return finding, None
        return finding, Act("answer", f"pressed {' '.join(sight.keys)}: {sight.line}", sight.keys)

    def _needs_a_person(self, sight: Sight, now: float) -> Step:
        if self._still(now) < _SETTLED_SECONDS:
            return Finding(self._before, sight.line), None
        state: State = "login" if sight.kind == "login" else "asks"
        what = "a person must log it in" if state == "login" else "waits for a person"
        too_long = self._still(now) > _PATIENCE_SECONDS
        return Finding(state, f"{what}: {sight.line}", hopeless=too_long), None

    def _wait_for_limit(self, sight: Sight, clock: datetime) -> Step:
        """Wait until a usage limit ends, then try again; what it says is not read anew.

        Its line stays on the screen, and "3am" means tomorrow once it is over.
        """
        if sight.line != self._limit:
            self._limit = sight.line
            until = reset_time(sight.reset or sight.line, clock) or clock + UNKNOWN_LIMIT
            self._until = max(until, self._tried + _LIMIT_AGAIN) if self._tried else until
        finding = Finding("limit", sight.line, self._until)
        if clock < self._until or sight.draft:
            return finding, None
        if sight.draft is None:
            return replace(finding, hopeless=True), None
        return finding, Act("paste", "tried again after the usage limit", clock=clock)

    def _deliver(self, now: float) -> Step:
        patience = _PASTED_READY_SECONDS if self.is_pasted else _ARGUMENT_SECONDS
        if self._looks < 2 or self._still(now) < patience:
            return Finding("starting", "its prompt box is there"), None
        act = Act("paste", "pasted the prompt", text=self.prompt)
        return Finding("starting", "gets its prompt"), act

    def _idle(self, sight: Sight, now: float) -> Step:
        told = f": {sight.trouble}" if sight.trouble else ""
        idle = Finding("prompt", f"sits at its prompt{told}", trouble=sight.trouble)
        if self._waited(now) < _WAITED_SECONDS or self._still(now) < NUDGE_AFTER_SECONDS[0]:
            return idle, None
        wait = NUDGE_AFTER_SECONDS[min(self.nudges, len(NUDGE_AFTER_SECONDS) - 1)]
        if self.nudges and now - self.nudged_at < wait:
            return idle, None
        if self.nudges >= len(NUDGE_AFTER_SECONDS):
            reason = f"{self.nudges} nudges had no effect{told}"
            return Finding("prompt", reason, hopeless=True), None
        return idle, Act("paste", f"nudged, {self.nudges + 1} of {len(NUDGE_AFTER_SECONDS)}")

    def _drafted(self, sight: Sight, now: float) -> Step:
        """Unsent text: sent if it is ours, else a person's, left alone."""
        draft = sight.draft or ""
        if self._is_ours(draft):
            self.sending = Sending(Act("paste", "sent what stood there", text=self._sent), now)
            return Finding(self._before, "holds what it was sent"), None
        too_long = self._waited(now) > _DRAFT_SECONDS
        return Finding("prompt", f"has unsent text: {draft[:60]}", hopeless=too_long), None

    def _unclear(self, sight: Sight, now: float) -> Finding:
        lost = self._waited(now) > _PATIENCE_SECONDS
        late = not self.delivered and now - self.started > _START_SECONDS
        return Finding(self._before, sight.line, hopeless=lost or late)

    # ---- sending ---------------------------------------------------------------------------

    def _send_on(self, sending: Sending, sight: Sight, now: float) -> Step | None:
        """The next step of sending a text; `None` when it is sent, or something came between."""
        finding = Finding(self._before, "gets a text")
        if not sending.enters:
            if sight.kind in ("dialog", "asks", "login"):
                self.sending = None  # a dialog came up; what was pasted is lost or found again
                return None
            if sight.draft and now - sending.pasted_at >= _ENTER_SECONDS:
                return finding, Act("enter", "pressed Enter", ("Enter",))
            if now - sending.pasted_at < _PASTE_AGAIN_SECONDS:
                return finding, None
            if sending.pastes < _PASTES:
                return finding, replace(sending.act, why="pasted it again")
            return replace(finding, reason="takes no text", hopeless=True), None
        if not sight.draft:
            self.sending, self.delivered = None, True
            return None
        if now - sending.entered_at < _ENTER_AGAIN_SECONDS:
            return finding, None
        if sending.enters < _ENTERS:
            return finding, Act("enter", "pressed Enter again", ("Enter",))
        return replace(finding, reason="takes no Enter", hopeless=True), None
