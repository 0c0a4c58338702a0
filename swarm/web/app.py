"""The routes of the page, and the door in front of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swarm.errors import Refused, SwarmError
from swarm.web.feed import Feed
from swarm.web.guard import HEADERS, Guard, header_map
from swarm.web.hub import Hub
from swarm.web.table import Query

_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class Pages:
    """Answers requests for the page, its files and its data."""

    def __init__(self, feed: Feed, hub: Hub) -> None:
        self._feed, self._hub = feed, hub
        # Whatever is asked for, only these are served.
        self._files = {path.name: path.read_bytes() for path in _STATIC.iterdir()}

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/api/swarm", self.swarm),
            Route("/api/events", self.events),
            Route("/api/rows", self.rows),
            Route("/api/row/{experiment}", self.row),
            Route("/api/experiment/{experiment}", self.experiment),
            Route("/api/log/{trial}", self.log),
        ]

    async def page(self, request: Request) -> Response:
        return self._file("page.html", request)

    async def static(self, request: Request) -> Response:
        return self._file(request.path_params["name"], request)

    async def swarm(self, request: Request) -> Response:
        compressed = await self._hub.ask(self._feed.whole)
        headers = {"content-encoding": "gzip", "cache-control": "no-store"}
        return Response(compressed, headers=headers, media_type="application/json")

    async def events(self, request: Request) -> Response:
        # A browser that reconnects says what it saw last; that is newer than what its URL says.
        mark = request.headers.get("last-event-id") or request.query_params.get("since", "")
        headers = {"cache-control": "no-store"}
        stream = self._hub.stream(mark)
        return StreamingResponse(stream, headers=headers, media_type="text/event-stream")

    async def rows(self, request: Request) -> Response:
        try:
            query = msgspec.convert(dict(request.query_params), Query, strict=False)
        except msgspec.ValidationError as error:
            raise HTTPException(400, str(error)) from error
        return _json(await self._hub.ask(self._feed.rows, query))

    async def row(self, request: Request) -> Response:
        name = request.path_params["experiment"]
        return _json(await self._hub.ask(self._feed.row, name, _device_class(request)))

    async def experiment(self, request: Request) -> Response:
        name = request.path_params["experiment"]
        return _json(await self._hub.ask(self._feed.detail, name, _device_class(request)))

    async def log(self, request: Request) -> Response:
        return _json(await self._hub.ask(self._feed.log, request.path_params["trial"]))

    def _file(self, name: str, request: Request) -> Response:
        if name not in self._files:
            raise HTTPException(404, "there is no such file")
        content = self._files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"cache-control": "no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_TYPES[Path(name).suffix])


class Door:
    """Lets requests in that the guard has nothing against, and sends its headers with answers."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        app = self._answer(Request(scope)) or self._app
        await app(scope, receive, send_guarded)

    def _answer(self, request: Request) -> Response | None:
        """What is said instead of what was asked for, if anything."""
        headers = header_map(request.scope["headers"])
        refusal = self._guard.refusal(request.method, request.scope["path"], headers)
        if refusal is not None:
            allowed = {"allow": "GET, HEAD"} if refusal.status == 405 else None
            return PlainTextResponse(f"{refusal.why}\n", refusal.status, allowed)
        if self._guard.token is None or self._guard.knows(request.cookies.get(self._guard.cookie)):
            return None
        if self._guard.knows(request.query_params.get("token")):
            welcome = RedirectResponse("/", 303, {"cache-control": "no-store"})
            # Not strict: with that, a link from a chat would lead to a page without its cookie.
            # What another site could make of a lax one, the guard refuses.
            welcome.set_cookie(self._guard.cookie, self._guard.token, httponly=True, samesite="lax")
            return welcome
        return PlainTextResponse("open the address that swarm web has printed\n", 401)


def build(feed: Feed, hub: Hub, guard: Guard) -> ASGIApp:
    """The application: routes behind the door."""
    handlers: dict[Any, Any] = {SwarmError: _refused}
    return Door(Starlette(routes=Pages(feed, hub).routes(), exception_handlers=handlers), guard)


async def _refused(request: Request, error: SwarmError) -> Response:
    status = 404 if isinstance(error, Refused) else 503
    return PlainTextResponse(f"{error}\n", status)


def _device_class(request: Request) -> int:
    told = request.query_params.get("device_class", "0")
    return int(told) if told.isdecimal() and len(told) < 5 else -1


def _json(document: object) -> Response:
    content = msgspec.json.encode(document)
    headers = {"cache-control": "no-store"}
    return Response(content, headers=headers, media_type="application/json")
