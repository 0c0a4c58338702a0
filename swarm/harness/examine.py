"""A second evaluation: does a model with the weights that were kept score what was attested?

`python -m swarm.harness.examine` never imports train.py: it asks the process that does (see
`served`) for logits, and computes the loss itself. It reads one JSON document from stdin and prints
another: what it found, or why it `refused` the score.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import sys
import time
from typing import TYPE_CHECKING, Any

from swarm.harness.dataset import Dataset
from swarm.harness.device import ASYNCHRONOUS, Device
from swarm.harness.evaluation import (
    EvaluationError,
    bits_per_byte,
    bytes_of_rows,
    checked_logits,
    nats_of_rows,
)
from swarm.harness.loader import to_device
from swarm.harness.probes import cpu_device, pick_device
from swarm.harness.served import RemoteModel
from swarm.harness.settings import SCALES, log
from swarm.harness.setup import keep_freed_memory
from swarm.harness.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

RANDOM_ROWS, BEST_ROWS, HELDOUT_ROWS = 256, 64, 512
"""What is evaluated again, of 10,240 rows a split at full scale: rows of the validation split,
drawn at random, and those attested best; and the first rows of the held-out split. To gain 1 % by
false rows, one needs 1 % of them with a loss of nothing, most of which are among the best, or 2 %
at half their loss, which the random ones miss with a probability of 0.6 %."""
UNSEEN_ROWS, UNSEEN_SDS = 128, 4.5
"""A target's nats have an SD of about 3: in so many rows, a model that looks ahead for more than a
third of its score is found, and an honest one is refused once in 300,000 times."""
MAX_BPB_DIFFERENCE, MAX_ROW_DIFFERENCE = 5e-4, 0.02
"""Between two evaluations of the same weights: of their bits per byte, and of a row's nats as a
share. In float32 on one CPU they differ by less than 1e-5. In bfloat16, compiled or eager, a logit
near 15 is rounded by up to 0.06: a token's loss is then off by some 0.03 nats at random, a row's by
less than 1 %, and all rise together by half the variance of that, 5e-4 nats or 2e-4 bits per byte.
A seed changes more than that."""


def main() -> None:
    """Print what was found; the exit code is not 0 when the examination itself failed."""
    request = json.load(sys.stdin)
    try:
        found = examine(request)
    except EvaluationError as error:
        found = {"refused": str(error)}
    sys.stdout.write(json.dumps(found) + "\n")


def examine(request: dict[str, Any]) -> dict[str, Any]:
    """Compare rows with what was attested, then score the held-out split.

    `request` has `val_bpb` and `row_nats` as attested, the open files `channel` and `logits`, and
    the seconds until its `limit`. Raises EvaluationError where the score does not hold.
    """
    import torch

    deadline = time.monotonic() + request["limit"]
    dataset = Dataset.open()
    tokenizer = dataset.tokenizer()
    splits = {split: dataset.memory_map(split) for split in ("val", "heldout")}
    for name in ("val.bin", "heldout.bin", "tokenizer.json"):
        dataset.check(name)
    sizes = bytes_of_rows(splits["val"], tokenizer)
    attested = decoded(request["row_nats"], len(sizes))
    check_sum(attested, sizes, request["val_bpb"])
    model = RemoteModel(request["channel"], request["logits"], tokenizer.vocab_size, deadline)
    model.wait()
    device = place()  # now: where a device serves one process only, the model has it
    batch_size = SCALES[dataset.scale].eval_rows
    with torch.no_grad():
        chosen = choose(attested, sizes)
        rows = splits["val"][chosen]
        unseen = unseen_nats(model, rows[:UNSEEN_ROWS], batch_size, device, tokenizer)  # first
        nats = nats_of_rows(model, rows, batch_size, device, tokenizer).cpu().double().numpy()
        check_unseen(unseen, nats[:UNSEEN_ROWS] / scored_of_rows(rows[:UNSEEN_ROWS], tokenizer))
        found = compare(attested[chosen], nats, sizes[chosen])
        held_out = splits["heldout"][:HELDOUT_ROWS]
        held_out_nats = nats_of_rows(model, held_out, batch_size, device, tokenizer)
    heldout_bpb = bits_per_byte(held_out_nats, sum(bytes_of_rows(held_out, tokenizer).tolist()))
    return found | {"heldout_bpb": heldout_bpb, "heldout_rows": len(held_out)}


def place() -> Device:
    """Where losses are computed: beside the model where a device serves two processes well."""
    import torch

    device = pick_device()
    if device.kind in ASYNCHRONOUS:
        try:
            torch.zeros(1, device=device.torch_device)
            return device
        except RuntimeError as error:  # it is the other's alone, or full
            log(f"losses are computed on the CPU: {error}")
    keep_freed_memory()
    return cpu_device(torch)


def unseen_nats(
    model: Any, rows: np.ndarray, batch_size: int, device: Device, tokenizer: Tokenizer
) -> np.ndarray:
    """The nats of one random target of each row, which is not among the tokens the model gets.

    That and all that follows it is replaced by random tokens.
    """
    import numpy as np
    import torch

    generator = np.random.default_rng()  # from the system's entropy
    found: list[np.ndarray] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[np.arange(start, start + batch_size) % len(rows)]
        hidden, positions = batch.copy(), []
        for row in hidden:
            # A row of special tokens alone has no target that counts.
            scored = np.flatnonzero(row[1:] < tokenizer.bos)
            position = int(generator.choice(scored)) if len(scored) else 0
            row[position + 1 :] = generator.integers(0, tokenizer.bos, len(row) - position - 1)
            positions.append(position)
        which = torch.arange(len(batch)), torch.tensor(positions)
        targets = torch.from_numpy(batch.astype(np.int64))[:, 1:][which]
        x = to_device(hidden, device)[:, :-1].contiguous()
        logits = checked_logits(model, x, tokenizer.vocab_size)[which].float().cpu()
        nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        found.append(nats.double().numpy()[: len(rows) - start])
    joined: np.ndarray = np.concatenate(found)
    return joined


def scored_of_rows(rows: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """How many targets of each row count; at least one."""
    import numpy as np

    scored = np.sum(rows[:, 1:] < tokenizer.bos, axis=1)
    return np.array([max(1, count) for count in scored])


def check_unseen(unseen: np.ndarray, means: np.ndarray) -> None:
    """Unseen targets must be foretold as well as a row's are on average: a target is one of those.

    `check_causal` compares two answers, and a model that remembers the first can repeat it. No
    memory helps to foretell what was never shown. Raises EvaluationError.
    """
    import numpy as np

    worse = unseen - means
    if not worse.mean() <= UNSEEN_SDS * worse.std() / np.sqrt(len(worse)):
        raise EvaluationError(
            f"the model looks ahead: targets it cannot see cost {unseen.mean():.2f} nats,"
            f" those it can {means.mean():.2f}"
        )


def decoded(text: str, rows: int) -> np.ndarray:
    """The attested nats of each row. Raises EvaluationError."""
    import numpy as np

    try:
        nats = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except (ValueError, binascii.Error):
        nats = np.empty(0)
    if len(nats) != rows or not np.isfinite(nats).all():
        raise EvaluationError(f"it did not attest the nats of {rows} rows")
    return nats


def check_sum(attested: np.ndarray, sizes: np.ndarray, val_bpb: float) -> None:
    import torch

    total = bits_per_byte(torch.from_numpy(attested), int(sizes.sum()))
    if not abs(total - val_bpb) <= 1e-6 * max(1.0, val_bpb):  # float32 has seven digits
        raise EvaluationError(f"its rows make {total:.6f}, it attested {val_bpb:.6f}")


def choose(attested: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Rows to evaluate again: the best ones, and a random choice that nobody can foresee."""
    import numpy as np

    if len(sizes) <= RANDOM_ROWS + BEST_ROWS:
        return np.arange(len(sizes))
    best = np.argsort(attested / np.maximum(sizes, 1))[:BEST_ROWS]
    drawn = random.SystemRandom().sample(range(len(sizes)), RANDOM_ROWS)
    return np.unique(np.concatenate((best, drawn)))


def compare(attested: np.ndarray, examined: np.ndarray, sizes: np.ndarray) -> dict[str, Any]:
    """What both say of the same rows. Raises EvaluationError where they differ."""
    import numpy as np
    import torch

    size = int(sizes.sum())
    said, is_ = (bits_per_byte(torch.from_numpy(nats), size) for nats in (attested, examined))
    if not abs(said - is_) <= MAX_BPB_DIFFERENCE:
        raise EvaluationError(
            f"its saved weights score {is_:.6f} on {len(sizes)} rows, it attested {said:.6f} there"
        )
    difference = np.abs(examined - attested) / np.maximum(np.maximum(examined, attested), 1.0)
    if not (worst := float(difference.max())) <= MAX_ROW_DIFFERENCE:
        raise EvaluationError(
            f"its saved weights score a row {100 * worst:.1f} % differently from what it attested"
        )
    return {"rows": len(sizes), "val_bpb": is_, "attested_bpb": said}


if __name__ == "__main__":
    main()
