"""What the data costs: loader, preparation, the ready check, and how upstream counts bytes.

    python benchmarks/data.py [--quick]

Prints a Markdown table: what, budget, measured. Text is what ships with Python; everything is
built in a temporary folder. The loader reads full-scale rows (2,049 tokens), 128 a batch, from a
file of random tokens in the page cache, for a CPU device: a GPU's batches are not widened by the
CPU, so they cost less of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import prepare  # noqa: E402
from swarm.harness import building, settings, sources  # noqa: E402
from swarm.harness.parts import make_parts  # noqa: E402
from swarm.harness.probes import cpu_device  # noqa: E402
from swarm.harness.tokenizer import Tokenizer  # noqa: E402

Row = tuple[str, str, str]
BATCH = 128  # rows
PROCESSES = 8  # trainers on one machine
TRAINER = 2e6  # tokens/s of a fast trainer: upstream's makes 1.7 M on an H100
BUDGET = 10 * TRAINER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, to see that it runs")
    parser.add_argument("--load", nargs=2, metavar=("FILE", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(*load(Path(options.load[0]), float(options.load[1])))
        return
    quick = options.quick
    seconds, rows, megabytes = (0.5, 10_000, 6) if quick else (4.0, 100_000, 60)
    cores = len(settings.cpu_cores())
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}\n")
    print("| what | budget | measured |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["SWARM_CACHE"] = str(place / "cache")
        train = write_random_rows(place, rows)
        measures: list[Callable[[], Iterator[Row]]] = [
            lambda: loader(train, seconds),
            lambda: preparation(place, megabytes),
            lambda: ready(3 if quick else 9),
            *(lambda scale=scale: bytes_as_upstream(scale) for scale in settings.SCALES),
        ]
        for measure in measures:
            for row in measure():
                print(f"| {' | '.join(row)} |", flush=True)


# Loader -------------------------------------------------------------------------------------------


def write_random_rows(place: Path, rows: int) -> Path:
    sizes = settings.SCALES["full"]
    shape = (rows, sizes.seq_len + 1)
    tokens = np.random.default_rng(0).integers(sizes.vocab_size, size=shape, dtype=np.uint16)
    tokens.tofile(place / "train.bin")
    return place / "train.bin"


def load(path: Path, seconds: float) -> tuple[float, float]:
    """Draw batches for a while: (tokens/s, CPU seconds per 1 M tokens)."""
    seq_len = settings.SCALES["full"].seq_len
    rows = path.stat().st_size // (2 * (seq_len + 1))
    dataset = prepare.Dataset(path.parent, "full", "", "", seq_len, 0, 0, {"train": rows}, {})
    device = cpu_device(importlib.import_module("torch"))  # late: workers import this file, too
    batches = prepare.Loader(dataset, BATCH, device, seed=0)
    next(batches)
    tokens, started, cpu = 0, time.monotonic(), time.process_time()
    while (passed := time.monotonic() - started) < seconds:
        x, _ = next(batches)
        tokens += x.numel()
    return tokens / passed, 1e6 * (time.process_time() - cpu) / tokens


def loader(path: Path, seconds: float) -> Iterator[Row]:
    """One loader, then eight at once."""
    for processes in (1, PROCESSES):
        command = [sys.executable, __file__, "--load", str(path), str(seconds)]
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
        ]
        found = [tuple(map(float, child.communicate()[0].split())) for child in started]
        if any(child.returncode for child in started):
            sys.exit("error: a loader failed; its message is above")
        rate = sum(rate for rate, _ in found)
        cpu = statistics.mean(cpu for _, cpu in found)
        label = "1 loader" if processes == 1 else f"{processes} loaders at once, together"
        yield (
            label,
            f"≥ {processes * BUDGET / 1e6:.0f} M tokens/s",
            f"{rate / 1e6:,.0f} M tokens/s",
        )
        yield (
            f"{label}: CPU time",
            f"≤ {1e6 / BUDGET * 1e3:.0f} ms per 1 M tokens",
            f"{1e3 * cpu:.2f} ms, {cpu * TRAINER / 1e6:.2%} of a core each at 2 M tokens/s",
        )


# Preparation --------------------------------------------------------------------------------------


def preparation(place: Path, megabytes: int) -> Iterator[Row]:
    """Tokens encoded and packed a second, on one core and on all."""
    sizes = dataclasses.replace(settings.SCALES["full"], part_chars=2_000_000)
    texts: list[str] = []
    chars = 0
    while chars < megabytes * 1e6:
        for text in sources.Builtin().texts():
            texts += sources.split_text(text, 3 * sizes.seq_len)
            chars += len(text)
            if chars >= megabytes * 1e6:
                break
    tokenizer = Tokenizer.train(texts[: len(texts) // 4], sizes.vocab_size)
    corpus = sources.Corpus(lambda: (("train", text) for text in texts), len(texts))
    cores = settings.cpu_cores()
    for few in (cores[:1], cores):
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, few)
        draft = place / f"on {len(few)}"
        draft.mkdir(exist_ok=True)
        started = time.monotonic()
        parts = make_parts(corpus, tokenizer, sizes, draft)
        passed = time.monotonic() - started
        tokens = sum(path.stat().st_size // 2 - 16 for path in parts["train"])
        yield (
            f"encode and pack {chars / 1e6:.0f} MB, cores: {len(few)}",
            "–",
            f"{tokens / passed / 1e6:.2f} M tokens/s, {chars / passed / 1e6:.1f} MB/s",
        )
        if few == cores:
            break


def ready(times: int) -> Iterator[Row]:
    """`python prepare.py` where the data is there, and Python's own start."""
    build("small")
    for label, budget, command in (
        ("`python prepare.py`, data there", "< 200 ms", ["prepare.py", "--scale", "small"]),
        ("Python alone", "–", ["-c", ""]),
    ):
        took = []
        for _ in range(times):
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE
            )
            took.append(time.monotonic() - started)
            assert "heldout_tokens" in done.stdout.decode() or label == "Python alone"
        yield label, budget, f"median {1e3 * statistics.median(took):.0f} ms"


# Bytes --------------------------------------------------------------------------------------------


def build(scale: str) -> prepare.Dataset:
    return building.prepare("builtin", 1, scale, force=False)


def bytes_as_upstream(scale: str) -> Iterator[Row]:
    """How much lower bpb reads when tokens that are no UTF-8 alone count as U+FFFD, 3 bytes each.

    The nats are the same, so the ratio of the two bpb is that of the targets' bytes.
    """
    dataset = build(scale)
    tokenizer = dataset.tokenizer()
    counts = np.bincount(dataset.memory_map("val")[:, 1:].ravel(), minlength=dataset.vocab_size)
    upstream = [len(token.decode(errors="replace").encode()) for token in tokenizer.tokens]
    true_bytes = int(counts @ np.array(tokenizer.token_bytes()))
    upstream_bytes = int(counts[: tokenizer.bos] @ np.array(upstream))
    yield (
        f"bpb by upstream's bytes, {scale} scale, same nats",
        "–",
        f"{1 - true_bytes / upstream_bytes:.3%} lower ({true_bytes:,} true bytes,"
        f" {upstream_bytes:,} upstream's)",
    )


if __name__ == "__main__":
    main()
