"""OpenAI's models, and those of every server that speaks one of OpenAI's formats."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

from swarm.agents.models import completions, responses
from swarm.agents.models.chat import Provider, ProviderError, Reply, Tool, Turn, Usage
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
    url = address(base_url or URL)
    wire = wire or ("responses" if f"{url}/".startswith("https://api.openai.com/") else "chat")
    return _OpenAI(model, url, usable(key, base_url), _FORMATS[wire], silent_seconds)


class _Message(Protocol):
    def take(self, event: dict[str, Any]) -> str: ...

    def reply(self) -> Reply: ...


@dataclass(frozen=True)
class _Format:
    """What is different between the wires."""

    request: Callable[..., dict[str, Any]]
    message: Callable[[int], _Message]
    create: Callable[[openai.OpenAI], Callable[..., openai.Stream[Any]]]
    optional: Mapping[str, str]


_FORMATS: dict[Wire, _Format] = {
    "responses": _Format(
        responses.request,
        lambda turn: responses.Message(NAME),
        lambda client: client.responses.create,
        responses.OPTIONAL,
    ),
    "chat": _Format(
        completions.request,
        lambda turn: completions.Message(NAME, turn),
        lambda client: client.chat.completions.create,
        completions.OPTIONAL,
    ),
}


class _OpenAI:
    name = NAME

    def __init__(
        self, model: str, base_url: str, key: str, format_: _Format, silent_seconds: float
    ) -> None:
        silence()
        self.model = model
        self._key, self._format = key, format_
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            timeout=openai.Timeout(silent_seconds, connect=CONNECT_SECONDS),
            max_retries=0,
        )
        self._unknown: set[str] = set()
        self._heard = False

    def reply(
        self,
        system: str,
        context: str,
        tools: Sequence[Tool],
        turns: Sequence[Turn],
        show: Callable[[str], None],
    ) -> Reply:
        request = self._format.request(self.model, system, context, tools, turns)
        message = self._format.message(len(turns))
        self._heard = False
        try:
            with closing(self._pieces(request, message)) as pieces:
                for piece in pieces:
                    show(piece)
            with self._translated():
                return message.reply()
        except ProviderError as error:
            error.usage = Usage() if self._heard else None  # how much it was comes at the end only
            raise

    def _pieces(self, request: dict[str, Any], message: _Message) -> Generator[str]:
        with self._translated(), self._open(request) as stream:
            for event in stream:
                self._heard = True
                if piece := message.take(event.to_dict(warnings=False)):
                    yield piece

    def _open(self, request: dict[str, Any]) -> openai.Stream[Any]:
        """Ask, and ask again without what this server turns out not to know."""
        create = self._format.create(self._client)
        while True:
            known = {name: value for name, value in request.items() if name not in self._unknown}
            try:
                return create(**known, stream=True)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                said = f"{error.message} {error.body}"
                words = self._format.optional.items()
                refused = {name for name, word in words if word in said or f"'{name}'" in said}
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
