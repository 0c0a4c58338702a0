"""From a source of text to a dataset; whole, or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.harness.climbmix import Climbmix
from swarm.harness.dataset import FORMAT, Dataset, pointer, read_pointer, sha256
from swarm.harness.parts import join_parts, make_parts
from swarm.harness.settings import SCALES, SPLITS, PrepareError, cache_dir, log, write_atomic
from swarm.harness.sources import Builtin, Folder
from swarm.harness.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np


@contextlib.contextmanager
def build_lock(cache: Path) -> Iterator[None]:
    """One build at a time per cache; the kernel frees the lock of a dead process."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "prepare.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("another prepare.py is at work in this cache: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(source: Folder | Climbmix, scale: str, path: Path) -> None:
    """Build a dataset beside `path`, then rename it: it is whole or not there.

    An unfinished build keeps its tokenizer and its parts for the next one. We hold the build lock.
    """
    started = time.monotonic()
    sizes = SCALES[scale]
    draft = path.with_name(f"building-{path.name}")
    for stale in path.parent.glob("building-*"):
        if stale != draft:
            shutil.rmtree(stale)
    log(f"collecting {source.name}")
    corpus = source.documents(sizes)
    draft.mkdir(parents=True, exist_ok=True)
    trained = draft / "tokenizer.json"
    if not trained.exists():
        log(f"training a tokenizer of {sizes.vocab_size} tokens")
        texts = (text for split, text in corpus.read() if split == "train")
        write_atomic(trained, Tokenizer.train(texts, sizes.vocab_size).to_json().encode())
    tokenizer = Tokenizer.from_json(trained.read_text(encoding="utf-8"))
    parts = make_parts(corpus, tokenizer, sizes, draft)
    whole = draft / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    shutil.copy(trained, whole)
    assemble(whole, source.name, scale, tokenizer, parts)
    if path.exists():
        shutil.rmtree(path)
    whole.rename(path)
    shutil.rmtree(draft)
    log(f"built {path.name} in {time.monotonic() - started:.1f} s")


def assemble(
    whole: Path, source: str, scale: str, tokenizer: Tokenizer, parts: dict[str, list[Path]]
) -> None:
    """Write the splits of a dataset from its parts, and meta.json last."""
    sizes = SCALES[scale]
    rows, checksums = {}, {"tokenizer.json": sha256(whole / "tokenizer.json")}
    for split in SPLITS:
        blocks = join_parts(parts[split], sizes.seq_len + 1)
        if split != "train":
            blocks = sample_rows(blocks, sizes.eval_tokens // sizes.seq_len)
        rows[split], checksums[f"{split}.bin"] = write_rows(whole / f"{split}.bin", blocks)
    needed = -(-sizes.min_eval_tokens // sizes.seq_len)
    if min(rows["val"], rows["heldout"]) < needed or not rows["train"]:
        counts = ", ".join(f"{rows[split]} {split}" for split in SPLITS)
        raise PrepareError(
            f"{source} gives too few rows of {sizes.seq_len} tokens: {counts}",
            f"val and heldout need {needed} each: give more text",
        )
    meta: dict[str, Any] = {
        "format": FORMAT,
        "scale": scale,
        "source": source,
        "seq_len": sizes.seq_len,
        "vocab_size": tokenizer.vocab_size,
        "bos": tokenizer.bos,
        "rows": rows,
        "files": {
            name: {"bytes": (whole / name).stat().st_size, "sha256": checksum}
            for name, checksum in sorted(checksums.items())
        },
    }
    content = {key: meta[key] for key in meta if key != "source"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    meta["fingerprint"] = digest[:16]
    write_atomic(whole / "meta.json", json.dumps(meta, indent=1).encode())


def sample_rows(blocks: Iterable[np.ndarray], limit: int) -> Iterator[np.ndarray]:
    """At most `limit` rows in a fixed random order: any first part of them samples the whole."""
    import numpy as np

    if found := list(blocks):
        rows = np.concatenate(found)
        yield rows[np.random.default_rng(0).permutation(len(rows))[:limit]]


def write_rows(path: Path, blocks: Iterable[np.ndarray]) -> tuple[int, str]:
    """Write blocks of rows to a file, as they come; return how many rows and the SHA-256."""
    rows, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            content = block.tobytes()
            file.write(content)
            digest.update(content)
            rows += len(block)
        file.flush()
        os.fsync(file.fileno())
    return rows, digest.hexdigest()


def make_source(dataset: str, shards: int) -> Folder | Climbmix:
    if dataset == "climbmix":
        return Climbmix(shards)
    if dataset == "builtin":
        return Builtin()
    if not Path(dataset).is_dir():
        raise PrepareError(f"no folder {dataset}", "--dataset takes climbmix, builtin or a folder")
    return Folder(Path(dataset).resolve())


def prepare(dataset: str | None, shards: int, scale: str, force: bool) -> Dataset:
    """Build the dataset unless it is there, make it the scale's current one, return it."""
    current = read_pointer(scale)
    if dataset is None and current is not None:
        if not force:
            return Dataset.open(pointer(scale).with_name(current["directory"]), scale)
        dataset, shards = current["dataset"], current["shards"]
    source = make_source(dataset or "builtin", shards)
    settings = [FORMAT, scale, *vars(SCALES[scale]).values(), source.signature()]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    label = "folder" if type(source) is Folder else source.name
    path = pointer(scale).with_name(f"{label}-{scale}-{key}")
    if force or not path.exists():
        with build_lock(cache_dir()):
            if force or not path.exists():  # another may have built it while we waited
                build(source, scale, path)
    ready = Dataset.open(path, scale)
    current = {"directory": path.name, "dataset": source.name, "shards": shards}
    write_atomic(pointer(scale), (json.dumps(current) + "\n").encode())
    return ready
