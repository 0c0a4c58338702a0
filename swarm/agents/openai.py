"""OpenAI's models, and those of every server that speaks one of OpenAI's formats."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeAlias

from swarm.agents import completions, responses
from swarm.agents.chat import Provider, Reply, Tool, Turn
from swarm.agents.failures import (
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
    import httpx2
    import openai
except ModuleNotFoundError as error:
    raise SwarmError(
        f"the agent openai needs {error.name}, which is not installed",
        "pip install 'swarm-research[llm]'",
    ) from error

NAME = "openai"
URL = "https://api.openai.com/v1"
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 600.0
"""Some models think for minutes before the first event; a server of one's own may load a model."""

Wire: TypeAlias = Literal["responses", "chat"]


def make(
    model: str,
    base_url: str | None,
    key: str,
    wire: Wire | None = None,
    silent_seconds: float = SILENT_SECONDS,
) -> Provider:
    """A model of OpenAI, or of a server at `base_url` (with its `/v1`).

    OpenAI is asked in its Responses format and others in Chat Completions, which they all have.
    """
    return _OpenAI(
        model,
        address(base_url or URL),
        usable(key, base_url),
        wire or ("chat" if base_url and "//api.openai.com/" not in f"{base_url}/" else "responses"),
        silent_seconds,
    )


class _Message(Protocol):
    def take(self, event: dict[str, Any]) -> str: ...

    def reply(self) -> Reply: ...


class _OpenAI:
    name = NAME

    def __init__(
        self, model: str, base_url: str, key: str, wire: Wire, silent_seconds: float
    ) -> None:
        silence()
        self.model = model
        self._key, self._wire = key, wire
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            timeout=openai.Timeout(silent_seconds, connect=CONNECT_SECONDS),
            max_retries=0,
        )
        self._optional = (responses if wire == "responses" else completions).OPTIONAL
        self._unknown: set[str] = set()

    def reply(
        self,
        system: str,
        context: str,
        tools: Sequence[Tool],
        turns: Sequence[Turn],
        show: Callable[[str], None],
    ) -> Reply:
        message: _Message
        if self._wire == "responses":
            request = responses.request(self.model, system, context, tools, turns)
            message = responses.Message(NAME)
        else:
            request = completions.request(self.model, system, context, tools, turns)
            message = completions.Message(NAME, len(turns))
        with closing(self._pieces(request, message)) as pieces:
            for piece in pieces:
                show(piece)
        with self._translated():
            return message.reply()

    def _pieces(self, request: dict[str, Any], message: _Message) -> Generator[str]:
        bare = self._wire == "responses"  # where items are sent back, and null is not accepted
        with self._translated(), self._open(request) as stream:
            for event in stream:
                if piece := message.take(event.to_dict(exclude_none=bare, warnings=False)):
                    yield piece

    def _open(self, request: dict[str, Any]) -> openai.Stream[Any]:
        """Ask, and ask again without what this server turns out not to know."""
        create: Callable[..., openai.Stream[Any]] = (
            self._client.responses.create
            if self._wire == "responses"
            else self._client.chat.completions.create
        )
        while True:
            known = {name: value for name, value in request.items() if name not in self._unknown}
            try:
                return create(**known, stream=True)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                said = f"{error.message} {error.body}"
                refused = {
                    name
                    for name, word in self._optional.items()
                    if word in said or f"'{name}'" in said
                }
                if not refused - self._unknown:
                    raise
                self._unknown |= refused

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise our errors; those of the SDK could show the request, so they do not go along."""
        try:
            yield
        except openai.APIStatusError as error:
            raise self._failure(error, error.status_code, error.response.headers) from None
        except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
            raise unreachable(NAME, error) from None
        except openai.APIError as error:  # told in the middle of the stream
            raise self._failure(error, 200, {}) from None
        except (openai.OpenAIError, httpx2.HTTPError, *UNREADABLE) as error:
            raise unreachable(NAME, error) from None

    def _failure(
        self, error: openai.APIError, status: int, headers: Mapping[str, str]
    ) -> Exception:
        complaint = Complaint.of(status, error.body, error.message, headers)
        message = without(self._key, complaint.message)
        return failure(NAME, replace(complaint, message=message), time.time())
