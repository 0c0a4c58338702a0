"""Writes down what an agent used: as it reports itself, or as its transcripts say."""

from __future__ import annotations

import logging

from swarm import records
from swarm.agents.transcripts import Spent, Transcripts
from swarm.errors import SwarmError
from swarm.experiment import Bench
from swarm.mailbox import SpendRequest
from swarm.prices import Prices

_EVERY_SECONDS = 10.0
log = logging.getLogger("swarm.runner")


class Bookkeeper:
    """Prices tokens at the moment they are reported, and journals them once."""

    def __init__(self, bench: Bench, prices: Prices, transcripts: Transcripts | None) -> None:
        self.bench, self.prices, self.transcripts = bench, prices, transcripts
        self._due = 0.0
        self._unwritten: list[Spent] = []

    def report(self, request: SpendRequest) -> None:
        """Take what an agent says that it used. Raises `ValueError` for what is not a number."""
        if request.id not in self.bench.board.requests:
            self._spend(
                request.model,
                request.calls,
                request.input_tokens,
                request.cached_tokens,
                request.written_tokens,
                request.output_tokens,
                request.hour_tokens,
                request.id,
            )

    def read(self, now: float, at_once: bool = False) -> None:
        """Look into the agent's transcripts, every few seconds or at once."""
        if self.transcripts is None or not (at_once or now >= self._due):
            return
        self._due = now + _EVERY_SECONDS
        try:
            self._unwritten += self.transcripts.news()
        except SwarmError as error:  # it comes again
            log.warning("%s", error)
        while self._unwritten:  # what a full disk did not take is kept for the next time
            spent = self._unwritten[0]
            self._spend(
                spent.model,
                spent.calls,
                spent.input_tokens,
                spent.cached_tokens,
                spent.written_tokens,
                spent.output_tokens,
                spent.hour_tokens,
            )
            del self._unwritten[0]

    def _spend(
        self, model: str, calls: int, fresh: int, cached: int, written: int, output: int,
        hour: int = 0, request: str = "",
    ) -> None:  # fmt: skip
        usd = self.prices.usd(model, fresh, cached, written, output, hour)
        self.bench.journal.append(
            records.Spend(
                worker=self.bench.worker,
                model=model[:200],
                calls=calls,
                input_tokens=fresh,
                cached_tokens=cached,
                written_tokens=written,
                output_tokens=output,
                usd=usd,
                request=request,
            )
        )
        self.bench.board.refresh()
