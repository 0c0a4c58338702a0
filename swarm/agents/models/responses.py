"""OpenAI's Responses format: what a conversation and a reply look like on that wire."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from swarm.agents.models.chat import (
    CUT_OFF,
    MOST_TOKENS,
    Answered,
    Busy,
    Call,
    Replied,
    Reply,
    Said,
    Stop,
    Tool,
    Turn,
    Usage,
)
from swarm.agents.models.failures import Complaint, failure

Item = dict[str, Any]

OPTIONAL: Mapping[str, str] = {
    "include": "encrypted",
    "prompt_cache_key": "prompt_cache_key",
    "max_output_tokens": "max_output_tokens",
}
"""Parameters to do without where the server does not know them: it names them, or says this."""

_SHOWN = {
    "response.output_text.delta",
    "response.refusal.delta",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
}


def request(
    model: str, system: str, context: str, tools: Sequence[Tool], turns: Sequence[Turn]
) -> dict[str, Any]:
    """Nothing is kept at OpenAI; reasoning goes to and fro encrypted."""
    key = hashlib.sha256(f"{model}\0{system}\0{context}".encode()).hexdigest()[:32]
    return {
        "model": model,
        "instructions": system,
        "input": _input(context, turns),
        "tools": [_tool(tool) for tool in tools],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": MOST_TOKENS,
        "prompt_cache_key": f"swarm-{key}",  # equal prefixes go to the machine that has them
    }


def _tool(tool: Tool) -> Item:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": False,
    }


def _input(context: str, turns: Sequence[Turn]) -> list[Item]:
    items: list[Item] = [{"role": "user", "content": context}] if context else []
    for turn in turns:
        match turn:
            case Said(text):
                items.append({"role": "user", "content": text})
            case Replied(reply):
                items += reply.content
            case Answered(results):
                items += [
                    {
                        "type": "function_call_output",
                        "call_id": result.call.id,
                        "output": result.text or "(nothing)",
                    }
                    for result in results
                ]
    return items


class Message:
    """A reply that grows from the events of its stream."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: list[Item] = []
        self._response: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> str:
        """Add an event; returns what there is to show. Raises `ProviderError`."""
        kind = event.get("type")
        if kind in _SHOWN:
            return str(event["delta"])
        if kind == "response.output_item.added":
            return "\n" if self._items else ""
        if kind == "response.output_item.done":
            self._items.append(_bare(event["item"]))
        elif kind in ("response.completed", "response.incomplete"):
            self._response = event["response"]
        elif kind == "response.failed":
            raise self._failure(event["response"].get("error") or {})
        elif kind == "error":
            raise self._failure({**event, "type": ""})
        return ""

    def _failure(self, error: dict[str, Any]) -> Exception:
        return failure(self._name, Complaint.of(200, error, "the reply failed", {}), now=0.0)

    def reply(self) -> Reply:
        if self._response is None:
            raise Busy(f"{self._name}: the reply broke off")
        items = self._items or [_bare(item) for item in self._response.get("output") or []]
        cut = self._reason() not in ("", "content_filter")
        calls, content = [], []
        for item in items:
            if item.get("type") == "function_call":
                call = Call.parsed(item["call_id"], item["name"], item["arguments"])
                if cut and item is items[-1]:
                    call = replace(call, arguments={}, problem=CUT_OFF)
                calls.append(call)
                item = {**item, "arguments": "{}"} if call.problem else item
            if item.get("type") != "reasoning" or item.get("encrypted_content"):
                content.append(item)  # nobody can read a reasoning item that is only a name
        while content and content[-1].get("type") == "reasoning":
            content.pop()  # cut off in thought; not accepted back without what follows
        parts = [part for item in items for part in item.get("content") or []]
        refusals = [part["refusal"] for part in parts if part.get("type") == "refusal"]
        texts = [part["text"] for part in parts if part.get("type") == "output_text"]
        stop: Stop = "calls" if calls else "end"
        if refusals or self._reason() == "content_filter":
            stop = "refusal"
        elif cut:
            stop = "length"
        return Reply("\n".join(texts + refusals), tuple(calls), stop, self._paid(), content)

    def _reason(self) -> str:
        """Why the reply is incomplete; empty when it is not."""
        response = self._response or {}
        if response.get("status") != "incomplete":
            return ""
        return str((response.get("incomplete_details") or {}).get("reason") or "unknown")

    def _paid(self) -> Usage:
        usage = (self._response or {}).get("usage") or {}
        details = usage.get("input_tokens_details") or {}
        return paid(usage.get("input_tokens"), details, usage.get("output_tokens"))


def _bare(value: Any) -> Any:
    """Without nulls: they come in items but are not accepted back."""
    if isinstance(value, dict):
        return {name: _bare(each) for name, each in value.items() if each is not None}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def paid(prompt: int | None, details: Mapping[str, Any], output: int | None) -> Usage:
    """OpenAI's prompt tokens include what was read from the cache or written to it."""
    cached = details.get("cached_tokens") or 0
    written = details.get("cache_write_tokens") or 0
    return Usage(max(0, (prompt or 0) - cached - written), cached, written, output or 0)
