"""The sessions of Gemini CLI, as version 0.61 writes them: the format is undocumented."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from swarm import config
from swarm.agents.transcripts.calls import Call, Count, Session, Tokens, When


class _GeminiTokens(msgspec.Struct):
    """Input contains what was read from a cache; thoughts are billed as output."""

    input: Count = 0
    cached: Count = 0
    output: Count = 0
    thoughts: Count = 0
    tool: Count = 0


class _GeminiLine(msgspec.Struct):
    id: str = ""
    timestamp: When | None = None
    model: str = ""
    tokens: _GeminiTokens | None = None


class _GeminiSession:
    """An answer is written anew, with the same id, whenever more of it is known."""

    def __init__(self, worktree: Path) -> None:
        self.cwd: str | None = str(worktree)
        self._decoder = msgspec.json.Decoder(_GeminiLine)

    def read(self, line: bytes) -> Call | None:
        decoded = self._decoder.decode(line)
        if decoded.tokens is None:
            return None
        told = decoded.tokens
        cached = told.cached or 0
        tokens = Tokens(
            input=max(0, (told.input or 0) - cached) + (told.tool or 0),
            cached=cached,
            output=(told.output or 0) + (told.thoughts or 0),
        )
        return Call(decoded.id, decoded.timestamp, decoded.model, tokens)


class Gemini:
    """Gemini CLI's projects, a folder each."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        told = environment.get("GEMINI_CLI_HOME")
        self._home = (Path(told) if told else config.home(environment)) / ".gemini"

    def folders(self, worktree: Path) -> list[Path]:
        """The folder of a project says in a file of its own which one it is of."""
        marks = sorted((self._home / "tmp").glob("*/.project_root"))
        return [mark.parent / "chats" for mark in marks if _names(mark, worktree)]

    def session(self, worktree: Path) -> Session:
        return _GeminiSession(worktree)


def _names(mark: Path, worktree: Path) -> bool:
    try:
        text = mark.read_text(errors="replace").strip()
    except FileNotFoundError:
        return False  # it has been cleaned up
    return bool(text) and Path(text).resolve() == worktree
