"""Rows of T + 1 tokens, each beginning with BOS, without padding and without loss."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PACK_BUFFER = 1000  # documents that best-fit packing chooses from, as upstream


def pack_rows(
    documents: Iterable[np.ndarray], row_tokens: int, buffer_size: int = PACK_BUFFER
) -> Iterator[np.ndarray]:
    """Fill rows of `row_tokens` tokens from a buffer of documents, best fit first.

    The longest document that fits goes next; where none fits, the shortest fills the row, and its
    rest goes back into the buffer behind a BOS of its own. So every document and every rest begins
    with BOS, and no token is lost. What cannot fill a last row comes last, as one shorter array of
    whole pieces. Deterministic; some microseconds a document.
    """
    import numpy as np

    source = iter(documents)
    buffer: list[tuple[int, int]] = []  # (length, arrival), sorted
    waiting: dict[int, np.ndarray] = {}
    arrivals = 0

    def arrive(document: np.ndarray) -> None:
        nonlocal arrivals
        bisect.insort(buffer, (len(document), arrivals))
        waiting[arrivals] = document
        arrivals += 1

    while True:
        row = np.empty(row_tokens, dtype=np.uint16)
        filled = 0
        while filled < row_tokens:
            while len(buffer) < buffer_size and (document := next(source, None)) is not None:
                arrive(document)
            if not buffer:
                if filled:
                    yield row[:filled]
                return
            room = row_tokens - filled
            fitting = bisect.bisect_left(buffer, (room + 1, -1))
            length, key = buffer.pop(fitting - 1 if fitting else 0)
            document = waiting.pop(key)
            if length > room:
                arrive(np.concatenate((document[:1], document[room:])))
                length = room
            row[filled : filled + length] = document[:length]
            filled += length
        yield row
