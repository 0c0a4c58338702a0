"""The door between an agent and its runner: requests and answers in the worktree's `.swarm/`.

An agent needs no right outside its worktree, and cannot write the leaderboard. A request is a file
that appears whole (rename); the doorbell (a FIFO) wakes the runner at once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from swarm.config import Desk
from swarm.disk import write_whole
from swarm.errors import SwarmError

_ANSWERS_KEPT = 64


class Submission(msgspec.Struct, frozen=True, tag="eval"):
    """Try this whole train.py; `base` is the commit the worktree was on."""

    id: str
    base: str
    description: str
    source: str


class NoteRequest(msgspec.Struct, frozen=True, tag="note"):
    """Share this text with all workers."""

    id: str
    text: str


class SyncRequest(msgspec.Struct, frozen=True, tag="sync"):
    """Move this worktree onto the incumbent now, if nothing in it would be lost."""

    id: str


class SpendRequest(msgspec.Struct, frozen=True, tag="spend"):
    """So many calls of a model, and tokens, were used since the agent last said so.

    `hour_tokens` of the written ones are kept for an hour, at a price of its own.
    """

    id: str
    model: str
    calls: int
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    hour_tokens: int = 0


Request = Submission | NoteRequest | SyncRequest | SpendRequest


class Saying(msgspec.Struct, frozen=True):
    """What an agent, process `pid`, says of itself: what it does, or why it does nothing.

    One that is `parked` wants to be started again at the Unix time `until`; where it cannot know
    when that makes sense, by a person.
    """

    pid: int
    state: Literal["working", "waiting", "parked"]
    reason: str
    until: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request so far. `exit_code` is the one `swarm eval` should end with.

    `base` is the commit that the worktree is on when the answer is final.
    """

    id: str
    state: Literal["queued", "done", "refused"]
    experiment: str | None = None
    verdict: str | None = None
    reason: str = ""
    hint: str = ""
    val_bpb: float | None = None
    incumbent_val_bpb: float | None = None
    commit: str | None = None
    base: str | None = None
    exit_code: int = 0


class Mailbox:
    """The `.swarm/` folder of one worktree; git ignores it by its own `.gitignore`."""

    def __init__(self, worktree: Path) -> None:
        self.folder = worktree / ".swarm"
        self._requests = self.folder / "requests"
        self._answers = self.folder / "answers"
        self._doorbell = self.folder / "doorbell"
        self._saying = self.folder / "agent.json"

    # ---- the runner's side -----------------------------------------------------------------

    def create(self, desk: Desk) -> None:
        for folder in (self._requests, self._answers):
            folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        write_whole(self.folder / "worker.json", msgspec.json.encode(desk))
        if not self._doorbell.is_fifo():
            self._doorbell.unlink(missing_ok=True)
            os.mkfifo(self._doorbell)

    def exists(self) -> bool:
        files = (self._doorbell, self.folder / "worker.json", self.folder / ".gitignore")
        folders = (self._requests, self._answers)
        return all(path.exists() for path in files) and all(path.is_dir() for path in folders)

    def open_doorbell(self) -> int:
        """A descriptor that becomes readable when a request arrives."""
        return os.open(self._doorbell, os.O_RDWR | os.O_NONBLOCK)

    def requests(self) -> list[Request | Answer]:
        """The requests that wait, oldest first; an unreadable one comes as its refusal."""
        found = self.waiting()
        found.sort(key=lambda entry: entry.stat().st_mtime_ns)
        return [_decode(Path(entry.path)) for entry in found]

    def waiting(self) -> list[os.DirEntry[str]]:
        """The files of requests, in no order."""
        if not self._requests.is_dir():  # somebody is cleaning up in there
            return []
        return [
            entry
            for entry in os.scandir(self._requests)
            if entry.name.endswith(".json") and entry.is_file()
        ]

    def said(self, pid: int | None) -> Saying | None:
        """What the agent process `pid` last said of itself; only a view, so a torn one is none."""
        try:
            saying = msgspec.json.decode(self._saying.read_bytes(), type=Saying)
        except (OSError, msgspec.DecodeError):
            return None
        return saying if saying.pid == pid else None

    def answer(self, answer: Answer) -> None:
        """Leave the answer and, with it, take the request away."""
        write_whole(self._answers / f"{answer.id}.json", msgspec.json.encode(answer))
        (self._requests / f"{answer.id}.json").unlink(missing_ok=True)
        if answer.state != "queued":
            self._prune()

    def _prune(self) -> None:
        answers = sorted(self._answers.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in answers[:-_ANSWERS_KEPT]:
            path.unlink(missing_ok=True)

    # ---- the agent's side ------------------------------------------------------------------

    def submit(self, base: str, description: str, source: str) -> str:
        """Leave a submission and ring; return its id."""
        return self._send("eval", lambda name: Submission(name, base, description, source))

    def note(self, text: str) -> str:
        return self._send("note", lambda name: NoteRequest(name, text))

    def spend(self, model: str, calls: int, tokens: Sequence[int]) -> str:
        """Report tokens: input, read from the provider's cache, written to it, output, hour."""
        return self._send("spend", lambda name: SpendRequest(name, model, calls, *tokens))

    def say(self, saying: Saying) -> None:
        write_whole(self._saying, msgspec.json.encode(saying))

    def ask_sync(self) -> str:
        return self._send("sync", SyncRequest)

    def read_answer(self, request: str) -> Answer | None:
        try:
            data = (self._answers / f"{request}.json").read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(data, type=Answer)

    def last_request(self) -> str | None:
        """The id of the newest submission that has an answer or waits for one."""
        found = [*self._requests.glob("eval-*.json"), *self._answers.glob("eval-*.json")]
        newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
        return newest.stem if newest else None

    def _send(self, kind: str, build: Callable[[str], Request]) -> str:
        request = build(f"{kind}-{uuid.uuid4().hex[:12]}")
        if not self._requests.is_dir():
            raise SwarmError(
                f"{self.folder} is gone, so the runner cannot be asked", "run: swarm recover"
            )
        write_whole(self._requests / f"{request.id}.json", msgspec.json.encode(request))
        self._ring()
        return request.id

    def _ring(self) -> None:
        try:
            bell = os.open(self._doorbell, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return  # no runner listens now; it looks at the folder when it starts
        try:
            os.write(bell, b"!")
        except BlockingIOError:
            return  # the bell is ringing already
        finally:
            os.close(bell)


def _decode(path: Path) -> Request | Answer:
    try:
        request: Request = msgspec.json.decode(path.read_bytes(), type=Request)
        if request.id == path.stem:
            return request
        why = "its id is not its file's name"
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        why = str(error)
    return Answer(
        id=path.stem,
        state="refused",
        reason=f"the request is damaged: {why}",
        hint="submit with swarm eval",
        exit_code=3,
    )
