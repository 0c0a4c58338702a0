"""Claude over Anthropic's Messages API."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from swarm.agents.models.chat import (
    CUT_OFF,
    MOST_TOKENS,
    Answered,
    Busy,
    Call,
    Provider,
    ProviderError,
    Replied,
    Reply,
    Result,
    Said,
    Stop,
    Tool,
    Turn,
    Usage,
)
from swarm.agents.models.failures import (
    UNREADABLE,
    Complaint,
    address,
    failure,
    silence,
    unreachable,
    usable,
    without,
)
from swarm.errors import SwarmError

try:
    import anthropic
    import httpx2
except ModuleNotFoundError as error:
    raise SwarmError(
        f"the agent anthropic needs {error.name}, which is not installed",
        "pip install 'swarm-research[llm]'",
    ) from error

NAME = "anthropic"
URL = "https://api.anthropic.com"
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 300.0
"""A stream is never silent for long: the server sends pings."""

_STOPS: dict[str, Stop] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}  # anything else ended the turn; after `pause_turn` whatever we say next continues it
_CACHED: Block = {"cache_control": {"type": "ephemeral"}}
_CACHED_FOR_AN_HOUR: Block = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
"""Trials take five minutes, as long as the cache usually lasts: what all ideas share must outlive
them. It costs 0.75 of its tokens more to write, once, and saves 1.15 of them at every idea."""

Block = dict[str, Any]


def make(
    model: str,
    base_url: str | None,
    key: str,
    silent_seconds: float = SILENT_SECONDS,
    hour: bool | None = None,
) -> Provider:
    """A model of Anthropic, or of a server at `base_url` that speaks its format.

    `hour`: whether the cache shall keep for an hour what is equal in many conversations; other
    servers may not know that.
    """
    long = base_url is None if hour is None else hour
    return _Anthropic(model, base_url, usable(key, base_url), silent_seconds, long)


class _Anthropic:
    name = NAME

    def __init__(
        self, model: str, base_url: str | None, key: str, silent_seconds: float, hour: bool
    ) -> None:
        silence()
        self._long = _CACHED_FOR_AN_HOUR if hour else _CACHED
        self.model = model
        self._key = key
        url = address(base_url or URL).removesuffix("/v1")
        self._client = anthropic.Anthropic(
            api_key=key,
            base_url=url,
            timeout=anthropic.Timeout(silent_seconds, connect=CONNECT_SECONDS),
            max_retries=0,
            # The SDK sends a bearer token; some servers that speak this format know only this.
            default_headers=None if url == URL else {"x-api-key": key},
        )

    def reply(
        self,
        system: str,
        context: str,
        tools: Sequence[Tool],
        turns: Sequence[Turn],
        show: Callable[[str], None],
    ) -> Reply:
        request: dict[str, Any] = {
            "model": self.model,
            "max_tokens": MOST_TOKENS,
            "messages": _messages(context, turns, self._long),
        }
        if system:
            request["system"] = [{"type": "text", "text": system, **self._long}]
        if tools:
            request["tools"] = [_tool(tool) for tool in tools]
        message = _Message()
        try:
            with closing(self._pieces(request, message)) as pieces:
                for piece in pieces:
                    show(piece)
            with self._translated():
                return message.reply()
        except ProviderError as error:
            error.usage = message.paid() if message.began else None
            raise

    def _pieces(self, request: dict[str, Any], message: _Message) -> Generator[str]:
        with self._translated(), self._client.messages.create(**request, stream=True) as stream:
            for event in stream:
                if piece := message.take(event.to_dict()):
                    yield piece

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise our errors; those of the SDK could show the request, so they do not go along."""
        try:
            yield
        except anthropic.APIStatusError as error:
            text = without(self._key, error.message)
            complaint = Complaint.of(error.status_code, error.body, text, error.response.headers)
            complaint = replace(complaint, message=without(self._key, complaint.message))
            raise failure(NAME, complaint, time.time()) from None
        except (anthropic.AnthropicError, httpx2.HTTPError, *UNREADABLE) as error:
            raise unreachable(NAME, error) from None


class _Message:
    """A reply that grows from the events of its stream."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._arguments: dict[int, str] = {}
        self._usage: dict[str, int] = {}
        self._stop, self._explanation, self._complete = "", "", False

    def take(self, event: dict[str, Any]) -> str:
        """Add an event; returns what there is to show."""
        kind = event.get("type")
        if kind == "message_start":
            self._count(event["message"].get("usage"))
        elif kind == "content_block_start":
            self._blocks.append(dict(event["content_block"]))
            return "\n" if len(self._blocks) > 1 else ""
        elif kind == "content_block_delta":
            return self._grow(int(event["index"]), event["delta"])
        elif kind == "message_delta":
            self._count(event.get("usage"))
            self._stop = str(event["delta"].get("stop_reason") or "")
            details = event["delta"].get("stop_details") or {}
            self._explanation = str(details.get("explanation") or details.get("category") or "")
        elif kind == "message_stop":
            self._complete = True
        return ""

    def _grow(self, index: int, delta: dict[str, Any]) -> str:
        block = self._blocks[index]
        match delta.get("type"):
            case "text_delta" | "thinking_delta" as kind:
                name = kind.removesuffix("_delta")
                block[name] = (block.get(name) or "") + delta[name]
                return str(delta[name])
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                self._arguments[index] = self._arguments.get(index, "") + delta["partial_json"]
        return ""

    def _count(self, usage: dict[str, Any] | None) -> None:
        """Counts are totals; a later event leaves out those that did not change."""
        flat = (usage or {}) | ((usage or {}).get("cache_creation") or {})
        self._usage |= {name: n for name, n in flat.items() if isinstance(n, int)}

    def reply(self) -> Reply:
        if not self._complete:
            raise Busy(f"{NAME}: the reply broke off")
        stop: Stop = _STOPS.get(self._stop, "end")
        calls = []
        for index, block in enumerate(self._blocks):
            if block.get("type") != "tool_use":
                continue
            arguments = self._arguments.get(index) or block.get("input")
            call = Call.parsed(block["id"], block["name"], arguments)
            if stop == "length" and index == len(self._blocks) - 1:
                call = replace(call, arguments={}, problem=CUT_OFF)
            block["input"] = call.arguments
            calls.append(call)
        if calls and stop == "end":
            stop = "calls"
        text = "".join(block["text"] for block in self._blocks if block.get("type") == "text")
        if stop == "refusal" and self._explanation:
            text = f"{text}\n{self._explanation}".strip()
        return Reply(text, tuple(calls), stop, self.paid(), _acceptable(self._blocks))

    @property
    def began(self) -> bool:
        """Whether the model has begun to reply: from then on it costs."""
        return bool(self._usage)

    def paid(self) -> Usage:
        return Usage(
            self._usage.get("input_tokens", 0),
            self._usage.get("cache_read_input_tokens", 0),
            self._usage.get("cache_creation_input_tokens", 0),
            self._usage.get("output_tokens", 0),
            self._usage.get("ephemeral_1h_input_tokens", 0),
        )


def _acceptable(blocks: Sequence[Block]) -> list[Block]:
    """What is accepted back: no blank text, and no thought that was cut off at the end."""
    kept = [block for block in blocks if block.get("type") != "text" or block["text"].strip()]
    while kept and kept[-1].get("type") in ("thinking", "redacted_thinking"):
        kept.pop()
    return kept


def _tool(tool: Tool) -> Block:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.parameters,
    }


def _messages(context: str, turns: Sequence[Turn], long: Block) -> list[Block]:
    """The conversation with marks up to which the prompt cache shall keep it.

    The request has four, as many as are allowed: system prompt (with the tools, which come before
    it), context, and the last two of our turns, of which the earlier is where the request before
    this one wrote to the cache.
    """
    messages: list[Block] = []
    if context:
        _add(messages, "user", [{"type": "text", "text": context, **long}])
    for turn in turns:
        match turn:
            case Said(text):
                _add(messages, "user", [{"type": "text", "text": text}])
            case Replied(reply):
                _add(messages, "assistant", reply.content)
            case Answered(results):
                _add(messages, "user", map(_result, results))
    ours = [message for message in messages if message["role"] == "user"]
    for message in ours[-2:]:
        message["content"][-1] |= _CACHED
    return messages


def _add(messages: list[Block], role: str, blocks: Iterable[Block]) -> None:
    """Turns alternate: what one side adds becomes one message, and an empty reply none."""
    copies = [dict(block) for block in blocks]
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += copies
    elif copies:
        messages.append({"role": role, "content": copies})


def _result(result: Result) -> Block:
    block: Block = {
        "type": "tool_result",
        "tool_use_id": result.call.id,
        "content": result.text or "(nothing)",
    }
    return block | {"is_error": True} if result.is_error else block
