"""What other people's CLIs spend, read from the session files that they write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from swarm.agents.transcripts.calls import Call, Cli, Session, Tokens
from swarm.agents.transcripts.claude import Claude
from swarm.agents.transcripts.codex import Codex
from swarm.agents.transcripts.gemini import Gemini
from swarm.errors import SwarmError


@dataclass(frozen=True)
class Spent:
    """What was asked of one model since the last look; the tokens are those of `Tokens`."""

    model: str
    calls: int
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    hour_tokens: int = 0


class _File:
    """A session file and how far it was read."""

    def __init__(self, path: str, session: Session) -> None:
        self.path, self.session = path, session
        self._offset = self._size = 0

    def calls(self) -> Iterator[Call]:
        """What has come since the last time; a damaged line is passed over, a torn tail waits."""
        size = os.stat(self.path).st_size
        if size == self._size:
            return
        if size < self._offset:
            self._offset = size  # rewritten, and what was in it has been counted
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                try:
                    call = self.session.read(line)
                except msgspec.DecodeError:
                    continue
                if call is not None:
                    yield call
        self._size = size


class Transcripts:
    """The sessions of one kind of CLI in one worktree."""

    def __init__(self, cli: Cli, worktree: Path, since: datetime) -> None:
        """Calls before `since`, which has a time zone, are not counted."""
        self._cli, self._worktree, self._since = cli, worktree.resolve(), since
        self._files: dict[str, _File] = {}
        self._foreign: set[str] = set()
        self._here: dict[str, bool] = {}
        self._counted: dict[str, Tokens] = {}
        self._spent: dict[str, tuple[int, Tokens]] = {}

    def news(self) -> list[Spent]:
        """What was spent since the last look, by model.

        Raises `SwarmError` where a session file cannot be read; nothing is lost by that.
        """
        for call in self._calls():
            known = self._counted.get(call.id, Tokens())
            new = call.tokens.beyond(known)
            if call.id:
                self._counted[call.id] = known.plus(new)
            if new != Tokens() and (call.when is None or call.when >= self._since):
                calls, tokens = self._spent.get(call.model, (0, Tokens()))
                self._spent[call.model] = calls + (known == Tokens()), tokens.plus(new)
        spent, self._spent = sorted(self._spent.items()), {}
        return [Spent(model, calls, *tokens) for model, (calls, tokens) in spent]

    def _calls(self) -> Iterator[Call]:
        try:
            for path in self._paths():
                try:
                    yield from self._calls_in(path)
                except FileNotFoundError:
                    continue  # the CLI has cleaned up
        except OSError as error:
            raise SwarmError(f"{error.filename} cannot be read: {error.strerror}") from error

    def _paths(self) -> Iterator[str]:
        for top in self._cli.folders(self._worktree):
            for folder, _, names in os.walk(top):
                paths = (f"{folder}/{name}" for name in names if name.endswith(".jsonl"))
                yield from (path for path in paths if path not in self._foreign)

    def _calls_in(self, path: str) -> Iterator[Call]:
        file = self._files.get(path)
        if file is None:
            if os.stat(path).st_mtime < self._since.timestamp() - 1:
                return
            file = self._files[path] = _File(path, self._cli.session(self._worktree))
        for call in file.calls():
            if self._is_here(file.session.cwd):
                yield call
        if not self._is_here(file.session.cwd):
            self._foreign.add(path)
            del self._files[path]

    def _is_here(self, cwd: str | None) -> bool:
        """Whether a session began in the worktree or a folder of it, as far as is known."""
        if cwd is None:
            return True
        if cwd not in self._here:
            self._here[cwd] = Path(cwd).resolve().is_relative_to(self._worktree)
        return self._here[cwd]


_CLIS: dict[str, Callable[[Mapping[str, str]], Cli]] = {
    "claude": Claude,
    "codex": Codex,
    "gemini": Gemini,
}


def watch(
    kind: str, worktree: Path, environment: Mapping[str, str], since: datetime
) -> Transcripts | None:
    """The transcripts of an agent `kind` in `worktree`; `None` where nobody knows how to read them.

    `environment` is the agent's own: it may say where its CLI keeps its files.
    """
    if kind not in _CLIS:
        return None
    return Transcripts(_CLIS[kind](environment), worktree, since)
