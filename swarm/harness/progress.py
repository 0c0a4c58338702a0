"""How far a long piece of work is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from swarm.harness.settings import log


class Progress:
    """How far a long job is, on stderr: a bar on a terminal, else a line every few seconds."""

    SECONDS = 5.0  # between lines

    def __init__(self, label: str, unit: str, total: int | None = None) -> None:
        import tqdm

        self.bar: Any = tqdm.tqdm(
            desc=label, unit=unit, total=total, unit_scale=True, disable=None, leave=False
        )
        self.label, self.unit, self.total = label, unit, total
        self.done, self.said = 0, time.monotonic()
        self.lock = threading.Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *reason: object) -> None:
        self.bar.close()

    def update(self, count: int, note: str = "", total: int | None = None) -> None:
        """`count` more are done; `note` says it in other words; `total` corrects the total."""
        with self.lock:
            self.done += count
            self.total = self.bar.total = total or self.total
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
            if self.bar.disable and time.monotonic() - self.said >= self.SECONDS:
                self.said = time.monotonic()
                share = f", {100 * self.done / self.total:.0f} %" if self.total else ""
                log(f"{self.label}: {note or f'{self.done / 1e6:.0f} M{self.unit}'}{share}")


class Waiting:
    """What nobody can tell the progress of, on stderr: the seconds that it has taken so far.

    On a terminal they are redrawn every second and gone in the end; else a line now and then.
    """

    def __init__(self, label: str, seconds: float | None = None) -> None:
        self.label, self.live = label, sys.stderr.isatty()
        self.every = seconds or (1.0 if self.live else 10.0)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._tell, name=label, daemon=True)

    def __enter__(self) -> Waiting:
        self.thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.over.set()
        self.thread.join()

    def _tell(self) -> None:
        started, told = time.monotonic(), False
        while not self.over.wait(self.every):
            text = f"{self.label}: {time.monotonic() - started:.0f} s"
            told = True
            if self.live:
                _redraw(text)
            else:
                log(text)
        if told and self.live:
            _redraw("")


def _redraw(text: str) -> None:
    sys.stderr.write(f"\r\033[K{text}")
    sys.stderr.flush()
