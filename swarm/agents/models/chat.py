"""A conversation with a language model, in words that every provider's wire can be told in.

A conversation is a list of turns. Each request sends all of it, so what stays equal comes first
and the provider's prompt cache holds it: tools and system prompt, the context, then older turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from swarm.errors import SwarmError

MOST_TOKENS = 32_000
"""Of a reply, thinking included: one that repeats itself costs no more than that."""
LONGEST_MESSAGE = 300
"""Characters of a provider's complaint that are shown; some send whole web pages."""

CUT_OFF = "the reply reached its limit of tokens before the arguments were complete"
"""The problem of a call that is the last thing in a reply that was cut."""

Stop: TypeAlias = Literal["end", "calls", "length", "refusal"]
"""Why a reply ended: all said, tools asked for, cut at a token limit, or not willing.

A reply that was cut may still have calls. After a refusal the conversation is spent: start anew."""


@dataclass(frozen=True)
class Tool:
    """What the model may call; `parameters` is the JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Call:
    """The model asks for a tool; with a `problem` its arguments were no valid JSON object."""

    id: str
    name: str
    arguments: dict[str, Any]
    problem: str = ""

    @classmethod
    def parsed(cls, id: str, name: str, arguments: object) -> Call:  # noqa: A002
        """Take arguments as they came: JSON text, or an object from servers that parse it."""
        value = arguments
        if isinstance(value, str) and value:
            try:
                value = json.loads(value)
            except ValueError as error:
                return cls(id, name, {}, one_line(f"the arguments are not valid JSON: {error}"))
        if value is None or value == "":  # what some models send for a tool without parameters
            value = {}
        if not isinstance(value, dict):
            return cls(id, name, {}, "the arguments are not a JSON object")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a pair: no file could hold it, nor the next request
            return cls(id, name, {}, "the arguments are not valid text")
        return cls(id, name, value)


@dataclass(frozen=True)
class Result:
    """What came of a call, as text for the model."""

    call: Call
    text: str
    is_error: bool = False


@dataclass(frozen=True)
class Usage:
    """Tokens that were paid for; `input_tokens` are those the prompt cache had no part in.

    `cached_tokens` were read from it and `written_tokens` written to it, each at a price of its
    own; `hour_tokens` of those are kept for an hour. `output_tokens` include thinking.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    output_tokens: int = 0
    hour_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.written_tokens + other.written_tokens,
            self.output_tokens + other.output_tokens,
            self.hour_tokens + other.hour_tokens,
        )


@dataclass(frozen=True)
class Reply:
    """What the model said and asked for; every call must be answered in the next turn.

    `content` belongs to the provider: it is sent back as it came, thinking included.
    """

    text: str
    calls: tuple[Call, ...]
    stop: Stop
    usage: Usage
    content: Any = field(repr=False)


@dataclass(frozen=True)
class Said:
    """We say something."""

    text: str


@dataclass(frozen=True)
class Replied:
    """The model's turn."""

    reply: Reply


@dataclass(frozen=True)
class Answered:
    """We answer all calls of the reply before, in its order."""

    results: tuple[Result, ...]


Turn: TypeAlias = Said | Replied | Answered


class Provider(Protocol):
    """Someone's language model."""

    @property
    def name(self) -> str:
        """Who serves it, as in the name of the agent: `anthropic`, `openai`."""

    @property
    def model(self) -> str:
        """What the provider calls the model."""

    def reply(
        self,
        system: str,
        context: str,
        tools: Sequence[Tool],
        turns: Sequence[Turn],
        show: Callable[[str], None],
    ) -> Reply:
        """Continue a conversation that starts with `context` and whose last turn is ours.

        `context` is long and equal in many conversations. `show` gets pieces of thinking and
        text as they come. Blocks until the reply is complete; raises `ProviderError`.
        """


class ProviderError(SwarmError):
    """There is no reply; `retry_after` is the seconds to wait, where the provider says so.

    `usage` is what a reply that broke off has cost nevertheless, as far as that is known.
    """

    usage: Usage | None = None

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(one_line(message), hint)
        self.retry_after = retry_after


class Busy(ProviderError):
    """Rate limit, overload, server error, timeout or a broken line: worth asking again."""


class OutOfQuota(ProviderError):
    """The account has no money or quota left: worth asking again after hours, if at all."""


class Rejected(ProviderError):
    """The key or the model is refused, and will be until a person changes something."""


class TooLong(ProviderError):
    """The conversation is longer than the model can read: start a new one."""


class BadRequest(ProviderError):
    """The provider does not accept this conversation: start a new one."""


def one_line(text: str) -> str:
    """The beginning of a text of any length, fit for a log and for a table's cell."""
    words = " ".join(text[: 20 * LONGEST_MESSAGE].split())
    words = "".join(each for each in words if each.isprintable())
    return words if len(words) <= LONGEST_MESSAGE else words[: LONGEST_MESSAGE - 1] + "…"
