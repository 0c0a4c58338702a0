"""`results.tsv`: the columns people know from autoresearch, then ours. A view, rebuilt whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from swarm.disk import write_whole
from swarm.leaderboard import Leaderboard
from swarm.standings import Entry

COLUMNS = (
    "commit", "val_bpb", "memory_gb", "status", "description",
    "experiment", "worker", "agent", "device_class", "replicates", "mean", "sd",
    "steps", "tokens_per_second", "seconds", "parent", "time",
)  # fmt: skip


def rows(board: Leaderboard) -> Iterator[tuple[str, ...]]:
    """One row per experiment and device class, in the order they were claimed."""
    for device_class in board.classes.values():
        for entry in device_class.entries.values():
            yield _row(entry, device_class.name)


def write(path: Path, board: Leaderboard) -> None:
    """Replace the file by what the board says now."""
    lines = ["\t".join(COLUMNS), *("\t".join(map(escape, row)) for row in rows(board))]
    write_whole(path, ("\n".join(lines) + "\n").encode(errors="replace"))


class ResultsFile:
    """Keeps the file current without spending more than `share` of the time on it."""

    def __init__(
        self, path: Path, share: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._share, self._clock = path, share, clock
        self._written_at_line = -1
        self._next = 0.0

    def refresh(self, board: Leaderboard) -> None:
        started = self._clock()
        if board.cursor.lines == self._written_at_line or started < self._next:
            return
        write(self._path, board)
        self._written_at_line = board.cursor.lines
        ended = self._clock()
        self._next = ended + (ended - started) / self._share


def escape(text: str) -> str:
    """Backslash-escape what would break a row: tabs, line breaks, backslashes."""
    plain = text.replace("\\", "\\\\").replace("\t", "\\t")
    return plain.replace("\n", "\\n").replace("\r", "\\r")


def _row(entry: Entry, device_class: str) -> tuple[str, ...]:
    claim, estimate, metrics = entry.claim, entry.estimate, entry.metrics
    # As in autoresearch, a crash has val_bpb 0.000000 and memory 0.0.
    return (
        claim.commit[:7],
        f"{estimate.mean if estimate else 0:.6f}",
        f"{metrics.memory_gb or 0:.1f}",
        entry.kind,
        claim.description,
        claim.experiment,
        claim.worker,
        claim.agent,
        device_class,
        str(estimate.replicates if estimate else 0),
        f"{estimate.mean:.6f}" if estimate else "",
        f"{estimate.sd:.6f}" if estimate and estimate.sd is not None else "",
        str(metrics.num_steps or ""),
        f"{metrics.tokens_per_second:.0f}" if metrics.tokens_per_second else "",
        f"{entry.seconds:.1f}",
        claim.parent or "",
        claim.time.isoformat(timespec="seconds"),
    )
