"""Prepare data, and what train.py takes from the fixed half of a trial.

`python prepare.py` builds a dataset once (download or collect text, train a tokenizer, tokenize,
pack into rows) and prints what is there. `train.py` imports this file, which hands on the public
names of `swarm/harness/`. Agents may edit neither: what a trial is scored by is `evaluate_bpb`.

Environment:
    SWARM_CACHE          where datasets, downloads, locks and compiled kernels live
                         (default ~/.cache/swarm)
    SWARM_SCALE          full | small (default: full where a fast accelerator is, else small)
    SWARM_DEVICE         cuda | xpu | hpu | mps | cpu (default: the first that is here)
    SWARM_DATASET        directory of a prepared dataset (default: the last one prepared)
    SWARM_SECONDS        training budget in seconds of wall-clock time (default 300)
    SWARM_SEED           seed of weights and row order (default 42)
    SWARM_ATTEST         file in which evaluate_bpb leaves its result as JSON (default: none)
    SWARM_DEVICE_LOCKED  1: the caller of train.py holds the device lock already
    SWARM_DATA_URL       where the climbmix shards are fetched from (default: the Hugging Face hub)
"""

from __future__ import annotations

import argparse
import sys

from swarm.harness.building import prepare
from swarm.harness.climbmix import Climbmix
from swarm.harness.dataset import REBUILD, Dataset, sha256
from swarm.harness.device import Device, is_out_of_memory, lock_device
from swarm.harness.evaluation import EvaluationError, evaluate_bpb
from swarm.harness.loader import Loader
from swarm.harness.probes import pick_device
from swarm.harness.progress import Waiting
from swarm.harness.settings import (
    EVAL_ROWS,
    MAX_SEQ_LEN,
    SCALE,
    SCALES,
    SEED,
    TIME_BUDGET,
    VOCAB_SIZE,
    PrepareError,
    cache_dir,
    check_environment,
    fail,
    log,
    seconds_since_start,
)
from swarm.harness.setup import set_up

__all__ = [
    "EVAL_ROWS",
    "MAX_SEQ_LEN",
    "SCALE",
    "SEED",
    "TIME_BUDGET",
    "VOCAB_SIZE",
    "Dataset",
    "Device",
    "EvaluationError",
    "Loader",
    "PrepareError",
    "Waiting",
    "evaluate_bpb",
    "fail",
    "is_out_of_memory",
    "lock_device",
    "log",
    "pick_device",
    "seconds_since_start",
    "set_up",
]


def verify(scale: str) -> None:
    """Read every file of the current dataset and print whether it is what was written."""
    dataset = Dataset.open(scale=scale)
    corrupt = []
    for name, checksum in dataset.checksums.items():
        if sha256(dataset.path / name) != checksum:
            corrupt.append(name)
        print(f"{dataset.path / name}: {'corrupt' if name in corrupt else 'ok'}")
    if corrupt:
        raise PrepareError(f"{dataset.path}: {', '.join(corrupt)} corrupt", REBUILD)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Build a dataset once; print what is there.",
        epilog="example: python prepare.py --dataset climbmix --shards 10",
    )
    parser.add_argument(
        "--dataset", metavar="climbmix|builtin|FOLDER", help="where the text is from"
    )
    parser.add_argument("--shards", type=int, default=10, help="climbmix training shards (10)")
    parser.add_argument("--scale", choices=SCALES, default=SCALE, help=f"(default: {SCALE})")
    parser.add_argument("--force", action="store_true", help="build again what is there")
    parser.add_argument("--verify", action="store_true", help="read and check the current dataset")
    options = parser.parse_args(arguments)
    if not 1 <= options.shards <= Climbmix.VAL_SHARD:
        parser.error(f"--shards must be 1 to {Climbmix.VAL_SHARD}")
    try:
        check_environment()
        if options.verify:
            verify(options.scale)
            return 0
        ready = prepare(options.dataset, options.shards, options.scale, options.force)
        if ready.scale == "full" and ready.source == "builtin":
            tokens = ready.rows["train"] * ready.seq_len / 1e6
            log(
                f"note: the builtin text is small ({tokens:.0f} M tokens);"
                " `--dataset climbmix` is the real thing"
            )
        print(ready.summary())
    except PrepareError as error:
        return fail(error)
    except OSError as error:
        message = f"{error.strerror or error} ({error.filename or cache_dir()})"
        return fail(PrepareError(message, "check the disk's free space and the rights there"))
    except KeyboardInterrupt:
        log("error: interrupted\nhint: run it again; finished parts and downloads are kept")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
