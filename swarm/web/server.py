"""The HTTP server of the page: a socket, and an end that open streams do not hold up."""

from __future__ import annotations

import errno
import socket
from types import FrameType

import uvicorn

from swarm.errors import SwarmError
from swarm.paths import Paths
from swarm.web import app
from swarm.web.feed import Feed
from swarm.web.guard import Guard, bracketed, is_loopback, is_wildcard, new_token
from swarm.web.hub import Hub

PORT = 8420
_TRIED = 100


class Server:
    """The page of one swarm, on a socket that is bound already, so its `url` is known."""

    def __init__(self, paths: Paths, host: str, port: int | None) -> None:
        self._socket = bind(host, port)
        found = self._socket.getsockname()[1]
        self._guard = Guard(host, found, None if is_loopback(host) else new_token())
        self._hub = Hub(feed := Feed(paths))
        self._app = app.build(feed, self._hub, self._guard)
        name = socket.gethostname() if is_wildcard(host) else bracketed(host)
        self.url = f"http://{name}:{found}/"
        if self._guard.token:
            self.url += f"?token={self._guard.token}"

    def run(self) -> None:
        """Serve until a signal comes. Raises `KeyboardInterrupt` after SIGINT."""
        config = uvicorn.Config(
            self._app, log_level="warning", access_log=False, lifespan="off", ws="none",
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=3,
        )  # fmt: skip
        _Uvicorn(config, self._hub).run(sockets=[self._socket])


class _Uvicorn(uvicorn.Server):
    """Ends its streams when it is told to stop: it would wait for their readers."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._hub.close()


def bind(host: str, port: int | None) -> socket.socket:
    """A socket on `port`, or without one on the first of ours that is free.

    Raises `SwarmError` where there is none.
    """
    wanted = [port] if port is not None else [*range(PORT, PORT + _TRIED), 0]
    for number in wanted:
        try:
            return _bound(host, number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or number == wanted[-1]:
                hint = "another port: --port 0 takes any that is free"
                raise SwarmError(f"cannot listen on {host}:{number}: {error}", hint) from error
    raise AssertionError("port 0 is never in use")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(64)
    except OSError:
        bound.close()
        raise
    return bound
