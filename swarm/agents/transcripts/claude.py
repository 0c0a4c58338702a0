"""The sessions of Claude Code, as version 2.1 writes them: the format is undocumented."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from swarm import config
from swarm.agents.transcripts.calls import Call, Count, Session, Tokens, When

_LONGEST_NAME = 200  # it cuts the name of a project's folder there, and adds a hash


class _Kept(msgspec.Struct):
    ephemeral_1h_input_tokens: Count = 0


class _ClaudeUsage(msgspec.Struct):
    input_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_creation_input_tokens: Count = 0
    output_tokens: Count = 0
    cache_creation: _Kept | None = None


class _ClaudeMessage(msgspec.Struct):
    id: str = ""
    model: str = ""
    usage: _ClaudeUsage | None = None


class _ClaudeLine(msgspec.Struct):
    cwd: str | None = None
    timestamp: When | None = None
    message: _ClaudeMessage | None = None


class _ClaudeSession:
    """Each part of an answer is a line of its own, with the answer's id and its usage so far.

    A session that is resumed elsewhere begins with a copy of its lines, times and all.
    """

    def __init__(self) -> None:
        self.cwd: str | None = None
        self._decoder = msgspec.json.Decoder(_ClaudeLine)

    def read(self, line: bytes) -> Call | None:
        if self.cwd is not None and b'"usage"' not in line:
            return None  # most lines are what tools said
        decoded = self._decoder.decode(line)
        self.cwd = self.cwd or decoded.cwd
        message = decoded.message
        if message is None or message.usage is None:
            return None
        usage = message.usage
        written = usage.cache_creation_input_tokens or 0
        hour = usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else 0
        tokens = Tokens(
            usage.input_tokens or 0,
            usage.cache_read_input_tokens or 0,
            written,
            usage.output_tokens or 0,
            min(hour or 0, written),
        )
        return Call(message.id, decoded.timestamp, message.model, tokens)


class Claude:
    """Claude Code's projects, a folder each."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        told = environment.get("CLAUDE_CONFIG_DIR")
        self._home = Path(told) if told else config.home(environment) / ".claude"

    def folders(self, worktree: Path) -> list[Path]:
        name = _escaped(str(worktree))
        if len(name) <= _LONGEST_NAME:
            return [self._home / "projects" / name]
        return sorted((self._home / "projects").glob(f"{name[:_LONGEST_NAME]}-*"))

    def session(self, worktree: Path) -> Session:
        return _ClaudeSession()


def _escaped(path: str) -> str:
    """A path as the name of a project's folder: a dash for each UTF-16 unit but letters, digits."""
    return re.sub("[^a-zA-Z0-9]", lambda found: "-" * (1 + (found[0] > "\uffff")), path)
