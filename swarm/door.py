"""The agent's side of an experiment: submit the worktree's train.py and wait for the answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from swarm.config import EVALUATOR, TRAINER, Desk, read_desk
from swarm.errors import REFUSED, Refused, SwarmError
from swarm.locks import is_held
from swarm.mailbox import Answer, Mailbox, Saying
from swarm.paths import Paths
from swarm.worktree import Worktree

_POLL_SECONDS = 0.02
_RUNNER_PATIENCE_SECONDS = 20.0


class Door:
    """What an agent in `worktree` may ask of its runner."""

    def __init__(self, worktree: Path) -> None:
        desk = read_desk(worktree / ".swarm" / "worker.json")
        self.desk: Desk = desk
        self.worktree = worktree
        self._paths = Paths(Path(desk.root), desk.tag)
        self._mailbox = Mailbox(worktree)

    def submit(self, description: str) -> str:
        """Submit train.py as it lies there; return the request's id.

        Raises `Refused` when another tracked file was changed.
        """
        checkout = Worktree(self.worktree, self._paths.branch(self.desk.worker))
        source = checkout.source()
        if source is None:
            raise Refused(f"{TRAINER} is missing or no text", f"git checkout -- {TRAINER}")
        others = [name for name in checkout.changed_files() if name != TRAINER]
        if others:
            raise Refused(
                f"only {TRAINER} may be changed, not {', '.join(others[:3])}",
                f"undo it: git restore --staged --worktree {others[0]}"
                + (f" ({EVALUATOR} is fixed)" if EVALUATOR in others else ""),
            )
        return self._mailbox.submit(checkout.head(), description, source)

    def offer(self, base: str, description: str, source: str) -> str:
        """Submit a changed train.py that lies nowhere, made from that of `base`, a commit."""
        return self._mailbox.submit(base, description, source)

    def note(self, text: str) -> Answer:
        return self._checked(self._mailbox.note(text))

    def spend(self, model: str, calls: int, tokens: Sequence[int]) -> None:
        """Report tokens used: input, cached, written, output, and of the written those kept for
        an hour. Nobody waits for an answer.
        """
        self._mailbox.spend(model, calls, tokens)

    def say(
        self,
        state: Literal["working", "waiting", "parked"],
        reason: str,
        until: float | None = None,
    ) -> None:
        """Tell what this process does, for `swarm status`."""
        self._mailbox.say(Saying(os.getpid(), state, reason, until))

    def sync(self) -> Answer:
        """Take the current base. Raises `Refused` when edits would be lost."""
        return self._checked(self._mailbox.ask_sync())

    def last_request(self) -> str:
        request = self._mailbox.last_request()
        if request is None:
            raise Refused("nothing was submitted from this worktree yet", "swarm eval -m '…'")
        return request

    def answer(self, request: str) -> Answer | None:
        return self._mailbox.read_answer(request)

    def wait_accepted(self, request: str) -> Answer:
        """Wait until the runner has taken the submission. Raises what it was refused with."""
        return self._checked(request)

    def wait_done(
        self,
        request: str,
        timeout: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Answer:
        """Wait for the verdict, at most `timeout` seconds; the answer may then still be queued.

        `meanwhile` is called again and again, many times a second.
        """

        def enough(found: Answer) -> bool:
            if meanwhile is not None:
                meanwhile()
            return found.state != "queued"

        return _raised(self._wait(request, enough, timeout))

    def _checked(self, request: str) -> Answer:
        return _raised(self._wait(request, lambda _: True, None))

    def _wait(
        self, request: str, enough: Callable[[Answer], bool], timeout: float | None
    ) -> Answer:
        started = alive = time.monotonic()
        while True:
            answer = self._mailbox.read_answer(request)
            now = time.monotonic()
            if answer and (enough(answer) or (timeout is not None and now - started >= timeout)):
                return answer
            if timeout is not None and now - started >= timeout:
                return Answer(id=request, state="queued", verdict="candidate", reason="in the box")
            if now - alive > 1.0 and is_held(self._paths.worker_lock(self.desk.worker)):
                alive = now
            if now - alive > _RUNNER_PATIENCE_SECONDS:
                raise SwarmError(
                    f"the runner of {self.desk.worker} is not running, so nobody answers",
                    f"start it again: swarm recover --tag {self.desk.tag}; the request is kept",
                )
            time.sleep(_POLL_SECONDS)


def _raised(answer: Answer) -> Answer:
    if answer.state == "refused":
        raise (Refused if answer.exit_code == REFUSED else SwarmError)(answer.reason, answer.hint)
    return answer
