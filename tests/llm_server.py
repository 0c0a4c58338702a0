"""A server that speaks the formats of language models, with a script instead of a model.

with serve([Step(calls=(("read", {}),)), Step("done")]) as server:
    provider = make("any", server.url_anthropic, "a key")
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from typing import Any, TypeAlias

from llm_wire import WIRES, Bad, Fields, Wire

LOOKBACK = 20
"""Parts before a mark in which Anthropic's cache looks for what it has."""


@dataclass(frozen=True)
class Step:
    """What the server does with a request: reply, or fail.

    `calls` are pairs of a name and arguments, as an object or as any text. `stop` is `length`,
    `refusal`, `filter`, `failed` or a wire's own word. With a `status` other than 200 there is no
    reply. A `fault` spoils it: `drop` cuts the line and `short` ends the stream in the middle,
    `error` sends an error event there, `hang` says nothing, `stall` nothing more, until the server
    ends; `garbage` is a web page. `style` is how less careful servers send calls in Chat
    Completions: `whole` or `object`.
    """

    text: str = ""
    calls: tuple[tuple[str, Mapping[str, Any] | str], ...] = ()
    thinking: str = ""
    stop: str = ""
    status: int = 200
    message: str = ""
    kind: str = ""
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    style: str = ""

    def tokens(self) -> int:
        return 1 + len(self.text + self.thinking + str(self.calls)) // 4


@dataclass(frozen=True)
class Request:
    """One request; `wire` is `anthropic`, `responses` or `chat`, and `number` counts from 0.

    `conversation` is equal for requests with the same key and the same start, `turn` is how
    often the model has replied in it, and `answers` are the texts of the last tool results.
    """

    wire: str
    number: int
    key: str
    body: Fields
    headers: Mapping[str, str]
    conversation: str
    turn: int
    text: str
    answers: tuple[str, ...]


Script: TypeAlias = Callable[[Request], Step] | Iterable[Step]


class Server:
    """The running server.

    Everything that was asked is in `requests`; `bad` says which of it the real server would not
    have accepted, and what went wrong in the script itself.
    """

    def __init__(self, script: Script, unknown: Iterable[str] = ()) -> None:
        self.requests: list[Request] = []
        self.bad: list[str] = []
        self.unknown = set(unknown)
        self.ending = threading.Event()
        self._lock = threading.Lock()
        self._cache: set[str] = set()
        self._steps = None if callable(script) else iter(script)
        self._script = script
        self.http = _Http(("127.0.0.1", 0), _Handler)
        self.http.play = self
        url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.url_anthropic, self.url_openai = url, f"{url}/v1"

    @property
    def count(self) -> int:
        return len(self.requests)

    def step(self, wire: Wire, body: Fields, headers: Mapping[str, str]) -> tuple[Step, int, Any]:
        """What to do, the request's number, and its tokens: fresh, read from the cache, written."""
        try:
            key = wire.bearer(headers)
        except Bad as error:
            return Step(status=401, message=str(error)), -1, None
        with self._lock:
            request = _request(wire, len(self.requests), key, body, headers)
            self.requests.append(request)
        try:
            for name in self.unknown & body.keys():
                raise Bad(f"Unknown parameter: '{name}'.")
            wire.check(body, headers)
            tokens = self._tokens(wire, body)
            return self._next(request), request.number, tokens
        except (Bad, KeyError, ValueError, TypeError, AssertionError) as error:
            with self._lock:
                self.bad.append(f"{type(error).__name__}: {error}")
            return Step(status=400, message=self.bad[-1]), request.number, None

    def _next(self, request: Request) -> Step:
        if self._steps is None:
            assert callable(self._script)
            return self._script(request)
        with self._lock:
            step = next(self._steps, None)
        if step is None:
            raise Bad("the script is at its end")
        return step

    def _tokens(self, wire: Wire, body: Fields) -> tuple[int, int, int]:
        texts = [json.dumps(part, sort_keys=True) for part in wire.prefix(body)]
        digest, prefixes, lengths, total = hashlib.sha256(), [], [], 0
        for text in texts:
            digest.update(text.encode() + b"\n")
            total += len(text) // 4 + 1
            prefixes.append(digest.hexdigest())
            lengths.append(total)
        marks = wire.marks(body)
        with self._lock:
            near = {at for mark in marks for at in range(mark, max(0, mark - LOOKBACK), -1)}
            read = max(
                (lengths[at - 1] for at in near if prefixes[at - 1] in self._cache), default=0
            )
            self._cache |= {prefixes[mark - 1] for mark in marks}
        written = max(0, max((lengths[mark - 1] for mark in marks), default=0) - read)
        return total - read - written, read, written


def _request(
    wire: Wire, number: int, key: str, body: Fields, headers: Mapping[str, str]
) -> Request:
    try:
        story = wire.story(body)
    except (KeyError, TypeError):  # which the check will say
        story = []
    runs = [(who, [text for _, text in run]) for who, run in groupby(story, first)]
    start = runs[0][1] if runs else []
    name = hashlib.sha256("\n".join([key, str(body.get("model")), *start]).encode()).hexdigest()
    after = story
    while any(who == "model" for who, _ in after):
        after = after[1:]
    return Request(
        wire=wire.name,
        number=number,
        key=key,
        body=body,
        headers=headers,
        conversation=name[:12],
        turn=sum(who == "model" for who, _ in runs),
        text="\n".join(text for who, text in after if who == "user"),
        answers=tuple(text for who, text in after if who == "tool"),
    )


def first(pair: tuple[str, str]) -> str:
    return pair[0]


@contextmanager
def serve(script: Script, unknown: Iterable[str] = ()) -> Iterator[Server]:
    """Serve until the end of the block; parameters named in `unknown` are refused."""
    server = Server(script, unknown)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.http.shutdown()
        thread.join()
        server.http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # their end is waited for: `ending` wakes those that hang
    play: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the play."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 10
    server: _Http

    def do_POST(self) -> None:
        self.close_connection = True
        play = self.server.play
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = self.path.partition("?")[0]
        wire = next((wire for wire in WIRES if wire.path == path), None)
        if wire is None:
            self._answer(404, "application/json", b'{"error": {"message": "no such path"}}')
            return
        step, number, tokens = play.step(wire, body, headers)
        if step.fault == "hang":
            play.ending.wait()
        elif step.fault == "garbage":
            self._answer(step.status, "text/html", b"<html>\n<h1>It works!</h1>" + b"<p>" * 5000)
        elif step.status != 200:
            error = wire.error(step.status, step.kind, step.code, step.message or "no")
            self._answer(step.status, "application/json", json.dumps(error).encode(), step.headers)
        else:
            self._stream(wire, step, [*wire.events(step, number, tokens)])

    def _answer(
        self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, wire: Wire, step: Step, events: list[Fields]) -> None:
        self.send_response(200)
        for name, value in step.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events[: len(events) // 2] if step.fault else events:
            self._chunk(wire.frame(event))
        match step.fault:
            case "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            case "stall":
                self.server.play.ending.wait()
                return
            case "error":
                self._chunk(wire.frame(wire.midway(step)))
            case "":
                self._chunk("data: [DONE]\n\n" if wire.name == "chat" else "")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""
