"""A plain GPT trainer, as a textbook writes it: what `train.py` is measured against.

    python benchmarks/reference.py --depth 2 --width 64 --head-dim 32 --batch 2048 --rows 8

Same model, mathematics and values as the upstream trainer (karpathy's autoresearch), and nothing
done for speed: eager PyTorch, attention over its whole T × T matrix, the optimizer one matrix at a
time, documents tokenized and packed in Python while the clock runs, the loss read at every step.
The environment (SWARM_SECONDS, SWARM_SEED, …), the score and the last lines are those of train.py.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import prepare

# ==================================================================================================
# Upstream's values
# ==================================================================================================

WINDOW_PATTERN = "SSSL"  # S sees half the sequence; the last layer is always L
ROPE_BASE = 10000.0
SOFTCAP = 15.0
GATE_CHANNELS = 32
X0_INIT = 0.1
MATRIX_LR = 0.04
EMBEDDING_LR = 0.6
UNEMBEDDING_LR = 0.004
X0_LR = 0.5
RESIDUAL_LR = 0.005
WEIGHT_DECAY = 0.2
ADAM_BETAS = (0.8, 0.95)
X0_BETAS = (0.96, 0.95)
MUON_MOMENTUM = 0.95
MUON_MOMENTUM_START = 0.85
MUON_MOMENTUM_STEPS = 300
MUON_BETA2 = 0.95
WARMDOWN_RATIO = 0.5  # share of the budget in which the learning rates fall to 0
PACK_BUFFER = 1000  # documents that packing chooses from
TOKENIZER_BATCH = 128  # documents that are tokenized at once
TEXT_TOKENS = 64_000_000  # training text that is held ready; more than a run of this file uses

# ==================================================================================================
# Model
# ==================================================================================================


@dataclass(frozen=True)
class Sizes:
    """Shape of the model; `dtype` is that of the embeddings and the rotary tables."""

    vocab_size: int
    seq_len: int
    depth: int
    width: int
    head_dim: int
    mlp_ratio: int = 4
    dtype: torch.dtype = torch.float32

    def is_short(self, layer: int) -> bool:
        last = layer == self.depth - 1
        return not last and WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "S"

    def has_value_embedding(self, layer: int) -> bool:
        return layer % 2 == (self.depth - 1) % 2


def norm(x: Tensor) -> Tensor:
    """RMSNorm without parameters."""
    mean_square = x.square().mean(dim=-1, keepdim=True)
    return (x * torch.rsqrt(mean_square + torch.finfo(x.dtype).eps)).type_as(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (B, H, T, D): channel i turns with channel i + D / 2."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def additive_mask(seq_len: int, window: int) -> Tensor:
    """(T, T) float32: 0 where a query sees a key at most `window` tokens back, −∞ elsewhere."""
    query, key = torch.arange(seq_len).unsqueeze(1), torch.arange(seq_len).unsqueeze(0)
    hidden = (key > query) | (query - key > window)
    return torch.zeros(seq_len, seq_len).masked_fill(hidden, -math.inf)


class Attention(nn.Module):
    """Causal attention with QK-norm; the softmax is over a T × T matrix in float32."""

    def __init__(self, sizes: Sizes, layer: int) -> None:
        super().__init__()
        self.heads = sizes.width // sizes.head_dim
        self.head_dim = sizes.head_dim
        self.wq = nn.Linear(sizes.width, sizes.width, bias=False)
        self.wk = nn.Linear(sizes.width, sizes.width, bias=False)
        self.wv = nn.Linear(sizes.width, sizes.width, bias=False)
        self.wo = nn.Linear(sizes.width, sizes.width, bias=False)
        self.gate: nn.Linear | None = None
        if sizes.has_value_embedding(layer):
            self.gate = nn.Linear(min(GATE_CHANNELS, sizes.width), self.heads, bias=False)

    def forward(
        self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor, mask: Tensor
    ) -> Tensor:
        batch, length, width = x.shape

        def heads_first(y: Tensor) -> Tensor:
            return y.view(batch, length, self.heads, self.head_dim).transpose(1, 2)

        q, k, v = heads_first(self.wq(x)), heads_first(self.wk(x)), heads_first(self.wv(x))
        if self.gate is not None and value_embedding is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))
            v = v + gate.transpose(1, 2).unsqueeze(-1) * heads_first(value_embedding)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(self.head_dim) + mask
        y = torch.softmax(scores, dim=-1).type_as(v) @ v
        out: Tensor = self.wo(y.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Two linear layers with ReLU² between."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.up = nn.Linear(sizes.width, sizes.mlp_ratio * sizes.width, bias=False)
        self.down = nn.Linear(sizes.mlp_ratio * sizes.width, sizes.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(x)) ** 2)
        return out


class Layer(nn.Module):
    def __init__(self, sizes: Sizes, layer: int) -> None:
        super().__init__()
        self.attention = Attention(sizes, layer)
        self.mlp = MLP(sizes)

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        x = x + self.attention(norm(x), *others)
        y: Tensor = x + self.mlp(norm(x))
        return y


class GPT(nn.Module):
    """Tokens (B, T) → logits (B, T, V) in float32."""

    cos: Tensor
    sin: Tensor
    full_mask: Tensor
    short_mask: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes

        def embedding() -> nn.Embedding:
            return nn.Embedding(sizes.vocab_size, sizes.width, dtype=sizes.dtype)

        self.embedding = embedding()
        with_values = [i for i in range(sizes.depth) if sizes.has_value_embedding(i)]
        self.value_embeddings = nn.ModuleDict({str(i): embedding() for i in with_values})
        self.layers = nn.ModuleList([Layer(sizes, i) for i in range(sizes.depth)])
        self.head = nn.Linear(sizes.width, sizes.vocab_size, bias=False)
        self.residual_scalars = nn.Parameter(torch.ones(sizes.depth))
        self.x0_scalars = nn.Parameter(torch.full((sizes.depth,), X0_INIT))
        frequencies = ROPE_BASE ** (-torch.arange(0, sizes.head_dim, 2) / sizes.head_dim)
        angles = torch.outer(torch.arange(sizes.seq_len).float(), frequencies)
        self.register_buffer("cos", angles.cos().to(sizes.dtype), persistent=False)
        self.register_buffer("sin", angles.sin().to(sizes.dtype), persistent=False)
        for name, window in (("full_mask", sizes.seq_len), ("short_mask", sizes.seq_len // 2)):
            self.register_buffer(name, additive_mask(sizes.seq_len, window), persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        bound = math.sqrt(3.0) / math.sqrt(self.sizes.width)
        nn.init.normal_(self.embedding.weight)
        nn.init.normal_(self.head.weight, std=0.001)
        for name, weight in self.named_parameters():
            if name.endswith(("wo.weight", "down.weight", "gate.weight")):
                nn.init.zeros_(weight)
            elif name.startswith(("layers.", "value_embeddings.")):
                nn.init.uniform_(weight, -bound, bound)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = x0 = norm(self.embedding(tokens))
        for i, layer in enumerate(self.layers):
            mask = self.short_mask if self.sizes.is_short(i) else self.full_mask
            x = self.residual_scalars[i] * x + self.x0_scalars[i] * x0
            values = None
            if self.sizes.has_value_embedding(i):
                values = self.value_embeddings[str(i)](tokens)
            x = layer(x, values, cos, sin, mask[:length, :length])
        logits = self.head(norm(x)).float()
        capped: Tensor = SOFTCAP * torch.tanh(logits / SOFTCAP)
        return capped

    def flops_per_token(self) -> float:
        """Useful FLOPs of training, counted as train.py does: masked positions are not useful."""
        matrices = sum(p.numel() for p in self.layers.parameters()) + self.head.weight.numel()
        length, depth = self.sizes.seq_len, self.sizes.depth
        spans = sum(length // 2 if self.sizes.is_short(i) else length for i in range(depth))
        return 6.0 * matrices + 12.0 * self.sizes.width * spans


# ==================================================================================================
# Optimizer
# ==================================================================================================

# Coefficients of five iterations (Amsel et al. 2025, "The Polar Express").
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def adamw_step(
    weight: Tensor, mean: Tensor, variance: Tensor, step: int, lr: float, betas: tuple[float, float]
) -> None:
    """One step of AdamW (Loshchilov & Hutter 2019) without weight decay; `step` counts from 1."""
    assert weight.grad is not None
    mean.mul_(betas[0]).add_(weight.grad, alpha=1 - betas[0])
    variance.mul_(betas[1]).addcmul_(weight.grad, weight.grad, value=1 - betas[1])
    unbiased_mean = mean / (1 - betas[0] ** step)
    unbiased_variance = variance / (1 - betas[1] ** step)
    weight.sub_(lr * unbiased_mean / (unbiased_variance.sqrt() + 1e-10))


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Five Polar Express iterations: singular values go to about 1."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalized(matrix.T, dtype).T
    x: Tensor = matrix.to(dtype)
    x = x / (x.norm() * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        product = x @ x.T
        x = a * x + (b * product + c * product @ product) @ x
    return x


def muon_step(
    weight: Tensor, momentum_buffer: Tensor, variance: Tensor,
    lr: float, momentum: float, weight_decay: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    """One step of Muon (Jordan et al. 2024) for one matrix.

    With Nesterov momentum, NorMuon's variance reduction (Li et al. 2025) and cautious weight decay.
    `dtype` is that of the orthogonalization.
    """
    assert weight.grad is not None
    momentum_buffer.mul_(momentum).add_(weight.grad, alpha=1 - momentum)
    nesterov = (1 - momentum) * weight.grad + momentum * momentum_buffer
    update = orthogonalized(nesterov, dtype).type_as(weight)
    rows, columns = weight.shape
    variance.mul_(MUON_BETA2)
    variance.add_(update.square().mean(1 if rows >= columns else 0, True), alpha=1 - MUON_BETA2)
    reduced = update * variance.clamp_min(1e-10).rsqrt()
    update = reduced * (update.norm() / reduced.norm().clamp_min(1e-10))
    decay = weight_decay * weight * (update * weight >= 0)
    weight.sub_(lr * math.sqrt(max(1.0, rows / columns)) * (update + decay))


def lr_multiplier(progress: float) -> float:
    """Constant, then linear to 0."""
    return min(1.0, (1.0 - progress) / WARMDOWN_RATIO)


def muon_momentum(step: int) -> float:
    """Linear to MUON_MOMENTUM, then constant."""
    share = min(1.0, step / MUON_MOMENTUM_STEPS)
    return MUON_MOMENTUM_START + share * (MUON_MOMENTUM - MUON_MOMENTUM_START)


class Optimizer:
    """AdamW for embeddings, head and scalars; Muon for each matrix of the layers in turn."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.steps = 0
        scale = (model.sizes.width / 768) ** -0.5
        self.adamw: list[tuple[Tensor, float, tuple[float, float]]] = [
            (model.head.weight, UNEMBEDDING_LR * scale, ADAM_BETAS),
            (model.embedding.weight, EMBEDDING_LR * scale, ADAM_BETAS),
            (model.residual_scalars, RESIDUAL_LR, ADAM_BETAS),
            (model.x0_scalars, X0_LR, X0_BETAS),
        ]
        for embedding in model.value_embeddings.parameters():
            self.adamw.append((embedding, EMBEDDING_LR * scale, ADAM_BETAS))
        self.moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w, _, _ in self.adamw]
        self.matrices = list(model.layers.parameters())
        self.buffers = [torch.zeros_like(w) for w in self.matrices]
        self.variances = [
            torch.zeros_like(w[:, :1] if w.shape[0] >= w.shape[1] else w[:1]) for w in self.matrices
        ]

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Learning rates and weight decay follow the progress (0 to 1), momentum the steps."""
        momentum, lr_scale = muon_momentum(self.steps), lr_multiplier(progress)
        decay = WEIGHT_DECAY * (1.0 - progress)
        self.steps += 1
        for (weight, lr, betas), (mean, variance) in zip(self.adamw, self.moments, strict=True):
            adamw_step(weight, mean, variance, self.steps, lr * lr_scale, betas)
        for weight, buffer, variance in zip(
            self.matrices, self.buffers, self.variances, strict=True
        ):
            muon_step(weight, buffer, variance, MATRIX_LR * lr_scale, momentum, decay, self.dtype)


# ==================================================================================================
# Data
# ==================================================================================================


def training_texts(dataset: prepare.Dataset, seed: int) -> list[str]:
    """The documents of the training split as text again, in an order that the seed decides."""
    rows = dataset.memory_map("train")
    order = np.random.default_rng(seed).permutation(len(rows))[: TEXT_TOKENS // dataset.seq_len]
    tokens = rows[order].ravel()
    documents = np.split(tokens, np.flatnonzero(tokens == dataset.bos))
    decode = dataset.tokenizer().encoding().decode_bytes
    # A document that ends with its row may end inside a character.
    return [decode(d[1:].tolist()).decode(errors="ignore") for d in documents if len(d) > 1]


class PackingLoader:
    """Tokenizes documents and packs them, best fit first, while training asks for batches."""

    def __init__(self, dataset: prepare.Dataset, rows: int, device: str, seed: int) -> None:
        self.encoding, self.bos = dataset.tokenizer().encoding(), dataset.bos
        self.texts = itertools.cycle(training_texts(dataset, seed))
        self.rows, self.seq_len, self.device = rows, dataset.seq_len, device
        self.buffer: list[list[int]] = []

    def refill(self) -> None:
        texts = list(itertools.islice(self.texts, TOKENIZER_BATCH))
        for tokens in self.encoding.encode_ordinary_batch(texts, num_threads=8):
            self.buffer.append([self.bos, *tokens])

    def row(self) -> list[int]:
        """T + 1 tokens: the longest documents that fit; if none does, the shortest is cropped."""
        row: list[int] = []
        while room := self.seq_len + 1 - len(row):
            while len(self.buffer) < PACK_BUFFER:
                self.refill()
            best, best_length = -1, 0
            for index, document in enumerate(self.buffer):
                if best_length < len(document) <= room:
                    best, best_length = index, len(document)
            if best < 0:
                best = min(range(len(self.buffer)), key=lambda index: len(self.buffer[index]))
            row += self.buffer.pop(best)[:room]
        return row

    def batch(self) -> tuple[Tensor, Tensor]:
        """(x, y), int64 of shape (rows, T); y is x one token on."""
        tokens = torch.tensor([self.row() for _ in range(self.rows)]).to(self.device)
        return tokens[:, :-1], tokens[:, 1:]


# ==================================================================================================
# Training
# ==================================================================================================


def fit(
    model: GPT, optimizer: Optimizer, loader: PackingLoader, passes: int, autocast: Any
) -> tuple[int, float]:
    """Train until the time budget is used up; return the number of steps and the seconds."""
    steps, seconds = 0, 0.0
    started = time.monotonic()
    while seconds < prepare.TIME_BUDGET:
        total = 0.0
        for _ in range(passes):
            x, y = loader.batch()
            with autocast:
                logits = model(x)
            loss: Any = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()) / passes
            loss.backward()
            total += loss.item()
        optimizer.step(seconds / prepare.TIME_BUDGET)
        model.zero_grad()
        if not math.isfinite(total):
            sys.exit(f"FAIL: loss {total} at step {steps}")
        if steps % 10 == 0:
            print(f"step {steps:05d} | loss {total:.4f} | {seconds:.1f} s", flush=True)
        steps, seconds = steps + 1, time.monotonic() - started
    return steps, seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a plain GPT. Defaults: the full scale.")
    parser.add_argument("--depth", type=int, default=8, help="layers (8)")
    parser.add_argument("--width", type=int, default=512, help="model width (512)")
    parser.add_argument("--head-dim", type=int, default=128, help="channels of a head (128)")
    parser.add_argument("--mlp-ratio", type=int, default=4, help="MLP / model width (4)")
    parser.add_argument("--batch", type=int, default=2**19, help="tokens of a step (2**19)")
    parser.add_argument("--rows", type=int, default=32, help="rows of a forward pass (32)")
    return parser.parse_args()


def train(options: argparse.Namespace) -> None:
    """Train and print the summary; raises PrepareError."""
    now = time.monotonic()
    marks = {"": now - prepare.seconds_since_start(), "start": now}
    seed = int(prepare.SEED)
    dataset = prepare.Dataset.open()
    device = prepare.pick_device()
    locks = [] if os.environ.get("SWARM_DEVICE_LOCKED") == "1" else prepare.lock_device(device)
    loader = PackingLoader(dataset, options.rows, device.torch_device, seed)
    marks["data"] = time.monotonic()
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    dtype = getattr(torch, device.dtype)
    sizes = Sizes(
        dataset.vocab_size, dataset.seq_len, options.depth, options.width, options.head_dim,
        options.mlp_ratio, dtype,
    )  # fmt: skip
    model = GPT(sizes).to(device.torch_device)
    optimizer = Optimizer(model, dtype)
    autocast = torch.autocast(device.kind, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    print(f"device: {device.name} | {device.dtype} | eager\n{sizes}, seed {seed}", flush=True)
    marks["model"] = time.monotonic()
    passes = max(1, round(options.batch / (options.rows * dataset.seq_len)))
    steps, seconds = fit(model, optimizer, loader, passes, autocast)
    marks["training"] = time.monotonic()
    with autocast:
        val_bpb = prepare.evaluate_bpb(model, options.rows, device, dataset)
    marks["evaluation"] = time.monotonic()
    tokens = steps * passes * options.rows * dataset.seq_len
    print_summary(model, device, val_bpb, marks, steps, seconds, tokens)
    del locks  # held to here


def print_summary(
    model: GPT, device: prepare.Device, val_bpb: float, marks: dict[str, float], steps: int,
    seconds: float, tokens: int,
) -> None:  # fmt: skip
    """The last lines of the output; `marks` are the ends of the phases, the first the start."""
    ends = list(marks.values())
    durations = zip(list(marks)[1:], (b - a for a, b in itertools.pairwise(ends)), strict=True)
    phases = " | ".join(f"{name} {duration:.1f}" for name, duration in durations)
    total, mfu = ends[-1] - ends[0], "unknown"
    if device.peak_flops is not None:
        mfu = f"{100 * tokens / seconds * model.flops_per_token() / device.peak_flops:.2f}"
    print(f"seconds: {phases} | total {total:.1f}\n---")
    facts = {
        "val_bpb": f"{val_bpb:.6f}",
        "training_seconds": f"{seconds:.1f}",
        "total_seconds": f"{total:.1f}",
        "peak_vram_mb": f"{device.peak_memory_mb():.1f}",
        "mfu_percent": mfu,
        "total_tokens_M": f"{tokens / 1e6:.4f}",
        "num_steps": steps,
        "num_params_M": f"{sum(p.numel() for p in model.parameters()) / 1e6:.4f}",
        "depth": model.sizes.depth,
    }
    for name, fact in facts.items():
        print(f"{name}: {fact}")


if __name__ == "__main__":
    try:
        train(arguments())
    except prepare.PrepareError as error:
        sys.exit(prepare.fail(error))
