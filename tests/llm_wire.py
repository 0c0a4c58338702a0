"""The three formats in which a language model is asked, as a server sees them.

A wire refuses requests that the real server would refuse, and tells a reply as its events. The
one thing stricter than life: what the model said must come back as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_server import Step

Fields = dict[str, Any]


class Bad(Exception):
    """The request is not one that the real server would accept."""


def expect(condition: object, message: str) -> None:
    if not condition:
        raise Bad(message)


def pieces(text: str) -> list[str]:
    """A text in a few parts, as tokens come."""
    size = max(1, len(text) // 3)
    return [text[at : at + size] for at in range(0, len(text), size)]


def secret(thinking: str) -> str:
    """What proves that thinking came from the model."""
    return "proof-" + hashlib.sha256(thinking.encode()).hexdigest()[:16]


def raw(arguments: Mapping[str, Any] | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


class Wire:
    """One format; `number` is unique to a reply, for the ids in it."""

    name = path = ""

    def bearer(self, headers: Mapping[str, str]) -> str:
        """The key that came along. Raises `Bad` without one."""
        kind, _, key = headers.get("authorization", "").partition(" ")
        expect(kind == "Bearer" and key, "Missing bearer authentication in header")
        return key

    def check(self, body: Fields, headers: Mapping[str, str]) -> None:
        raise NotImplementedError

    def prefix(self, body: Fields) -> list[Any]:
        """The prompt, in the parts that the cache is made of."""
        raise NotImplementedError

    def story(self, body: Fields) -> list[tuple[str, str]]:
        """Who said what: `user`, `tool` or `model` and a text."""
        raise NotImplementedError

    def marks(self, body: Fields) -> list[int]:
        """Up to which parts (their count) the cache is written."""
        return list(range(1, len(self.prefix(body)) + 1))

    def events(self, step: Step, number: int, usage: tuple[int, int, int]) -> Iterator[Fields]:
        """A reply; `usage` is tokens fresh, read from the cache and written to it."""
        raise NotImplementedError

    def error(self, status: int, kind: str, code: str, message: str) -> Fields:
        named = _NAMES.get(status, ("invalid_request_error", None))
        error = {"message": message, "type": kind or named[0], "param": None}
        return {"error": error | {"code": code or named[1]}}

    def midway(self, step: Step) -> Fields:
        """The error that breaks into a stream."""
        return self.error(500, step.kind, step.code, step.message or "overloaded")

    def frame(self, event: Fields) -> str:
        return f"data: {json.dumps(event)}\n\n"


class Anthropic(Wire):
    name, path = "anthropic", "/v1/messages"

    def bearer(self, headers: Mapping[str, str]) -> str:
        return headers.get("x-api-key") or super().bearer(headers)

    def check(self, body: Fields, headers: Mapping[str, str]) -> None:
        expect(headers.get("anthropic-version"), "anthropic-version: header is required")
        expect(isinstance(body.get("max_tokens"), int), "max_tokens: Field required")
        expect(body["max_tokens"] > 0 and body.get("stream") is True, "max_tokens or stream")
        marks = json.dumps(body).count('"cache_control"')
        expect(
            marks <= 4, f"A maximum of 4 blocks with cache_control may be provided. Found {marks}"
        )
        marked = json.dumps([body.get("tools"), body.get("system"), body["messages"]])
        lives = re.findall(r'"cache_control": {"type": "ephemeral"(?:, "ttl": "(\w+)")?}', marked)
        short_first = sorted(lives, key=lambda ttl: ttl != "1h") != lives
        expect(not short_first, "a ttl='1h' cache_control block must not come after a '5m' one")
        for tool in body.get("tools", []):
            expect(tool["input_schema"].get("type") == "object", "tools: input_schema")
        messages = body.get("messages") or []
        expect(messages, "messages: at least one message is required")
        roles = [message["role"] for message in messages]
        expect(roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], f"roles: {roles}")
        open_calls: list[str] = []
        for at, message in enumerate(messages):
            blocks = message["content"]
            expect(blocks, f"messages.{at}: content must be non-empty")
            expect([b for b in blocks if b["type"] != "text" or b["text"].strip()] == blocks,
                   f"messages.{at}: text content blocks must be non-empty")  # fmt: skip
            self._thoughts(blocks)
            answers = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
            expect(answers == open_calls, f"messages.{at}: `tool_use` ids {open_calls} were found "
                   f"without `tool_result` blocks immediately after: {answers}")  # fmt: skip
            kinds = [b["type"] for b in blocks]
            expect(kinds[-1] != "thinking", f"messages.{at}: the final block cannot be `thinking`")
            first = "tool_result" if answers else kinds[0]
            expect(kinds[0] == first, f"messages.{at}: tool_result blocks must come first")
            uses = [b for b in blocks if b["type"] == "tool_use"]
            expect(all(isinstance(b["input"], dict) for b in uses), "tool_use.input: an object")
            open_calls = [b["id"] for b in uses]

    def _thoughts(self, blocks: list[Fields]) -> None:
        for block in blocks:
            if block["type"] == "thinking":
                proof = secret(block["thinking"])
                expect(block.get("signature") == proof, "Invalid `signature` in `thinking` block")

    def prefix(self, body: Fields) -> list[Any]:
        blocks = [*body.get("tools", []), *body.get("system", [])]
        blocks += [{"role": m["role"], **b} for m in body["messages"] for b in m["content"]]
        return [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]

    def story(self, body: Fields) -> list[tuple[str, str]]:
        return [
            ("tool", block["content"]) if block["type"] == "tool_result"
            else ("model" if message["role"] == "assistant" else "user", block.get("text", ""))
            for message in body["messages"] for block in message["content"]
        ]  # fmt: skip

    def marks(self, body: Fields) -> list[int]:
        blocks = [*body.get("tools", []), *body.get("system", [])]
        blocks += [b for m in body["messages"] for b in m["content"]]
        return [at for at, block in enumerate(blocks, 1) if "cache_control" in block]

    def events(self, step: Step, number: int, usage: tuple[int, int, int]) -> Iterator[Fields]:
        fresh, read, written = usage
        paid = {
            "input_tokens": fresh,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 7},
        }
        start: Fields = {"id": f"msg_{number}", "type": "message", "role": "assistant",
                 "model": "m", "content": [], "stop_reason": None, "stop_sequence": None,
                 "usage": paid | {"output_tokens": 1}}  # fmt: skip
        yield {"type": "message_start", "message": start}
        yield {"type": "ping"}
        for index, (block, deltas) in enumerate(self._blocks(step, number)):
            yield {"type": "content_block_start", "index": index, "content_block": block}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        stop = "tool_use" if step.calls else "end_turn"
        stops = {"length": "max_tokens", "refusal": "refusal"}
        ended: Fields = {"stop_reason": stops.get(step.stop, step.stop or stop)}
        if step.stop == "refusal":
            details = {"type": "refusal", "category": None, "explanation": "not that"}
            ended["stop_details"] = details
        yield {"type": "message_delta", "delta": ended | {"stop_sequence": None},
               "usage": {"output_tokens": step.tokens()}}  # fmt: skip
        yield {"type": "message_stop"}

    def _blocks(self, step: Step, number: int) -> Iterator[tuple[Fields, list[Fields]]]:
        if step.thinking:
            deltas = [{"type": "thinking_delta", "thinking": p} for p in pieces(step.thinking)]
            deltas += [{"type": "signature_delta", "signature": secret(step.thinking)}]
            yield {"type": "thinking", "thinking": "", "signature": ""}, deltas
        if step.text:
            deltas = [{"type": "text_delta", "text": p} for p in pieces(step.text)]
            yield {"type": "text", "text": ""}, deltas
        for at, (name, arguments) in enumerate(step.calls):
            block = {"type": "tool_use", "id": f"toolu_{number}_{at}", "name": name, "input": {}}
            parts = ["", *pieces(raw(arguments))]
            yield block, [{"type": "input_json_delta", "partial_json": p} for p in parts]

    def error(self, status: int, kind: str, code: str, message: str) -> Fields:
        kinds = {401: "authentication_error", 402: "billing_error", 403: "permission_error",
                 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
                 500: "api_error", 529: "overloaded_error"}  # fmt: skip
        kind = kind or kinds.get(status, "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def midway(self, step: Step) -> Fields:
        return self.error(529, step.kind, "", step.message or "Overloaded")

    def frame(self, event: Fields) -> str:
        return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


_NAMES: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
}


class Responses(Wire):
    name, path = "responses", "/v1/responses"

    def check(self, body: Fields, headers: Mapping[str, str]) -> None:
        expect(body.get("stream") is True and body.get("store") is False, "stream and store")
        expect(body.get("input"), "Missing required parameter: 'input'.")
        expect(isinstance(body.get("instructions"), str), "Missing 'instructions'")
        open_calls: list[str] = []
        for at, item in enumerate(body["input"]):
            kind = item.get("type", "message")
            expect(None not in item.values(), f"Invalid type for 'input[{at}]': null")
            if kind == "function_call":
                json.loads(item["arguments"])
                open_calls.append(item["call_id"])
            elif kind == "function_call_output":
                known = item["call_id"] in open_calls
                expect(known, f"No tool call found for function call output {item['call_id']}")
                open_calls.remove(item["call_id"])
            elif kind == "reasoning":
                after = [each.get("role", "assistant") for each in body["input"][at + 1 :]][:1]
                expect(after == ["assistant"], "'reasoning' without its required following item")
                proof = secret(item["summary"][0]["text"])
                expect(item.get("encrypted_content") == proof, "Item 'rs' not found")
            else:
                expect(not open_calls, f"No tool output found for function call {open_calls}")
                expect(item["role"] in ("user", "assistant"), "role")
        expect(not open_calls, f"No tool output found for function call {open_calls}")

    def prefix(self, body: Fields) -> list[Any]:
        return [*body.get("tools", []), body["instructions"], *body["input"]]

    def story(self, body: Fields) -> list[tuple[str, str]]:
        return [
            ("tool", item["output"]) if item.get("type") == "function_call_output"
            else ("user", item["content"]) if item.get("role") == "user"
            else ("model", json.dumps(item))
            for item in body["input"]
        ]  # fmt: skip

    def events(self, step: Step, number: int, usage: tuple[int, int, int]) -> Iterator[Fields]:
        for at, event in enumerate(self._events(step, number, usage)):
            yield event | {"sequence_number": at}

    def _events(self, step: Step, number: int, usage: tuple[int, int, int]) -> Iterator[Fields]:
        response: Fields = {"id": f"resp_{number}", "object": "response", "status": "in_progress",
                            "output": [], "model": "m", "error": None}  # fmt: skip
        yield {"type": "response.created", "response": response}
        done = []
        for index, (item, kind, texts) in enumerate(self._items(step, number)):
            begun = {**item, "status": "in_progress"}
            yield {"type": "response.output_item.added", "output_index": index, "item": begun}
            where = {"item_id": item["id"], "output_index": index, "content_index": 0}
            for text in texts:
                yield {"type": f"response.{kind}.delta", "delta": text, **where}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
            done.append(item)
        if step.stop == "failed":
            error = {"code": step.code or "server_error", "message": step.message or "sorry"}
            yield {"type": "response.failed",
                   "response": response | {"status": "failed", "error": error}}  # fmt: skip
            return
        fresh, read, written = usage
        paid = {
            "input_tokens": fresh + read + written,
            "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": 0},
            "output_tokens": step.tokens(),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": fresh + read + written + step.tokens(),
        }
        reasons = {"length": "max_output_tokens", "filter": "content_filter"}
        status = "incomplete" if step.stop in reasons else "completed"
        details = {"reason": reasons[step.stop]} if step.stop in reasons else None
        ended = {"status": status, "output": done, "usage": paid, "incomplete_details": details}
        yield {"type": f"response.{status}", "response": response | ended}

    def _items(self, step: Step, number: int) -> Iterator[tuple[Fields, str, list[str]]]:
        if step.thinking:
            summary = [{"type": "summary_text", "text": step.thinking}]
            proof = secret(step.thinking)
            item: Fields = {"type": "reasoning", "id": f"rs_{number}", "summary": summary,
                            "content": None, "encrypted_content": proof}  # fmt: skip
            yield item, "reasoning_summary_text", pieces(step.thinking)
        refused = step.stop == "refusal"
        if step.text or refused:
            part: Fields = {"type": "output_text", "text": step.text, "annotations": []}
            if refused:
                part = {"type": "refusal", "refusal": step.text or "not that"}
            item = {"type": "message", "id": f"msg_{number}", "role": "assistant",
                    "status": "completed", "content": [part]}  # fmt: skip
            text = part.get("text") or part["refusal"]
            yield item, "refusal" if refused else "output_text", pieces(text)
        for at, (name, arguments) in enumerate(step.calls):
            item = {"type": "function_call", "id": f"fc_{number}_{at}", "name": name,
                    "call_id": f"call_{number}_{at}", "arguments": raw(arguments),
                    "status": "completed"}  # fmt: skip
            yield item, "function_call_arguments", pieces(raw(arguments))

    def midway(self, step: Step) -> Fields:
        code = step.code or "server_error"
        return {"type": "error", "code": code, "message": step.message or "sorry", "param": None}

    def frame(self, event: Fields) -> str:
        return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


class Chat(Wire):
    name, path = "chat", "/v1/chat/completions"

    def check(self, body: Fields, headers: Mapping[str, str]) -> None:
        expect(body.get("stream") is True, "stream")
        expect(body.get("messages"), "Missing required parameter: 'messages'.")
        expect(body.get("tools") != [], "[] is too short - 'tools'")
        open_calls: list[str] = []
        before = ""
        for at, message in enumerate(body["messages"]):
            role = message["role"]
            expect(role != "system" or at == 0, "the system message comes first")
            expect(role != before or role == "tool", f"messages[{at}]: roles must alternate")
            if role == "tool":
                known = message["tool_call_id"] in open_calls
                expect(known, "messages with role 'tool' must be a response to 'tool_calls'")
                open_calls.remove(message["tool_call_id"])
            else:
                expect(
                    not open_calls, f"tool_call_ids did not have response messages: {open_calls}"
                )
            expect(isinstance(message["content"], str), f"messages[{at}].content")
            for call in message.get("tool_calls", []):
                expect(isinstance(json.loads(call["function"]["arguments"]), dict), "arguments")
                open_calls.append(call["id"])
            expect(len(set(open_calls)) == len(open_calls), "tool_call_ids must differ")
            before = role
        expect(not open_calls and before != "assistant", f"no answers to {open_calls}")

    def prefix(self, body: Fields) -> list[Any]:
        return [*body.get("tools", []), *body["messages"]]

    def story(self, body: Fields) -> list[tuple[str, str]]:
        names = {"assistant": "model"}
        said = [message for message in body["messages"] if message["role"] != "system"]
        return [(names.get(each["role"], each["role"]), each["content"]) for each in said]

    def events(self, step: Step, number: int, usage: tuple[int, int, int]) -> Iterator[Fields]:
        def chunk(delta: Fields, finish: str | None = None) -> Fields:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 0,
                    "model": "m", "choices": [choice], "usage": None}  # fmt: skip

        yield chunk({"role": "assistant", "content": ""})
        for piece in pieces(step.thinking):
            yield chunk({"reasoning_content": piece})
        for piece in pieces(step.text):
            yield chunk({"refusal" if step.stop == "refusal" else "content": piece})
        for call in self._calls(step, number):
            yield chunk({"tool_calls": [call]})
        stops = {"length": "length", "filter": "content_filter", "refusal": "stop"}
        named = "tool_calls" if step.calls and not step.style else "stop"
        yield chunk({}, stops.get(step.stop, step.stop or named))
        if step.style:  # servers of that kind tell no usage either
            return
        fresh, read, written = usage
        prompt = fresh + read + written
        paid = {"prompt_tokens": prompt, "completion_tokens": step.tokens(),
                "total_tokens": prompt + step.tokens(),
                "prompt_tokens_details": {"cached_tokens": read}}  # fmt: skip
        yield chunk({}) | {"choices": [], "usage": paid}

    def _calls(self, step: Step, number: int) -> Iterator[Fields]:
        for at, (name, arguments) in enumerate(step.calls):
            function: Fields = {"name": name, "arguments": raw(arguments)}
            if step.style == "whole":  # in one piece, all with the same index, without ids
                yield {"index": 0, "type": "function", "function": function}
            elif step.style == "object":  # arguments parsed, no index
                function = {"name": name, "arguments": arguments}
                yield {"id": f"call_{number}_{at}", "type": "function", "function": function}
            else:
                begun: Fields = {"index": at, "id": f"call_{number}_{at}", "type": "function"}
                yield begun | {"function": {"name": name, "arguments": ""}}
                for part in pieces(raw(arguments)):
                    yield {"index": at, "function": {"arguments": part}}


WIRES: tuple[Wire, ...] = (Anthropic(), Responses(), Chat())
