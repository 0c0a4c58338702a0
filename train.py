"""One trial: train a GPT for a fixed wall-clock budget, then score it in validation bits per byte.

    python train.py

This is the file that agents edit; data, evaluation and devices are in prepare.py, which also
documents the environment (SWARM_SECONDS, SWARM_SEED, …). Importing this file trains nothing.
The last lines of the output are `---` and one `key: value` a line. Exit codes: 0 scored, 1 failed
(`FAIL: …` when the loss is lost), 3 the device is training already.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw

import prepare
from prepare import MAX_SEQ_LEN, SCALE, TIME_BUDGET, Device

# ==================================================================================================
# Hyperparameters: NAME = value  # what it is [low, high] or {choice, choice}
# ==================================================================================================

# Model
DEPTH = 8  # transformer blocks [2, 24]
ASPECT_RATIO = 64  # model width per block, before rounding up to whole heads [32, 128]
HEAD_DIM = 128  # channels of an attention head {64, 128}
MLP_RATIO = 4  # hidden width of the MLP / model width {2, 3, 4, 5, 6}
WINDOW_PATTERN = "SSSL"  # attention span by block, repeated; the last is L {L, SL, SSL, SSSL}
SHORT_WINDOW = 0.25  # span of an S block / sequence length [0.0625, 1.0]
ROPE_BASE = 60000.0  # base of the rotary wavelengths [1000.0, 1000000.0]
QUERY_SCALE = 1.25  # factor on the normalised queries: sharper attention [0.5, 3.0]
SOFTCAP = 15.0  # logits are bounded to ± this; 0: not at all [0.0, 50.0]
INIT_SCALE = 0.68  # factor on the initial block weights [0.25, 2.0]
X0_INIT = 0.2  # initial weight of the embedding in every block's input [0.0, 0.5]
SHIFT_INIT = 0.0  # initial weight of the token before in every block's input [0.0, 1.0]

# Batch
TOTAL_BATCH_SIZE = 262144  # tokens of an optimizer step {65536, 131072, 262144, 524288, 1048576}
DEVICE_BATCH_SIZE = 128  # rows of a forward pass, limited by memory {16, 32, 64, 128}

# Optimizer
MATRIX_LR = 0.028  # Muon, the matrices of the blocks [0.004, 0.2]
EMBEDDING_LR = 0.6  # AdamW, token and value embeddings, at width 768 [0.06, 3.0]
UNEMBEDDING_LR = 0.009  # AdamW, the head, at width 768 [0.0005, 0.04]
SCALAR_LR = 0.25  # AdamW, x0 scalars; residual scalars get a hundredth [0.05, 2.0]
SHIFT_LR = 0.05  # AdamW, weights of the token before [0.002, 1.0]
WEIGHT_DECAY = 0.17  # Muon, cautious, falls to 0 with progress [0.0, 1.0]
EMBEDDING_DECAY = 0.008  # AdamW, embeddings and head, falls to 0 with progress [0.0, 0.1]
ADAM_BETA1 = 0.8  # AdamW, first moment [0.5, 0.95]
ADAM_BETA2 = 0.95  # AdamW, second moment [0.8, 0.999]
MUON_MOMENTUM = 0.95  # Muon, after its warm-up [0.8, 0.99]
MUON_MOMENTUM_START = 0.9  # Muon, at the first step [0.5, 0.95]
MUON_MOMENTUM_STEPS = 300  # steps of the momentum's warm-up [1, 1000]
MUON_BETA2 = 0.95  # Muon, variance reduction [0.5, 0.999]

# Schedule, as shares of the time budget
WARMUP_RATIO = 0.0  # rise of the learning rates from 0 [0.0, 0.3]
WARMDOWN_RATIO = 0.8  # fall of the learning rates at the end [0.1, 1.0]
FINAL_LR_FRAC = 0.03  # learning rates at the end / at their height [0.0, 0.2]

# On a CPU this block wins for these constants: an edit above does nothing to them.
if SCALE == "small":
    DEPTH = 2  # transformer blocks [1, 8]
    ASPECT_RATIO = 32  # model width per block, before rounding up to whole heads [16, 128]
    HEAD_DIM = 64  # channels of an attention head {16, 32, 64}
    MLP_RATIO = 3  # hidden width of the MLP / model width {2, 3, 4, 5, 6}
    SHORT_WINDOW = 0.125  # span of an S block / sequence length [0.0625, 1.0]
    SOFTCAP = 0.0  # logits are bounded to ± this; 0: not at all [0.0, 50.0]
    SHIFT_INIT = 0.4  # initial weight of the token before in every block's input [0.0, 1.0]
    TOTAL_BATCH_SIZE = 2048  # tokens of an optimizer step {512, 1024, 2048, 4096, 8192}
    DEVICE_BATCH_SIZE = 8  # rows of a forward pass {2, 4, 8, 16}
    MATRIX_LR = 0.056  # Muon, the matrices of the blocks [0.004, 0.2]
    EMBEDDING_LR = 1.0  # AdamW, token and value embeddings, at width 768 [0.06, 3.0]
    SHIFT_LR = 0.3  # AdamW, weights of the token before [0.002, 1.0]

# ==================================================================================================
# Model
# ==================================================================================================

GATE_CHANNELS = 32  # channels that the value embeddings' gates look at
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # (q, k, v, window) → mixed v


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a model; the defaults of what is not asked for are the hyperparameters above."""

    vocab_size: int
    seq_len: int = MAX_SEQ_LEN
    depth: int = DEPTH
    head_dim: int = HEAD_DIM
    heads: int = math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM)
    window_pattern: str = WINDOW_PATTERN
    embedding_dtype: torch.dtype = torch.float32  # of embeddings and RoPE tables

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def windows(self) -> list[int]:
        """Per block: how many tokens before its own a token sees."""
        spans = {"S": max(1, round(self.seq_len * SHORT_WINDOW)), "L": self.seq_len}
        pattern = self.window_pattern * self.depth
        return [*(spans[letter] for letter in pattern[: self.depth - 1]), self.seq_len]

    def has_value_embedding(self, block: int) -> bool:
        """Every other block, the last one included."""
        return (self.depth - 1 - block) % 2 == 0


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without parameters."""
    # From torch 2.12 on, CUDA's autocast computes rms_norm in float32, and the residual stream
    # would be float32 from the first block on.
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, (x.size(-1),))


def rope_tables(config: GPTConfig, device: str) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each of shape (T, 1, head_dim / 2)."""
    channels = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    frequencies = ROPE_BASE ** (-channels / config.head_dim)
    positions = torch.arange(config.seq_len, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies).unsqueeze(1)
    return angles.cos().to(config.embedding_dtype), angles.sin().to(config.embedding_dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of x (B, T, H, D); pairs are the two halves."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1)


class Attention(nn.Module):
    """Causal multi-head attention with QK-norm and, in some blocks, a gated value embedding."""

    def __init__(self, config: GPTConfig, block: int) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.window = config.windows[block]
        width = config.width
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        has_gate = config.has_value_embedding(block)
        channels = min(GATE_CHANNELS, width)
        self.gate = nn.Linear(channels, config.heads, bias=False) if has_gate else None

    def forward(
        self, x: Tensor, value_embedding: Tensor | None, rope: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        shape = (*x.shape[:2], self.heads, self.head_dim)
        q, k, v = self.query(x).view(shape), self.key(x).view(shape), self.value(x).view(shape)
        if self.gate is not None and value_embedding is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))
            v = v + (gate.unsqueeze(-1) * value_embedding.view(shape)).type_as(v)
        q = (QUERY_SCALE * norm(rotate(q, *rope))).type_as(v)
        k = norm(rotate(k, *rope)).type_as(v)
        mixed: Tensor = self.output(attend(q, k, v, self.window).reshape(x.shape))
        return mixed


class MLP(nn.Module):
    """Two linear layers with ReLU² between (So et al. 2021)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, MLP_RATIO * config.width, bias=False)
        self.down = nn.Linear(MLP_RATIO * config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.relu(self.up(x)).square())
        return y


class Block(nn.Module):
    def __init__(self, config: GPTConfig, block: int) -> None:
        super().__init__()
        self.attention = Attention(config, block)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, value_embedding: Tensor | None, rope: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        x = x + self.attention(norm(x), value_embedding, rope, attend)
        y: Tensor = x + self.mlp(norm(x))
        return y


class GPT(nn.Module):
    """Tokens (B, T) → logits (B, T, V) in float32; with targets (B, T) → mean cross-entropy."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig, device: str = "cpu") -> None:
        super().__init__()
        self.config = config
        self.attend = sdpa_attention(config, device)
        dtype = config.embedding_dtype
        with torch.device(device):
            self.embedding = nn.Embedding(config.vocab_size, config.width, dtype=dtype)
            self.value_embeddings = nn.ModuleDict(
                {
                    str(i): nn.Embedding(config.vocab_size, config.width, dtype=dtype)
                    for i in range(config.depth)
                    if config.has_value_embedding(i)
                }
            )
            self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
            self.residual_scalars = nn.Parameter(torch.ones(config.depth))
            self.x0_scalars = nn.Parameter(torch.full((config.depth,), X0_INIT))
            self.shifts = nn.Parameter(torch.full((config.depth, config.width), SHIFT_INIT))
        for name, table in zip(("cos", "sin"), rope_tables(config, device), strict=True):
            self.register_buffer(name, table, persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Both output projections and the gates start at zero: blocks begin as the identity."""
        bound = math.sqrt(3 / self.config.width)  # of a uniform variable with SD 1/√width
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for embedding in self.value_embeddings.parameters():
            nn.init.uniform_(embedding, -bound, bound)
        for name, weight in self.blocks.named_parameters():
            if weight.ndim != 2:
                continue  # scalars and vectors keep what their module gave them
            if name.endswith(("output.weight", "down.weight", "gate.weight")):
                nn.init.zeros_(weight)
            else:
                nn.init.uniform_(weight, -bound * INIT_SCALE, bound * INIT_SCALE)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        length = tokens.size(1)
        rope = (self.cos[:length], self.sin[:length])
        x = x0 = norm(self.embedding(tokens))
        for i, block in enumerate(self.blocks):
            x = self.residual_scalars[i] * x + self.x0_scalars[i] * x0
            # Token shift, by channel (Peng et al. 2023, RWKV): pairs of tokens are seen at once.
            x = x + self.shifts[i].type_as(x) * F.pad(x[:, :-1], (0, 0, 1, 0))
            key = str(i)
            values = self.value_embeddings[key](tokens) if key in self.value_embeddings else None
            x = block(x, values, rope, self.attend)
        logits = self.head(norm(x)).float()
        if SOFTCAP:
            logits = SOFTCAP * torch.tanh(logits / SOFTCAP)
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    def flops_per_token(self) -> float:
        """Of training: 6 per matrix weight, 12 × width × span per block (PaLM, appendix B)."""
        matrices = sum(p.numel() for p in self.blocks.parameters()) + self.head.weight.numel()
        spans = sum(min(window, self.config.seq_len) for window in self.config.windows)
        return 6.0 * matrices + 12.0 * self.config.width * spans


def build_model(vocab_size: int, device: Device) -> GPT:
    """The model of this file on a device, freshly initialised from torch's random state."""
    # Uncompiled, the gradient of an embedding would be summed in bfloat16, and lose small terms.
    dtype = getattr(torch, device.dtype) if device.compile else torch.float32
    config = GPTConfig(vocab_size, embedding_dtype=dtype)
    return GPT(config, device.torch_device)


# ==================================================================================================
# Attention kernels: all take q, k, v (B, T, H, D) and the window, and give (B, T, H, D)
# ==================================================================================================


def sdpa_attention(config: GPTConfig, device: str) -> Attend:
    """PyTorch's own attention, with a mask where the window is shorter than the sequence."""
    position = torch.arange(config.seq_len, device=device)
    distance = position.unsqueeze(1) - position.unsqueeze(0)
    masks = {
        window: (distance >= 0) & (distance <= window)
        for window in set(config.windows)
        if window < config.seq_len - 1
    }

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        mask, length = masks.get(window), q.size(1)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if mask is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:length, :length])
        return y.transpose(1, 2)

    return attend


def blocked_attention(config: GPTConfig, device: str) -> Attend:
    """SDPA where the queries of a block see their own block and the one before it, and no more.

    A block is as long as the window. That is cheaper than the triangle of full causal attention
    for windows up to a quarter of the sequence; longer ones are masked.
    """
    masked, length = sdpa_attention(config, device), config.seq_len
    masks = {}
    for window in set(config.windows):
        if 4 * window <= length and length % window == 0:
            query = torch.arange(window, device=device).unsqueeze(1)
            key = torch.arange(2 * window, device=device)
            visible = ((key >= query) & (key <= query + window)).repeat(length // window, 1, 1)
            visible[0, :, :window] = False  # nothing comes before the first block
            masks[window] = visible

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        if window not in masks or q.size(1) != length:
            return masked(q, k, v, window)
        rows, _, heads, channels = q.shape
        blocks = (rows * (length // window), heads, -1, channels)

        def with_previous(x: Tensor) -> Tensor:
            x = F.pad(x, (0, 0, 0, 0, window, 0)).unfold(1, 2 * window, window)
            return x.permute(0, 1, 2, 4, 3).reshape(blocks)

        queries = q.unflatten(1, (-1, window)).transpose(2, 3).reshape(blocks)
        mask = masks[window].repeat(rows, 1, 1).unsqueeze(1)
        y = F.scaled_dot_product_attention(
            queries, with_previous(k), with_previous(v), attn_mask=mask
        )
        return y.transpose(1, 2).reshape(q.shape)

    return attend


def flex_attention(config: GPTConfig, device: str) -> Attend:
    """FlexAttention for windowed blocks, which skips what the window hides; needs torch.compile."""
    from torch.nn.attention import flex_attention as flex

    def block_mask(window: int) -> Any:
        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (query - key <= window)

        return flex.create_block_mask(
            visible, None, None, config.seq_len, config.seq_len, device=device
        )

    masks = {w: block_mask(w) for w in set(config.windows) if w < config.seq_len - 1}

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if window in masks:
            y = flex.flex_attention(q, k, v, block_mask=masks[window])
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2)

    return attend


def flash_attention(config: GPTConfig, device: str) -> Attend:
    """FlashAttention-3, from its own package (Hopper only)."""
    flash = importlib.import_module("flash_attn_interface").flash_attn_func

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        found = flash(q, k, v, causal=True, window_size=(window, 0))
        y: Tensor = found[0] if isinstance(found, tuple) else found  # some releases add the LSE
        return y

    return attend


KERNELS: dict[str, Callable[[GPTConfig, str], Attend]] = {
    "flash3": flash_attention,
    "flex": flex_attention,
    "blocked": blocked_attention,
    "sdpa": sdpa_attention,
}

# ==================================================================================================
# Optimizer: Muon for the matrices of the blocks, AdamW for the rest
# ==================================================================================================

# Per iteration the coefficients (a, b, c) of the odd polynomial aX + b(XXᵀ)X + c(XXᵀ)²X that
# drives singular values to 1 fastest (Amsel et al. 2025, "The Polar Express", five iterations).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def polar_express(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: (N, rows, cols), singular values near 1."""
    x: Tensor = matrices.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    length = torch.linalg.matrix_norm(x, keepdim=True)
    x = x / (length * 1.02 + 1e-6)  # singular values up to 1, with 2 % for rounding
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def muon_update(
    weights: Tensor, gradients: Tensor, momentum_buffer: Tensor, variance: Tensor,
    lr: Tensor, momentum: Tensor, beta2: Tensor, weight_decay: Tensor, dtype: torch.dtype,
) -> None:  # fmt: skip
    """One step of Muon (Jordan et al. 2024) on stacked matrices (N, rows, cols), in place.

    Nesterov momentum, orthogonalisation, NorMuon's variance reduction along the shorter side
    (Li et al. 2025; the Frobenius norm is kept), and weight decay only where it agrees with the
    step's sign (cautious).
    """
    momentum_buffer.mul_(momentum).add_(gradients * (1 - momentum))
    lookahead = gradients * (1 - momentum) + momentum_buffer * momentum
    update = polar_express(lookahead, dtype).float()
    shorter = -1 if update.size(-2) >= update.size(-1) else -2
    power = update.square().mean(dim=shorter, keepdim=True)
    variance.mul_(beta2).add_(power * (1 - beta2))
    scale = variance.clamp_min(1e-10).rsqrt()
    before = power.sum(dim=(-2, -1), keepdim=True).sqrt()
    after = (power * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    update = update * (scale * (before / after.clamp_min(1e-10)))
    agrees = (update * weights) >= 0
    weights.sub_(lr * update + lr * weight_decay * weights * agrees)


class AdamGroup:
    """Parameters that AdamW (Loshchilov & Hutter 2019) treats alike, and their moments."""

    def __init__(
        self, parameters: list[Tensor], lr: float, beta1: float, weight_decay: float, fused: bool
    ) -> None:
        self.parameters, self.lr = parameters, lr
        self.beta1, self.weight_decay = beta1, weight_decay
        self.means = [torch.zeros_like(parameter) for parameter in parameters]
        self.variances = [torch.zeros_like(parameter) for parameter in parameters]
        # Unfused, AdamW reads them on the host.
        places = [parameter.device if fused else "cpu" for parameter in parameters]
        self.steps = [torch.zeros((), device=place) for place in places]


class Optimizer:
    """Muon for the matrices of the blocks; PyTorch's AdamW for embeddings, head and scalars.

    AdamW is called as a function: torch.optim's classes import the compiler, a second of start-up.
    What changes between Muon's steps is handed to it as 0-dimensional tensors, so that it is
    compiled once per shape of matrix.
    """

    def __init__(self, model: GPT, device: Device) -> None:
        self.dtype, self.fused = getattr(torch, device.dtype), device.fused
        fused = device.fused
        self.muon_update: Any = muon_update
        if device.compile:
            self.muon_update = torch.compile(muon_update, dynamic=False, fullgraph=True)
        embeddings: list[Tensor] = [model.embedding.weight, *model.value_embeddings.parameters()]
        scale, beta1 = (model.config.width / 768) ** -0.5, ADAM_BETA1
        self.adamw = [
            AdamGroup([model.head.weight], UNEMBEDDING_LR * scale, beta1, EMBEDDING_DECAY, fused),
            AdamGroup(embeddings, EMBEDDING_LR * scale, beta1, EMBEDDING_DECAY, fused),
            AdamGroup([model.residual_scalars], SCALAR_LR * 0.01, beta1, 0.0, fused),
            AdamGroup([model.x0_scalars], SCALAR_LR, 0.96, 0.0, fused),
            AdamGroup([model.shifts], SHIFT_LR, beta1, 0.0, fused),
        ]
        self.names = {id(p): name for name, p in model.named_parameters()}
        owned = {id(parameter) for group in self.adamw for parameter in group.parameters}
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and id(p) not in owned]
        owned.update(map(id, matrices))
        if missed := [name for key, name in self.names.items() if key not in owned]:
            raise ValueError(f"no optimizer for {', '.join(missed)}: add it to Optimizer.adamw")
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in matrices:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        self.muon: list[tuple[list[nn.Parameter], float, Tensor, Tensor]] = []
        for (rows, columns), group in by_shape.items():
            momentum = torch.zeros(len(group), rows, columns, device=group[0].device)
            reduced = (rows, 1) if rows >= columns else (1, columns)
            variance = torch.zeros(len(group), *reduced, device=group[0].device)
            self.muon.append((group, MATRIX_LR * max(1, rows / columns) ** 0.5, momentum, variance))

    def gradient(self, parameter: Tensor) -> Tensor:
        if parameter.grad is None:
            raise ValueError(f"no gradient for {self.names[id(parameter)]}: the loss ignores it")
        return parameter.grad

    @torch.no_grad()
    def step(self, lr_scale: float, momentum: float, decay_scale: float) -> None:
        """Update all parameters from their gradients, and drop the gradients."""
        for adam in self.adamw:
            adamw(
                adam.parameters, [self.gradient(p) for p in adam.parameters],
                adam.means, adam.variances, [], adam.steps, fused=self.fused,
                lr=adam.lr * lr_scale, beta1=adam.beta1, beta2=ADAM_BETA2, eps=1e-10,
                weight_decay=adam.weight_decay * decay_scale, amsgrad=False, maximize=False,
            )  # fmt: skip
            for parameter in adam.parameters:
                parameter.grad = None
        number = torch.tensor
        beta2, weight_decay = number(MUON_BETA2), number(WEIGHT_DECAY * decay_scale)
        for group, lr, momentum_buffer, variance in self.muon:
            weights = torch.stack(list(group))
            gradients = torch.stack([self.gradient(p) for p in group])
            self.muon_update(
                weights, gradients, momentum_buffer, variance,
                number(lr * lr_scale), number(momentum), beta2, weight_decay, self.dtype,
            )  # fmt: skip
            torch._foreach_copy_(list(group), list(weights.unbind()))
            for parameter in group:
                parameter.grad = None

    @torch.no_grad()
    def forget(self) -> None:
        """Drop all moments, as if no step had been made."""
        of_adamw = (t for adam in self.adamw for t in (*adam.means, *adam.variances, *adam.steps))
        of_muon = (moment for _, _, *moments in self.muon for moment in moments)
        for tensor in (*of_adamw, *of_muon):
            tensor.zero_()


# ==================================================================================================
# Schedules
# ==================================================================================================


def lr_multiplier(progress: float) -> float:
    """Learning rates by the share of the time budget that is used: up, constant, linear down."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    left = min(1.0, (1.0 - progress) / WARMDOWN_RATIO) if WARMDOWN_RATIO > 0 else 1.0
    return left + (1.0 - left) * FINAL_LR_FRAC


def muon_momentum(step: int) -> float:
    """Linear from MUON_MOMENTUM_START to MUON_MOMENTUM over MUON_MOMENTUM_STEPS steps."""
    share = min(1.0, step / MUON_MOMENTUM_STEPS)
    return (1 - share) * MUON_MOMENTUM_START + share * MUON_MOMENTUM


# ==================================================================================================
# Training
# ==================================================================================================

LOST_LOSS = 100.0  # no run comes back from there


class StepLog:
    """The progress line: redrawn at every step on a terminal, else a line a second at most."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.last = 0.0

    def write(self, text: str) -> None:
        now = time.monotonic()
        if self.live:
            print(f"\r\033[K{text}", end="", flush=True)
        elif now - self.last >= 1.0:
            self.last = now
            print(text, flush=True)

    def close(self) -> None:
        if self.live:
            print()


def mfu_percent(tokens_per_second: float, model: GPT, device: Device) -> str:
    """Share of the device's peak arithmetic that the model's own FLOPs use, in per cent."""
    if device.peak_flops is None:
        return "unknown"
    return f"{100 * tokens_per_second * model.flops_per_token() / device.peak_flops:.2f}"


def rows_that_fit(attempt: Callable[[int], None], rows: int, device: Device) -> int:
    """The most rows, of `rows` halved and halved again, for which `attempt` does not run out of
    memory; always a divisor of `rows`, so that more passes make up for it exactly."""
    while True:
        try:
            attempt(rows)
            return rows
        except RuntimeError as error:
            if rows == 1 or not prepare.is_out_of_memory(error):
                raise
        # Here, not above: until the handler is left, the error's traceback keeps the tensors.
        device.forget_memory()
        fewer = next(n for n in range(rows // 2, 0, -1) if rows % n == 0)
        print(f"out of memory with {rows} rows a pass: trying {fewer}", flush=True)
        rows = fewer


class Phases:
    """Where the seconds of a run went, from the start of the process on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = time.monotonic() - prepare.seconds_since_start()
        self.last = self.started

    def end(self, name: str) -> None:
        """The phase `name` ends now."""
        now = time.monotonic()
        self.seconds[name], self.last = now - self.last, now

    @property
    def total(self) -> float:
        return self.last - self.started

    def __str__(self) -> str:
        parts = [f"{name} {seconds:.1f}" for name, seconds in self.seconds.items()]
        return f"seconds: {' | '.join(parts)} | total {self.total:.1f}"


def warm_up(
    model: GPT, optimizer: Optimizer, device: Device, rows: int, step_rows: int
) -> tuple[Any, int]:
    """Compile and run once whatever will run, without an effect on the model.

    Takes the first attention kernel of the device that works, and as many of `rows` at once as fit
    into memory; an optimizer step takes `step_rows`. Returns the model as it is to be called, and
    the rows.
    """

    def attempt(rows: int) -> None:
        model.train()  # an attempt that failed may have left it in evaluation
        model.zero_grad()
        # With the strides that the loader's batches have: others would be compiled again.
        shape = (rows, MAX_SEQ_LEN + 1)
        batch = torch.zeros(shape, dtype=torch.int64, device=device.torch_device)
        for _ in range(min(2, step_rows // rows)):  # a second pass finds gradients in memory
            with device.autocast():
                loss = run(batch[:, :-1], batch[:, 1:])
            loss.backward()
        optimizer.step(lr_scale=0.0, momentum=0.0, decay_scale=0.0)
        with torch.no_grad(), device.autocast():
            model.eval()
            run(batch[:1, 1:].repeat(prepare.EVAL_ROWS, 1))
        model.train()
        optimizer.forget()
        device.synchronize()

    for kernel in device.attention:
        run: Any = torch.compile(model, dynamic=False) if device.compile else model
        try:
            model.attend = KERNELS[kernel](model.config, device.torch_device)
            with prepare.Waiting(f"{'compiling' if device.compile else 'warming up'} ({kernel})"):
                rows = rows_that_fit(attempt, rows, device)
        except Exception as error:  # drivers and compilers raise whatever they like
            if kernel == device.attention[-1]:
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            print(f"warming up with {kernel} attention failed: {reason}", flush=True)
            importlib.import_module("torch._dynamo").reset()
        else:
            break
    print(f"attention: {kernel}", flush=True)
    return run, rows


def fit(
    run: Any, optimizer: Optimizer, loader: prepare.Loader, device: Device, rows: int, passes: int
) -> tuple[int, float]:
    """Train until the time budget is used up; return the number of steps and the seconds.

    Where the device works on its own, the host is a step ahead: it queues one step before it waits
    for the loss of the one before. `pace`, seconds a finished step, says how far the queued one is.
    """
    line = StepLog()
    unread: deque[Callable[[], float]] = deque()
    step, pace, loss_mean = 0, 0.0, 0.0
    x, y = next(loader)
    device.synchronize()
    started = time.monotonic()
    while (step + 0.5) * pace < TIME_BUDGET:
        progress = min(1.0, step * pace / TIME_BUDGET)
        loss = torch.zeros((), device=device.torch_device)
        for _ in range(passes):
            with device.autocast():
                part = run(x, y) / passes
            part.backward()
            loss += part.detach()
            x, y = next(loader)  # copied while the device is still computing
        optimizer.step(lr_multiplier(progress), muon_momentum(step), 1.0 - progress)
        step += 1
        unread.append(device.later(loss))
        if len(unread) <= device.queued_steps:
            continue
        loss_value = stop_if_lost(unread.popleft()(), step - len(unread), line)
        finished = step - len(unread)
        seconds = time.monotonic() - started
        pace = seconds / finished
        loss_mean = 0.9 * loss_mean + 0.1 * loss_value
        line.write(
            f"step {finished:05d} ({100 * min(1.0, seconds / TIME_BUDGET):.1f} %)"
            f" | loss {loss_mean / (1 - 0.9**finished):.4f}"
            f" | lr × {lr_multiplier(progress):.2f} | {1000 * pace:.0f} ms"
            f" | {passes * rows * MAX_SEQ_LEN / pace:,.0f} tok/s | epoch {loader.epoch}"
            f" | {max(0.0, TIME_BUDGET - seconds):.0f} s left"
        )
        if finished == 1:  # long-lived objects are made: no collection should scan them again
            gc.collect()
            gc.freeze()
            gc.disable()
    device.synchronize()
    seconds = time.monotonic() - started
    while unread:
        stop_if_lost(unread.popleft()(), step - len(unread), line)
    line.close()
    gc.enable()
    return step, seconds


def stop_if_lost(loss: float, step: int, line: StepLog) -> float:
    if loss <= LOST_LOSS:  # not when it is NaN
        return loss
    line.close()
    print(f"FAIL: loss {loss} at step {step}", flush=True)
    sys.exit(1)


def train() -> None:
    """Train and print the summary; raises PrepareError and exits on a lost loss."""
    phases = Phases()
    phases.end("start")
    dataset = prepare.Dataset.open()
    for name in ("val.bin", "tokenizer.json"):  # now, not when the budget is spent
        dataset.check(name)
    device = prepare.pick_device()
    if device.kind == "cpu" and SCALE == "full":
        raise prepare.PrepareError(
            "the full scale needs an accelerator and PyTorch sees none",
            "set SWARM_SCALE=small, or install a PyTorch build for this accelerator",
        )
    locks = [] if os.environ.get("SWARM_DEVICE_LOCKED") == "1" else prepare.lock_device(device)
    prepare.set_up(device)
    print(device.describe(), flush=True)
    phases.end("data")
    torch.manual_seed(int(prepare.SEED))
    model = build_model(dataset.vocab_size, device)
    optimizer = Optimizer(model, device)
    phases.end("model")
    rows = max(1, min(DEVICE_BATCH_SIZE, TOTAL_BATCH_SIZE // MAX_SEQ_LEN))
    step_rows = rows * max(1, round(TOTAL_BATCH_SIZE / (rows * MAX_SEQ_LEN)))
    run, rows = warm_up(model, optimizer, device, rows, step_rows)
    print(
        f"model: depth {DEPTH} × width {model.config.width}"
        f" | {step_rows // rows} × {rows} rows of {MAX_SEQ_LEN} tokens a step"
        f" | dataset {dataset.fingerprint} | seed {prepare.SEED:.0f}",
        flush=True,
    )
    phases.end("warm-up")
    loader = prepare.Loader(dataset, rows, device, int(prepare.SEED))
    steps, seconds = fit(run, optimizer, loader, device, rows, step_rows // rows)
    phases.end("training")
    with device.autocast():
        val_bpb = prepare.evaluate_bpb(run, prepare.EVAL_ROWS, device, dataset)
    phases.end("evaluation")
    tokens = steps * step_rows * MAX_SEQ_LEN
    print(
        f"{phases}\n"
        f"---\n"
        f"val_bpb: {val_bpb:.6f}\n"
        f"training_seconds: {seconds:.1f}\n"
        f"total_seconds: {phases.total:.1f}\n"
        f"peak_vram_mb: {device.peak_memory_mb():.1f}\n"
        f"mfu_percent: {mfu_percent(tokens / seconds, model, device)}\n"
        f"total_tokens_M: {tokens / 1e6:.4f}\n"
        f"num_steps: {steps}\n"
        f"num_params_M: {sum(p.numel() for p in model.parameters()) / 1e6:.4f}\n"
        f"depth: {DEPTH}",
        flush=True,
    )
    del locks  # held to here


def main() -> None:
    try:
        train()
    except prepare.PrepareError as error:
        sys.exit(prepare.fail(error))
    except KeyboardInterrupt:
        prepare.log("error: interrupted\nhint: a trial cannot be continued; start it anew")
        sys.exit(130)


if __name__ == "__main__":
    main()
