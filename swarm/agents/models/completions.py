"""The Chat Completions format, which vLLM, Ollama, OpenRouter and many others serve.

They differ in what they leave out and in how they cut a tool call into pieces; what is read here
is what they have in common, whole or in pieces, with or without ids.
"""

from __future__ import annotations

import json
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
)
from swarm.agents.models.responses import paid

Fields = dict[str, Any]

OPTIONAL: Mapping[str, str] = {
    "stream_options": "stream_options",
    "max_completion_tokens": "max_completion_tokens",
}
"""Parameters to do without where the server does not know them: it names them, or says this."""

_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details")
"""Thinking, under the names servers give it; it goes back under the name it came with."""


def request(
    model: str, system: str, context: str, tools: Sequence[Tool], turns: Sequence[Turn]
) -> dict[str, Any]:
    """Without tools the list is left out: some servers refuse an empty one."""
    found: dict[str, Any] = {
        "model": model,
        "messages": _messages(system, context, turns),
        "stream_options": {"include_usage": True},
        "max_completion_tokens": MOST_TOKENS,
    }
    if tools:
        found["tools"] = [_tool(tool) for tool in tools]
    return found


def _tool(tool: Tool) -> Fields:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}


def _messages(system: str, context: str, turns: Sequence[Turn]) -> list[Fields]:
    messages: list[Fields] = [{"role": "system", "content": system}] if system else []
    if context:
        _say(messages, context)
    for turn in turns:
        match turn:
            case Said(text):
                _say(messages, text)
            case Replied(reply):
                messages.append(reply.content)
            case Answered(results):
                messages += [
                    {
                        "role": "tool",
                        "tool_call_id": result.call.id,
                        "content": result.text or "(nothing)",
                    }
                    for result in results
                ]
    return messages


def _say(messages: list[Fields], text: str) -> None:
    """Many models' templates refuse two messages of the user in a row."""
    if messages and messages[-1]["role"] == "user":
        text = f"{messages.pop()['content']}\n\n{text}"
    messages.append({"role": "user", "content": text})


class Message:
    """A reply that grows from the chunks of its stream; `turn` is its number."""

    def __init__(self, name: str, turn: int) -> None:
        self._name, self._turn = name, turn
        self._text, self._refusal, self._finish = "", "", ""
        self._thoughts: dict[str, Any] = {}
        self._calls: list[Fields] = []
        self._usage: Fields = {}

    def take(self, chunk: dict[str, Any]) -> str:
        """Add a chunk; returns what there is to show."""
        self._usage = chunk.get("usage") or self._usage
        shown = ""
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            self._finish = choice.get("finish_reason") or self._finish
            thought, text = self._think(delta), delta.get("content") or ""
            begins = bool(text and self._thoughts and not self._text)
            self._text += text
            self._refusal += delta.get("refusal") or ""
            shown += thought + "\n" * begins + (text or delta.get("refusal") or "")
            for piece in delta.get("tool_calls") or []:
                self._add(piece)
        return shown

    def _think(self, delta: Fields) -> str:
        """Keep the thinking; returns its text once, however many names it came under."""
        texts = []
        for name in _THOUGHTS:
            value = delta.get(name)
            if value and isinstance(value, str | list):
                self._thoughts[name] = self._thoughts.get(name, type(value)()) + value
                texts += [value] if isinstance(value, str) else []
        return texts[0] if texts else ""

    def _add(self, piece: Fields) -> None:
        function = piece.get("function") or {}
        call = self._continued(piece, function.get("name"))
        if call is None:
            call = {"index": piece.get("index"), "id": None, "name": None, "arguments": ""}
            self._calls.append(call)
        call["id"] = call["id"] or piece.get("id")
        call["name"] = call["name"] or function.get("name")
        arguments = function.get("arguments") or ""
        call["arguments"] = call["arguments"] + arguments if call["arguments"] else arguments

    def _continued(self, piece: Fields, name: str | None) -> Fields | None:
        """The call that a piece goes on with; `None` when it begins another.

        Servers that send whole calls may give all of them the same index, or none.
        """
        index, id_ = piece.get("index"), piece.get("id")
        for call in reversed(self._calls):
            if index is not None and call["index"] != index:
                continue
            if id_ and call["id"]:
                return call if call["id"] == id_ else None
            return None if name and call["name"] and not call["id"] else call
        return None

    def reply(self) -> Reply:
        if not self._finish or self._finish == "error":
            raise Busy(f"{self._name}: the reply broke off")
        calls = []
        for number, each in enumerate(self._calls):
            call = Call.parsed(
                each["id"] or self._id(number), each["name"] or "", each["arguments"]
            )
            if self._finish == "length" and each is self._calls[-1]:
                call = replace(call, arguments={}, problem=CUT_OFF)
            calls.append(call)
        stop: Stop = "calls" if calls else "end"
        if self._refusal or self._finish == "content_filter":
            stop = "refusal"
        elif self._finish == "length":
            stop = "length"
        details = self._usage.get("prompt_tokens_details") or {}
        usage = paid(
            self._usage.get("prompt_tokens"), details, self._usage.get("completion_tokens")
        )
        return Reply(self._text or self._refusal, tuple(calls), stop, usage, self._content(calls))

    def _id(self, number: int) -> str:
        """For a call that came without; nine letters and digits suit the pickiest templates."""
        return f"call{self._turn % 1000:03d}{number % 100:02d}"

    def _content(self, calls: Sequence[Call]) -> Fields:
        message: Fields = {"role": "assistant", "content": self._text or self._refusal}
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        return message | self._thoughts


def _call(call: Call) -> Fields:
    """Arguments as read: servers parse them again and fail on those that are not JSON."""
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": call.id, "type": "function", "function": function}
