"""The score of a trial: validation bits per byte, measured here and nowhere else."""

from __future__ import annotations

import base64
import json
import math
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from swarm.harness import budget, weights
from swarm.harness.dataset import Dataset
from swarm.harness.device import Device
from swarm.harness.loader import to_device
from swarm.harness.progress import Waiting
from swarm.harness.settings import SCALES, PrepareError, write_atomic
from swarm.harness.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch


class EvaluationError(PrepareError):
    """The model cannot be scored: it looks ahead, or its logits are not finite or misshapen."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "the model must map tokens (B, T) to causal logits (B, T, V)")


def evaluate_bpb(
    model: Any,
    batch_size: int,
    device: Device,
    dataset: Dataset | None = None,
    split: str = "val",
) -> float:
    """Bits per byte of a split: total nats of its targets / (ln 2 × their total bytes).

    `model(x)` takes int64 tokens of shape (B, T) and must give logits (B, T, V) with V ≥ the
    vocabulary size. B is the scale's `eval_rows`, whatever the caller's batch size, so that the
    score does not depend on it; only a smaller `batch_size`, for small devices, lowers B. The
    logits are normalised here in float32, so neither the targets nor the sum pass through the
    model. Special tokens have no bytes and are not scored. Raises EvaluationError. When
    SWARM_ATTEST is set and the split is `val`, keeps the weights (see `weights`) and then writes
    that file, with the nats of each row (float32, base64), by which `examine` checks the score.
    """
    import numpy as np
    import torch

    trained, taken = budget.training_seconds(), budget.batches()
    dataset = dataset or Dataset.open()
    dataset.check(f"{split}.bin")
    dataset.check("tokenizer.json")
    tokenizer = dataset.tokenizer()
    rows = dataset.uncounted(split)
    training = bool(getattr(model, "training", False))
    if training:
        model.eval()
    with torch.no_grad(), Waiting("evaluating"):
        batch_size = min(batch_size, SCALES[dataset.scale].eval_rows)
        nats = nats_of_rows(model, rows, batch_size, device, tokenizer)
    if training:
        model.train()
    size = sum(bytes_of_rows(rows, tokenizer).tolist())
    bpb = bits_per_byte(nats, size)
    if split == "val" and (attest := os.environ.get("SWARM_ATTEST")):
        result = {
            "val_bpb": bpb,
            "tokens": int(np.count_nonzero(rows[:, 1:] < tokenizer.bos)),
            "bytes": size,
            "causal": True,
            "training_seconds": round(trained, 3),
            "batches": taken,
            "row_nats": base64.b64encode(np.array(nats.tolist(), "<f4").tobytes()).decode(),
            "weights": weights.keep(model, device, Path(attest).parent),
        }
        write_atomic(Path(attest), (json.dumps(result) + "\n").encode())
    return bpb


def bits_per_byte(nats: torch.Tensor, size: int) -> float:
    """Of rows with `nats` and so many bytes together. Raises EvaluationError."""
    return finite_sum(nats) / (math.log(2) * size)


def bytes_of_rows(rows: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Bytes of text that each row's targets stand for."""
    import numpy as np

    token_bytes = np.array(tokenizer.token_bytes(), np.int32)
    return np.array([token_bytes[row[1:]].sum() for row in rows])


def nats_of_rows(
    model: Any, rows: np.ndarray, batch_size: int, device: Device, tokenizer: Tokenizer
) -> torch.Tensor:
    """Negative log-likelihood of each row's targets that are text; random batches are probed.

    The device is waited for at the probes and at the end only.
    """
    import numpy as np
    import torch

    starts = range(0, len(rows), batch_size)
    probes = min(len(starts), max(3, round(len(starts) / 8)))
    probed = set(random.SystemRandom().sample(starts, probes))  # no score depends on the choice
    found = []
    for start in starts:
        # The last batch is filled up with repeated rows: one shape, one compilation.
        chosen = np.arange(start, start + batch_size) % len(rows)
        batch = to_device(rows[chosen], device)
        x, y = batch[:, :-1].contiguous(), batch[:, 1:]
        logits = checked_logits(model, x, tokenizer.vocab_size)
        found.append(row_nats(logits, y, tokenizer.bos)[: len(rows) - start])
        if start in probed:
            finite_sum(found[-1])
            check_causal(model, x, logits, tokenizer.vocab_size)
    return torch.cat(found)


def finite_sum(nats: torch.Tensor) -> float:
    total = math.fsum(nats.tolist())
    if not math.isfinite(total):
        raise EvaluationError("the model's logits are not finite")
    return total


def row_nats(logits: torch.Tensor, y: torch.Tensor, bos: int) -> torch.Tensor:
    """Nats of each row's targets below `bos`: (B, T, V), (B, T) → (B,); float64 but on MPS."""
    import torch

    # A few tokens at a time: as float32, a whole batch is huge. On a CPU, temporaries of a
    # megabyte stay in the cache, where larger ones take three times as long, in page faults.
    few = max(1, (2**18 if logits.device.type == "cpu" else 2**26) // logits.shape[2])
    flat, targets = logits.reshape(-1, logits.shape[2]), y.reshape(-1)
    losses = torch.cat(
        [
            torch.nn.functional.cross_entropy(
                flat[start : start + few].float(), targets[start : start + few], reduction="none"
            )
            for start in range(0, len(flat), few)
        ]
    )
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    return torch.where(targets < bos, losses, 0.0).view(y.shape).sum(dim=1, dtype=exact)


def checked_logits(model: Any, x: torch.Tensor, vocab_size: int) -> torch.Tensor:
    logits = model(x)
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 3 or shape[:2] != tuple(x.shape) or shape[2] < vocab_size:
        raise EvaluationError(f"the model gave shape {shape} for tokens of shape {tuple(x.shape)}")
    return cast("torch.Tensor", logits)


MAX_NOISE = 0.13  # between equal calls: two steps of bfloat16 from 8 to 16


def check_causal(model: Any, x: torch.Tensor, logits: torch.Tensor, vocab_size: int) -> None:
    """Change the tokens from a random position on: no logit before it may move.

    The position cannot be guessed by the model, and no score depends on it. Where the arithmetic
    differs between equal calls, twice that difference is allowed, but that must be small too.
    """
    import torch

    cut = random.SystemRandom().randrange(1, x.shape[1])
    before = logits[:8, :cut].float().clone()  # a model may reuse the memory of its logits
    shift = torch.randint_like(x[:, cut:], 1, vocab_size)  # never 0: every later token changes
    changed = torch.cat((x[:, :cut], (x[:, cut:] + shift) % vocab_size), dim=1)

    def moved(tokens: torch.Tensor) -> float:
        after = checked_logits(model, tokens, vocab_size)[:8, :cut].float()
        # Equal infinities are equal, though their difference is NaN.
        return float(torch.where(after == before, 0.0, after - before).abs().max())

    if not (ahead := moved(changed)) <= 1e-3:  # also when it is NaN
        if not (noise := moved(x)) <= MAX_NOISE:  # also when it is NaN
            raise EvaluationError(f"the model gives other logits ({noise:.3g}) for the same tokens")
        if not ahead <= 1e-3 + 2 * noise:
            raise EvaluationError(
                f"the model looks ahead: other tokens from position {cut} on moved earlier logits"
                f" by {ahead:.3g}"
            )
