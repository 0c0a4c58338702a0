"""The ClimbMix dataset: Parquet shards, fetched once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from swarm.harness.progress import Progress
from swarm.harness.settings import PrepareError, Scale, cache_dir, log
from swarm.harness.sources import Corpus, parquet_rows, parquet_texts

DOC_LIMIT = 10_000  # characters of a document that are used, as upstream


class Climbmix:
    """karpathy/climbmix-400b-shuffle: numbered Parquet shards.

    Of the last shard, as pinned upstream, every other document is for validation and the rest held
    out.
    """

    URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
    VAL_SHARD = 6542
    name = "climbmix"

    def __init__(self, shards: int) -> None:
        self.names = [f"shard_{i:05d}.parquet" for i in [*range(shards), self.VAL_SHARD]]

    def signature(self) -> str:
        return f"climbmix {len(self.names) - 1}"

    def documents(self, sizes: Scale) -> Corpus:
        folder = cache_dir() / "shards"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in self.names]
        self.fetch([path for path in paths if not path.exists()])

        def read() -> Iterator[tuple[str, str]]:
            for path in paths[:-1]:
                for text in parquet_texts(path):
                    yield "train", text[:DOC_LIMIT]
            for i, text in enumerate(parquet_texts(paths[-1])):
                yield ("val", "heldout")[i % 2], text[:DOC_LIMIT]

        return Corpus(read, sum(map(parquet_rows, paths)))

    def fetch(self, paths: list[Path]) -> None:
        """Download shards, eight at a time; the first failure or Ctrl-C stops all of them."""
        url = os.environ.get("SWARM_DATA_URL") or self.URL
        stop = threading.Event()
        sizes: dict[Path, int] = {}
        done = 0
        with Progress("downloading", "B") as progress, ThreadPoolExecutor(8) as pool:

            def fetch(path: Path) -> None:
                def report(received: int, size: int | None) -> None:
                    if stop.is_set():
                        raise PrepareError("the download was stopped", "run prepare.py again")
                    if size is not None:
                        sizes.setdefault(path, size)
                    # Shards are of nearly equal size: those not begun yet count as the others.
                    total = sum(sizes.values()) * len(paths) // max(1, len(sizes))
                    progress.update(received, f"{done} of {len(paths)} files", total)

                download(f"{url}/{path.name}", path, report)

            fetched = [pool.submit(fetch, path) for path in paths]
            try:
                for future in as_completed(fetched):
                    future.result()
                    done += 1
            finally:  # the pool waits for threads, so they must end
                stop.set()


def download(
    url: str, path: Path, report: Callable[[int, int | None], Any], attempts: int = 6
) -> None:
    """Fetch `url` to `path`; a `.part` file is continued, its size checked.

    `report` gets the bytes of every chunk that arrives and, where known, how many were to come.
    Retries with doubling pauses from 0.5 s. Raises PrepareError when the attempts are used up or
    the server says that there is no such file.
    """
    import requests

    part = path.with_name(path.name + ".part")
    reason = ""
    for attempt in range(attempts):
        if attempt:
            log(f"{path.name}: {reason}; trying again")
            report(0, None)
            time.sleep(0.5 * 2 ** (attempt - 1))
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as response:
                if response.status_code == 416:  # the part is longer than the file: begin anew
                    part.unlink(missing_ok=True)
                    reason = "the partial file did not fit"
                    continue
                if response.status_code in (401, 403, 404, 410):
                    break_hint = "check the network, SWARM_DATA_URL and --shards"
                    raise PrepareError(f"{url}: HTTP status {response.status_code}", break_hint)
                response.raise_for_status()
                resumed = response.status_code == 206
                length = response.headers.get("Content-Length")
                coming = int(length) if length else None
                with part.open("ab" if resumed else "wb") as file:
                    for chunk in response.iter_content(1 << 16):
                        file.write(chunk)
                        report(len(chunk), coming)
            size = None if coming is None else coming + have * resumed
            if size is None or part.stat().st_size == size:
                part.replace(path)
                return
            reason = f"got {part.stat().st_size} of {size} bytes"
        except requests.RequestException as error:
            reason = f"{type(error).__name__} {getattr(error.response, 'status_code', '')}".strip()
    raise PrepareError(
        f"{url}: {reason}, {attempts} times", "check the network; what was fetched is continued"
    )
