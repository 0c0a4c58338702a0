"""The sessions of Codex, as version 0.169 and older ones write them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from swarm import config
from swarm.agents.transcripts.calls import Call, Count, Session, Tokens, When

_FORKING = timedelta(seconds=1)
"""For so long after its start a forked session holds only what it copied."""


class _CodexUsage(msgspec.Struct):
    """Input contains what was read from a cache and written to one; output contains thoughts."""

    input_tokens: Count = 0
    cached_input_tokens: Count = 0
    cache_write_input_tokens: Count = 0
    output_tokens: Count = 0

    def tokens(self) -> Tokens:
        read, wrote = self.cached_input_tokens or 0, self.cache_write_input_tokens or 0
        fresh = max(0, (self.input_tokens or 0) - read - wrote)
        return Tokens(fresh, read, wrote, self.output_tokens or 0)


class _CodexInfo(msgspec.Struct):
    total_token_usage: _CodexUsage | None = None


class _CodexPayload(msgspec.Struct):
    """What is looked at in any of the kinds of line."""

    type: str = ""
    id: str = ""
    cwd: str | None = None
    forked_from_id: str | None = None
    model: str | None = None
    info: _CodexInfo | None = None
    thread_id: str = ""
    usage: _CodexUsage | None = None


class _CodexKind(msgspec.Struct):
    type: str = ""
    timestamp: When | None = None
    payload: msgspec.Raw = msgspec.Raw(b"{}")


class _CodexSession:
    """A forked session, as a subagent's is, may begin with a copy of its parent's lines.

    Newer versions write a record of every answer, with the session it is of; older ones only the
    sum so far, so a copy is told by its times: all those of the moment of the fork.
    """

    def __init__(self) -> None:
        self.cwd: str | None = None
        self._id = self._model = ""
        self._copied_until: datetime | None = None
        self._has_records = False
        self._total = Tokens()
        self._kinds = msgspec.json.Decoder(_CodexKind)
        self._payloads = msgspec.json.Decoder(_CodexPayload)

    def read(self, line: bytes) -> Call | None:
        kind = self._kinds.decode(line)
        if kind.type not in ("session_meta", "turn_context", "token_usage_record", "event_msg"):
            return None
        if kind.type == "event_msg" and b'"token_count"' not in line:
            return None
        payload = self._payloads.decode(kind.payload)
        if kind.type == "session_meta" and not self._id:
            self._id, self.cwd = payload.id, payload.cwd
            if payload.forked_from_id and kind.timestamp:
                self._copied_until = kind.timestamp + _FORKING
        elif kind.type == "turn_context":
            self._model = payload.model or self._model
        elif kind.type == "token_usage_record" and payload.usage and payload.thread_id == self._id:
            self._has_records = True
            return Call("", kind.timestamp, self._model, payload.usage.tokens())
        elif kind.type == "event_msg" and payload.info and payload.info.total_token_usage:
            return self._counted_up(kind.timestamp, payload.info.total_token_usage.tokens())
        return None

    def _counted_up(self, when: datetime | None, total: Tokens) -> Call | None:
        new = total.beyond(self._total if total.input >= self._total.input else Tokens())
        self._total = total
        copied = self._copied_until and when and when < self._copied_until
        return None if copied or self._has_records else Call("", when, self._model, new)


class Codex:
    """Codex's sessions, a folder for each day."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        told = environment.get("CODEX_HOME")
        self._home = Path(told) if told else config.home(environment) / ".codex"

    def folders(self, worktree: Path) -> list[Path]:
        return [self._home / "sessions"]

    def session(self, worktree: Path) -> Session:
        return _CodexSession()
