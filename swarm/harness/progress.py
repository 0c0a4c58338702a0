"""How far a long piece of work is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

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
