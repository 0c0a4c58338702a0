"""A corpus is tokenized and packed in parts, on all cores; a killed build keeps what is done."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.harness.packing import pack_rows
from swarm.harness.progress import Progress
from swarm.harness.settings import SPLITS, PrepareError, Scale, cpu_cores, log, write_atomic
from swarm.harness.sources import Corpus
from swarm.harness.tokenizer import Tokenizer, encode_documents

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.connection import Connection

    import numpy as np


def cut_parts(
    documents: Iterable[tuple[str, str]], part_chars: int
) -> Iterator[tuple[str, list[str], bool]]:
    """(split, texts, whether it is a full part): a part is full at `part_chars` characters."""
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    chars = dict.fromkeys(SPLITS, 0)
    for split, text in documents:
        texts[split].append(text)
        chars[split] += len(text)
        if chars[split] >= part_chars:
            yield split, texts[split], True
            texts[split], chars[split] = [], 0
    yield from ((split, texts[split], False) for split in SPLITS if texts[split])


def make_part(tokenizer: Tokenizer, texts: list[str], row_tokens: int, path: Path) -> int:
    """Encode and pack texts into a file; return how many tokens that gives.

    The file holds whole rows, then the tokens that fill no row, then the SHA-256 of all of them.
    """
    import numpy as np

    tokens = np.concatenate(list(pack_rows(encode_documents(tokenizer, texts), row_tokens)))
    content = tokens.tobytes()
    write_atomic(path, content + hashlib.sha256(content).digest())
    return len(tokens)


def read_part(path: Path) -> np.ndarray | None:
    """The tokens of a part, or None where there is none or it is not what was written."""
    import numpy as np

    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    content, digest = whole[:-32], whole[-32:]
    return np.frombuffer(content, np.uint16) if hashlib.sha256(content).digest() == digest else None


def join_parts(paths: list[Path], row_tokens: int) -> Iterator[np.ndarray]:
    """Blocks of rows (n, row_tokens): the parts' in order, then those of their leftovers."""
    import numpy as np

    left: list[np.ndarray] = []
    for path in paths:
        tokens = read_part(path)
        if tokens is None:
            raise PrepareError(f"{path} is damaged", "run prepare.py again: it is made anew")
        rest = len(tokens) % row_tokens
        yield tokens[: len(tokens) - rest].reshape(-1, row_tokens)
        if rest:  # pieces that begin with BOS each, as the first of them does
            tail = tokens[-rest:]
            starts = np.flatnonzero(tail == tail[0])
            left += [tail[a:b] for a, b in itertools.pairwise([*starts, rest])]
    for row in pack_rows(left, row_tokens):
        if len(row) == row_tokens:  # the last may be shorter: it is all that is lost
            yield row.reshape(1, -1)


@contextlib.contextmanager
def worker_pool(size: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that never outlive this one, nor a failure of it.

    Raises PrepareError when one of them dies.
    """
    import multiprocessing
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(size, context, end_with_parent, (watched,))
    try:
        yield pool
    except BaseException as error:
        held.close()
        if isinstance(error, BrokenProcessPool):
            raise PrepareError(
                "a worker process was killed (out of memory?)",
                "free some memory and run prepare.py again; finished parts are kept",
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent(watched: Connection) -> None:
    """Let this process die when the other end of a pipe is closed, if only by the kernel."""

    def watch() -> None:
        watched.poll(None)  # nothing is ever sent
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Put Ctrl-C off to the end of a block; processes started in it never hear of it."""
    caught: list[int] = []
    # A library's thread may receive the signal, and Python then runs the handler in this one.
    handler = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit this
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
        if caught:
            signal.raise_signal(signal.SIGINT)


def make_parts(
    corpus: Corpus, tokenizer: Tokenizer, sizes: Scale, draft: Path
) -> dict[str, list[Path]]:
    """Encode and pack all documents into files below `draft`, by split; return the files.

    Parts that are there already are kept. Where a part is cut depends on the text alone, so the
    result is the same on any machine; it is made on all cores unless there is little to do.
    """
    cores = len(cpu_cores())
    parts: dict[str, list[Path]] = {split: [] for split in SPLITS}
    pending: collections.deque[tuple[Future[int], int]] = collections.deque()
    kept = made = 0
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress("packing", " documents", corpus.count))

        def finished(tokens: int, documents: int) -> None:
            nonlocal made
            made += tokens
            progress.update(documents, f"{made / 1e6:.1f} M tokens")

        pool = None
        for split, texts, full in cut_parts(corpus.read(), sizes.part_chars):
            path = draft / f"{split}-{len(parts[split]):05d}.part"
            parts[split].append(path)
            job = (tokenizer, texts, sizes.seq_len + 1, path)
            if (there := read_part(path)) is not None:
                kept += 1
                finished(len(there), len(texts))
            elif pool is None and not (full and cores > 1):
                finished(make_part(*job), len(texts))
            else:
                pool = pool or stack.enter_context(worker_pool(cores))
                with interrupts_later():  # the pool starts its processes as it needs them
                    pending.append((pool.submit(make_part, *job), len(texts)))
                while len(pending) > cores + 4:  # bounds the text that is held in memory
                    future, documents = pending.popleft()
                    finished(future.result(), documents)
        for future, documents in pending:
            finished(future.result(), documents)
    if kept:
        log(f"{kept} of {sum(map(len, parts.values()))} parts were there already")
    return parts
