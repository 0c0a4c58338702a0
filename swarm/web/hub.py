"""The one reader of the journal for all open pages: it polls while somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from swarm.errors import SwarmError
from swarm.web.feed import Feed

P = ParamSpec("P")
T = TypeVar("T")
_MOST_OF_THE_TIME = 0.05
"""A poll of a huge journal may take long: then they are further apart."""


class Closed(SwarmError):
    """The server stops, so nothing is answered any more."""


class Hub:
    """Asks the feed in a thread of its own, one question at a time, and wakes the streams.

    Streams are woken, not sent to: one that is slow gets what is newest once it is ready.
    """

    def __init__(self, feed: Feed, every: float = 2.0) -> None:
        self._feed, self._every = feed, every
        self._thread = _Thread()
        self._listeners = 0
        self._poller: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._is_closed = False

    async def ask(self, question: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
        """Have the feed's thread answer; it reads what is new first unless somebody listens.

        Raises `Closed` when the server stops before that.
        """
        if not self._listeners:
            await self._thread.run(self._feed.poll)
        return await self._thread.run(lambda: question(*values, **named))

    async def stream(self, mark: str) -> AsyncIterator[bytes]:
        """Server-sent events for a page that has the state `mark`, until it leaves or we close."""
        self._listeners += 1
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        poller = self._poller
        try:
            yield b"retry: 1000\n\n"
            with suppress(Closed):
                while not self._is_closed and not poller.done():
                    news = self._news
                    told, update = await self.ask(self._feed.since, mark)
                    yield f"id: {told}\ndata: ".encode() + update + b"\n\n"
                    mark = told
                    await news.wait()
        finally:
            self._listeners -= 1

    def close(self) -> None:
        """End all streams and questions: a server that is to stop would wait for them."""
        self._is_closed = True
        self._news.set()
        self._thread.close()
        if self._poller:
            self._poller.cancel()

    async def _poll(self) -> None:
        try:
            while self._listeners and not self._is_closed:
                before = monotonic()
                if await self._thread.run(self._feed.poll):
                    self._wake()
                took = monotonic() - before
                await asyncio.sleep(max(self._every, took / _MOST_OF_THE_TIME))
        finally:
            self._wake()  # if it failed, the streams end, and pages come back

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class _Thread:
    """Runs one function at a time, and is not waited for: a huge journal is read for seconds.

    An executor would be, by the end of the process. What is broken off has only read.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._open: set[Future[Any]] = set()
        self._is_closed = False
        Thread(target=self._serve, name="feed", daemon=True).start()

    async def run(self, function: Callable[[], T]) -> T:
        """What it returns or raises. Raises `Closed` when it is broken off."""
        future: Future[T] = Future()
        self._open.add(future)
        self._asked.put((future, function))
        if self._is_closed:
            self.close()
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._open.discard(future)

    def close(self) -> None:
        self._is_closed = True
        for future in list(self._open):
            with suppress(InvalidStateError):  # it is done
                future.set_exception(Closed("swarm web has been told to stop"))

    def _serve(self) -> None:
        while True:
            future, function = self._asked.get()
            with suppress(InvalidStateError):  # it was broken off
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)
