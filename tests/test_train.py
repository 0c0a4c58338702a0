"""train.py: the model, attention, optimizer and schedules against references; whole trials."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_fixtures import ROOT, environment, prepare, prepared, run_python, run_warm, summary

import train

__all__ = ["prepared"]

Prepared = tuple[Path, Any]
KEYS = (
    "val_bpb training_seconds total_seconds peak_vram_mb mfu_percent total_tokens_M num_steps"
    " num_params_M depth"
)


CPU = prepare.Device(
    kind="cpu", name="CPU", torch_device="cpu", dtype="float32", compile=False,
    attention=("blocked", "sdpa"), fused=True, peak_flops=None, lock_keys=(), why=("", "", ""),
)  # fmt: skip


def config(**changes: Any) -> train.GPTConfig:
    shape = {"vocab_size": 50, "seq_len": 32, "depth": 4, "head_dim": 8, "heads": 3}
    return train.GPTConfig(**(shape | changes))


# Whole trials -------------------------------------------------------------------------------------


def test_a_trial_ends_with_the_summary_and_is_attested(prepared: Prepared, tmp_path: Path) -> None:
    attest = tmp_path / "the result.json"
    done = run_python(
        "train.py", cache=prepared[0], SWARM_SECONDS="1", SWARM_ATTEST=str(attest), SWARM_SEED="7"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("device: ")
    assert all(word in lines[0] for word in ("float32", "eager"))
    assert lines[1] == "attention: blocked"
    assert lines[2].endswith(f"dataset {prepared[1].fingerprint} | seed 7")
    assert re.match(r"step 00001 \(\d+\.\d %\) \| loss \d", lines[3])
    assert "\r" not in done.stdout
    assert len(lines) < 25  # steps take milliseconds; a line a second
    phases = re.fullmatch(r"seconds: (.*) \| total (.*)", lines[lines.index("---") - 1])
    assert phases
    spent = dict(phase.split(" ") for phase in phases[1].split(" | "))
    assert list(spent) == ["start", "data", "model", "warm-up", "training", "evaluation"]
    assert sum(map(float, spent.values())) == pytest.approx(float(phases[2]), abs=0.4)
    facts = summary(done.stdout)
    assert list(facts) == KEYS.split()
    both_rounded = pytest.approx(float(spent["training"]), abs=0.11)
    assert float(facts["training_seconds"]) == both_rounded
    assert 0.7 < float(facts["training_seconds"]) < 10  # a busy machine may stretch a step
    assert int(facts["num_steps"]) > 1
    assert facts["mfu_percent"] == "unknown"
    assert float(facts["peak_vram_mb"]) > 50
    attested = json.loads(attest.read_text())
    assert attested["causal"] is True
    assert float(facts["val_bpb"]) == pytest.approx(attested["val_bpb"], abs=1e-6)
    assert attested["val_bpb"] < 5  # a uniform guess over 1,024 tokens scores above


def test_a_lost_loss_fails_at_once(prepared: Prepared, tmp_path: Path) -> None:
    place = tmp_path / "it's lost"
    place.mkdir()
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    broken = source.replace("return F.cross_entropy(", "return math.nan * F.cross_entropy(")
    assert broken != source
    (place / "train.py").write_text(broken, encoding="utf-8")
    (place / "prepare.py").write_text((ROOT / "prepare.py").read_text(encoding="utf-8"))
    done = run_warm("train.py", cache=prepared[0], cwd=place, PYTHONPATH="", SWARM_SECONDS="60")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "FAIL: loss nan at step 1"
    assert "---" not in done.stdout
    assert "Traceback" not in done.stderr


def test_importing_neither_trains_nor_prints_nor_locks(tmp_path: Path) -> None:
    cache = tmp_path / "no cache"
    program = "import train; train.GPT(train.GPTConfig(vocab_size=300))"
    done = run_python("-c", program, cache=cache)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not cache.exists()


def test_a_busy_device_is_refused_unless_the_caller_holds_it(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = prepared
    monkeypatch.setenv("SWARM_CACHE", str(cache))
    held = prepare.lock_device(prepare.pick_device())
    try:
        done = run_warm("train.py", cache=cache, SWARM_SECONDS="1")
        assert done.returncode == 3
        assert re.match(r"error: device cpu-\d+ is already training: pid \d+ in ", done.stderr)
        assert "\nhint: " in done.stderr
        started = subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=ROOT,
            env=environment(cache, SWARM_SECONDS="60", SWARM_DEVICE_LOCKED="1"),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert started.stdout is not None
        assert started.stdout.readline().startswith("device: ")
        started.kill()
        started.communicate()
    finally:
        for file in held:
            file.close()


def test_a_corrupt_validation_set_is_refused_before_training(
    prepared: Prepared, tmp_path: Path
) -> None:
    cache, dataset = prepared
    flipped = tmp_path / "it's flipped"
    shutil.copytree(dataset.path, flipped)
    data = bytearray((flipped / "val.bin").read_bytes())
    data[1000] ^= 1
    (flipped / "val.bin").write_bytes(data)
    done = run_warm("train.py", cache=cache, SWARM_DATASET=str(flipped), SWARM_SECONDS="60")
    assert (done.returncode, done.stdout) == (1, "")
    assert "val.bin is corrupt" in done.stderr


# Memory and kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "limit", "tried"), [(16, 5, [16, 8, 4]), (6, 2, [6, 3, 1])])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2 GiB"),
        (RuntimeError, "MPS backend out of memory (MPS allocated: 9 GB)"),
        (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_rows_are_halved_until_a_pass_fits(
    kind: type[RuntimeError], message: str, rows: int, limit: int, tried: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seen: list[int] = []

    def attempt(rows: int) -> None:
        seen.append(rows)
        if rows > limit:
            raise kind(message)

    assert train.rows_that_fit(attempt, rows, CPU) == tried[-1]
    assert seen == tried
    assert capsys.readouterr().out.count("out of memory with") == len(tried) - 1
    limit = 0
    with pytest.raises(kind):
        train.rows_that_fit(attempt, rows, CPU)


def test_another_error_is_no_lack_of_memory() -> None:
    def attempt(rows: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        train.rows_that_fit(attempt, 8, CPU)


def test_warming_up_changes_nothing_and_takes_the_first_kernel_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flash_attn_interface.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    device = dataclasses.replace(CPU, attention=("flash3", "blocked", "sdpa"))
    torch.manual_seed(0)
    model = train.build_model(50, device)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = train.Optimizer(model, device)
    run, rows = train.warm_up(model, optimizer, device, 2, 4)
    assert (run, rows, model.training) == (model, 2, True)
    said = capsys.readouterr().out
    failed = "warming up with flash3 attention failed: OSError: undefined symbol"
    assert said == f"{failed}\nattention: blocked\n"
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    moments = [m for _, _, *both in optimizer.muon for m in both]
    moments += [m for adam in optimizer.adamw for m in (*adam.means, *adam.variances, *adam.steps)]
    assert moments
    assert not any(moment.any() for moment in moments)
    with pytest.raises(OSError, match="undefined symbol"):
        train.warm_up(model, optimizer, dataclasses.replace(CPU, attention=("flash3",)), 2, 2)


class Clock:
    """Time that passes only where a device works, so that no other process has a say in it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


STEP_SECONDS = 0.2
CLOCK = Clock()


class SlowDevice(prepare.Device):  # type: ignore[misc]
    """A CPU on which a step takes a while."""

    def later(self, value: torch.Tensor) -> Any:
        CLOCK.now += STEP_SECONDS
        return super().later(value)


class QueueingDevice(prepare.Device):  # type: ignore[misc]
    """One that takes as long, but works on its own: what is asked of it is queued."""

    queued_steps = 1
    done = [0.0]  # noqa: RUF012  when what was asked will be done; the dataclass is frozen

    def later(self, value: torch.Tensor) -> Any:
        done = self.done[0] = max(CLOCK.now, self.done[0]) + STEP_SECONDS

        def wait() -> float:
            CLOCK.now = max(CLOCK.now, done)
            return float(value)

        return wait

    def synchronize(self) -> None:
        CLOCK.now = max(CLOCK.now, self.done[0])


@pytest.mark.parametrize("kind", [SlowDevice, QueueingDevice])
@pytest.mark.parametrize("budget", [0.3, 0.9, 1.0, 1.5])
def test_training_ends_within_half_a_step_of_its_budget(
    kind: type[Any], budget: float, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a step takes a good part of the budget and its loss is read a step late."""
    monkeypatch.setattr(train, "TIME_BUDGET", budget)
    monkeypatch.setattr(train, "time", CLOCK)
    device = kind(**vars(CPU))
    model = train.build_model(prepared[1].vocab_size, device)
    loader = prepare.Loader(prepared[1], 2, device, seed=0)
    steps, seconds = train.fit(model, train.Optimizer(model, device), loader, device, 2, 1)
    assert math.isclose(seconds, steps * STEP_SECONDS)
    assert abs(seconds - budget) <= 0.5 * STEP_SECONDS + 1e-6


@pytest.mark.parametrize("kind", [prepare.Device, QueueingDevice])
def test_a_lost_loss_is_noticed_and_numbered(
    kind: type[Any], prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    device = kind(**vars(CPU))
    model = train.build_model(prepared[1].vocab_size, device)
    calls = []

    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        loss: torch.Tensor = model(x, y) * (math.nan if len(calls) == 3 else 1.0)
        return loss

    loader = prepare.Loader(prepared[1], 2, device, seed=0)
    with pytest.raises(SystemExit) as ended:
        train.fit(run, train.Optimizer(model, device), loader, device, 2, 1)
    assert ended.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL: loss nan at step 3"
    assert len(calls) == 3 + device.queued_steps


# Hyperparameters ----------------------------------------------------------------------------------


def hyperparameter_block() -> str:
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    banner = re.compile(r"^# =+\n# (.*)\n# =+$", re.M)
    parts = banner.split(source)
    (block,) = [body for title, body in zip(parts[1::2], parts[2::2], strict=True)
                if "Hyperparameters" in title]  # fmt: skip
    return block


def test_every_hyperparameter_lies_in_its_own_range() -> None:
    line = re.compile(r"( *)([A-Z][A-Z0-9_]*) = (\S+)  # \w.*?(?:([\[{])(.*)[\]}])?$")
    found = {}
    for text in hyperparameter_block().splitlines():
        if not text or text.startswith("# ") or text == 'if SCALE == "small":':
            continue
        match = line.fullmatch(text)
        assert match, text
        indent, name, value, bracket, domain = match.groups()
        assert bracket, text
        parts = [part.strip() for part in domain.split(",")]
        if bracket == "[":
            low, high = map(float, parts)
            assert low <= float(value) <= high, text
        else:
            assert value.strip('"') in parts, text
        found[(bool(indent), name)] = value
    assert found[(False, "TOTAL_BATCH_SIZE")] == "262144"
    assert {name for small, name in found if small} <= {name for small, name in found if not small}


def test_the_full_scale_model_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SHORT_WINDOW", 0.25)
    monkeypatch.setattr(train, "MLP_RATIO", 4)
    full = config(vocab_size=8192, seq_len=2048, depth=8, head_dim=128, heads=4)
    model = train.GPT(full, device="meta")
    assert full.width == 512
    assert full.windows == [512, 512, 512, 2048] * 2
    assert sorted(model.value_embeddings) == ["1", "3", "5", "7"]
    matrices = 8 * 12 * 512**2 + 4 * 4 * 32
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 6 * 8192 * 512 + matrices + 2 * 8 + 8 * 512
    spans = 6 * 512 + 2 * 2048
    assert model.flops_per_token() == 6 * (matrices + 8192 * 512) + 12 * 512 * spans


# Model --------------------------------------------------------------------------------------------


def test_windows_follow_the_pattern_and_end_full() -> None:
    assert config(depth=5, window_pattern="SSSL").windows == [
        *[round(32 * train.SHORT_WINDOW)] * 3,
        32,
        32,
    ]
    assert config(depth=2, window_pattern="SL").windows == [round(32 * train.SHORT_WINDOW), 32]
    assert config(depth=1, window_pattern="S").windows == [32]


def test_a_fresh_model_guesses_uniformly_and_blocks_are_the_identity() -> None:
    torch.manual_seed(0)
    model = train.GPT(config())
    tokens = torch.randint(50, (2, 32))
    assert model(tokens, tokens).item() == pytest.approx(math.log(50), abs=0.01)
    x = torch.randn(2, 32, 24)
    rope = (model.cos, model.sin)
    assert torch.equal(model.blocks[0](x, None, rope, model.attend), x)
    spread = model.blocks[0].attention.query.weight.std().item()
    assert spread == pytest.approx(train.INIT_SCALE * 24**-0.5, rel=0.1)


def test_loss_is_the_cross_entropy_of_the_capped_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SOFTCAP", 15.0)
    torch.manual_seed(0)
    model = train.GPT(config())
    torch.nn.init.normal_(model.head.weight, std=20.0)
    tokens, targets = torch.randint(50, (2, 3, 32))
    logits = model(tokens).double()
    assert 14 < logits.abs().max() <= 15
    expected = -torch.log_softmax(logits, -1).gather(2, targets.unsqueeze(2)).mean()
    assert model(tokens, targets).item() == pytest.approx(expected.item(), rel=1e-5)
    monkeypatch.setattr(train, "SOFTCAP", 0.0)
    assert model(tokens).abs().max() > 50


@pytest.mark.parametrize("kernel", ["sdpa", "blocked"])
def test_gradients_are_those_of_float64(kernel: str) -> None:
    """Analytic gradients against finite differences, and those of float32 against float64."""
    torch.manual_seed(0)
    shape = config(depth=2, heads=2, window_pattern="S")
    model = train.GPT(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    exact = train.GPT(shape).double()
    exact.load_state_dict(model.state_dict())
    for gpt in (model, exact):
        gpt.attend = train.KERNELS[kernel](shape, "cpu")
    tokens, targets = torch.randint(50, (2, 2, 32))
    model(tokens, targets).backward()
    exact(tokens, targets).backward()
    parameters = zip(model.named_parameters(), exact.parameters(), strict=True)
    for (name, parameter), reference in parameters:
        assert parameter.grad is not None
        assert reference.grad is not None
        error = (parameter.grad - reference.grad).norm() / reference.grad.norm()
        assert error < 1e-4, name
        direction = torch.randn_like(reference)
        with torch.no_grad():
            losses = []
            for step in (2e-3, -4e-3):  # the model's logits are float32: no smaller
                reference.add_(step * direction)
                losses.append(exact(tokens, targets).item())
            reference.add_(2e-3 * direction)
        slope = (losses[0] - losses[1]) / 4e-3
        expected = (reference.grad * direction).sum().item()
        assert slope == pytest.approx(expected, rel=5e-3, abs=2e-3), name


def test_the_model_is_causal_and_uses_its_value_embeddings() -> None:
    torch.manual_seed(0)
    model = train.GPT(config())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(50, (2, 32))
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 50
    before, after = model(tokens), model(changed)
    assert (before[:, :20] - after[:, :20]).abs().max() < 1e-4
    assert (before[:, 20:] - after[:, 20:]).abs().max() > 0.01
    with torch.no_grad():
        model.value_embeddings["3"].weight.mul_(2)
    assert (model(tokens) - before).abs().max() > 0.01


def test_keys_are_normalised_and_queries_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "QUERY_SCALE", 1.7)
    torch.manual_seed(0)
    model = train.GPT(config())
    plain, seen = model.attend, []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
        seen.append((q.square().mean(-1).sqrt(), k.square().mean(-1).sqrt()))
        return plain(q, k, v, window)

    model.attend = attend
    model(torch.randint(50, (2, 32)))
    assert len(seen) == 4
    for queries, keys in seen:
        assert torch.allclose(queries, torch.full_like(queries, 1.7), atol=1e-3)
        assert torch.allclose(keys, torch.ones_like(keys), atol=1e-3)


def test_rotation_keeps_norms_and_depends_on_distance_alone() -> None:
    cos, sin = train.rope_tables(config(), "cpu")
    vectors = torch.randn(1, 1, 2, 8).expand(1, 32, 2, 8)
    turned = train.rotate(vectors, cos, sin)
    assert torch.allclose(turned.norm(dim=-1), vectors.norm(dim=-1), atol=1e-5)
    products = torch.einsum("bihd,bjhd->hij", turned, turned[:, :, [1, 0]])
    for offset in (0, 3, 10):
        diagonal = products.diagonal(offset, dim1=1, dim2=2)
        assert torch.allclose(diagonal, diagonal[:, :1].expand_as(diagonal), atol=1e-4)
    assert not torch.allclose(products[0, 0, 3], products[0, 3, 0], atol=1e-3)


def reference_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int
) -> torch.Tensor:
    """Attention position by position in float64."""
    q, k, v = q.double(), k.double(), v.double()
    y = torch.zeros_like(v)
    for i in range(q.size(1)):
        seen = slice(max(0, i - window), i + 1)
        scores = torch.einsum("bhd,bjhd->bhj", q[:, i], k[:, seen]) / math.sqrt(q.size(-1))
        y[:, i] = torch.einsum("bhj,bjhd->bhd", scores.softmax(-1), v[:, seen])
    return y


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kernel", ["sdpa", "flex", "blocked"])
@pytest.mark.parametrize("window", [5, 16, 32, 64, 128])
def test_attention_is_the_float64_reference(kernel: str, window: int) -> None:
    spans: Any = type("Spans", (), {"windows": [window, 128], "seq_len": 128})
    attend = train.KERNELS[kernel](spans, "cpu")
    q, k, v = torch.randn(3, 2, 128, 2, 16, generator=torch.Generator().manual_seed(0))
    y = attend(q, k, v, window)
    assert y.shape == v.shape
    assert (y - reference_attention(q, k, v, window)).abs().max() < 1e-5
    full = attend(q, k, v, 128)
    assert (full - reference_attention(q, k, v, 128)).abs().max() < 1e-5
    if kernel != "flex":  # whose masks are as long as the model's sequence
        shorter = attend(q[:, :50], k[:, :50], v[:, :50], window)
        assert torch.allclose(shorter, y[:, :50], atol=1e-5)


def test_norm_keeps_the_dtype_under_autocast() -> None:
    x = torch.randn(2, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert train.norm(x).dtype == torch.bfloat16


# Optimizer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 64, 48), (2, 128, 32), (2, 32, 128)])
def test_polar_express_makes_singular_values_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    orthogonal = train.polar_express(matrices, torch.float32)
    values = torch.linalg.svdvals(orthogonal.double())
    assert 0.8 < float(values.min()) <= float(values.max()) < 1.2
    left, _, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    cosine = (orthogonal * (left @ right)).sum() / orthogonal.norm() / (left @ right).norm()
    assert cosine > 0.99


def test_polar_express_bounds_hold_for_badly_conditioned_matrices() -> None:
    """Singular values from 0.0004 to 0.4 of the norm, in float32 and in bfloat16 as on a GPU."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(32, 32, generator=generator))[0] for _ in range(2))
    matrix = (left * torch.logspace(-3, 0, 32) @ right.T)[None]
    for dtype, low, high in ((torch.float32, 0.5, 1.2), (torch.bfloat16, 0.4, 1.3)):
        values = torch.linalg.svdvals(train.polar_express(matrix, dtype).double())
        assert low < float(values.min()) <= float(values.max()) < high, dtype
    assert train.polar_express(torch.zeros(1, 4, 8), torch.float32).abs().max() == 0


def scalars(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (16, 16)])
def test_muon_step_is_the_reference(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, *shape, generator=generator)
    momentum_buffer = torch.zeros(2, *shape)
    variance = torch.zeros((2, shape[0], 1) if shape[0] >= shape[1] else (2, 1, shape[1]))
    expected = weights.double()
    buffer, moments = torch.zeros_like(expected), torch.zeros_like(variance).double()
    for _ in range(3):
        gradients = torch.randn(2, *shape, generator=generator)
        knobs = scalars(0.1, 0.9, 0.8, 0.5)  # lr, momentum, beta2, weight decay
        train.muon_update(weights, gradients, momentum_buffer, variance, *knobs, torch.float32)
        buffer = 0.9 * buffer + 0.1 * gradients
        for i in range(2):
            looking_ahead = 0.9 * buffer[i] + 0.1 * gradients[i]
            update = train.polar_express(looking_ahead[None], torch.float64)[0]
            power = (update**2).mean(dim=1 if shape[0] >= shape[1] else 0, keepdim=True)
            moments[i] = 0.8 * moments[i] + 0.2 * power
            reduced = update / moments[i].sqrt()
            reduced = reduced * update.norm() / reduced.norm()
            decay = 0.5 * expected[i] * (reduced * expected[i] >= 0)
            expected[i] -= 0.1 * (reduced + decay)
        assert (weights - expected).abs().max() < 1e-4


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_steps_are_the_reference(fused: bool) -> None:
    """Against torch's unfused optimizer in float64, with schedules of rate and decay."""
    torch.manual_seed(0)
    model = train.GPT(config())
    optimizer = train.Optimizer(model, dataclasses.replace(CPU, fused=fused))
    exact = {id(p): p.detach().double().requires_grad_() for p in model.parameters()}
    groups = [
        {"params": [exact[id(p)] for p in g.parameters], "betas": (g.beta1, train.ADAM_BETA2)}
        for g in optimizer.adamw
    ]
    assert sum(len(group["params"]) for group in groups) == 7
    adam = torch.optim.AdamW(groups, eps=1e-10)
    for step in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
            exact[id(parameter)].grad = parameter.grad.double()
        rate, decay = 1 - 0.1 * step, 0.5**step
        for group, ours in zip(adam.param_groups, optimizer.adamw, strict=True):
            group["lr"], group["weight_decay"] = ours.lr * rate, ours.weight_decay * decay
        adam.step()
        optimizer.step(rate, 0.9, decay)
        for group in optimizer.adamw:
            for parameter in group.parameters:
                assert (parameter - exact[id(parameter)]).abs().max() < 1e-5


def test_the_decay_of_matrices_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped(weight_decay: float, decay_scale: float) -> torch.Tensor:
        monkeypatch.setattr(train, "WEIGHT_DECAY", weight_decay)
        torch.manual_seed(0)
        model = train.GPT(config())
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        train.Optimizer(model, CPU).step(1.0, 0.9, decay_scale)
        return model.blocks[0].attention.query.weight.detach()

    assert torch.equal(stepped(0.5, 0.0), stepped(0.0, 1.0))
    assert torch.equal(stepped(0.5, 0.5), stepped(0.25, 1.0))
    assert not torch.equal(stepped(0.5, 1.0), stepped(0.0, 1.0))


def test_every_parameter_is_optimized_once_and_the_loss_falls() -> None:
    torch.manual_seed(0)
    model = train.GPT(config())
    optimizer = train.Optimizer(model, CPU)
    groups = [p for group, *_ in optimizer.muon for p in group]
    owned = [id(p) for p in [*groups, *(p for adam in optimizer.adamw for p in adam.parameters)]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    mlp = train.MLP_RATIO
    assert {tuple(group[0].shape): len(group) for group, *_ in optimizer.muon} == {
        (24, 24): 16, (24 * mlp, 24): 4, (24, 24 * mlp): 4, (3, 24): 2,
    }  # fmt: skip
    rates = {tuple(group[0].shape): lr for group, lr, *_ in optimizer.muon}
    assert rates[(24 * mlp, 24)] == pytest.approx(mlp**0.5 * train.MATRIX_LR)
    assert rates[(24, 24 * mlp)] == pytest.approx(train.MATRIX_LR)
    tokens = torch.randint(50, (4, 33))
    before = [parameter.clone() for parameter in model.parameters()]
    losses = []
    for _ in range(30):
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step(1.0, 0.9, 0.1)
        losses.append(loss.item())
        assert all(p.grad is None for p in model.parameters())
    assert losses[-1] < 0.5 * losses[0]
    unmoved = zip(model.parameters(), before, strict=True)
    assert not [new.shape for new, old in unmoved if torch.equal(new, old)]


def test_a_parameter_without_optimizer_or_gradient_is_named() -> None:
    model = train.GPT(config())
    optimizer = train.Optimizer(model, CPU)
    tokens = torch.randint(50, (2, 32))
    model(tokens, tokens).backward()
    model.blocks[1].mlp.up.weight.grad = None
    with pytest.raises(ValueError, match=r"no gradient for blocks\.1\.mlp\.up\.weight"):
        optimizer.step(1.0, 0.9, 0.1)
    model.blocks[0].gain = torch.nn.Parameter(torch.full((24,), 7.0))
    model.init_weights()
    assert model.blocks[0].gain.tolist() == [7.0] * 24
    with pytest.raises(ValueError, match=r"no optimizer for blocks\.0\.gain: add it to"):
        train.Optimizer(model, CPU)


def test_bfloat16_holds_embeddings_and_learns(prepared: Prepared) -> None:
    torch.manual_seed(0)
    device = dataclasses.replace(CPU, dtype="bfloat16")
    _, dataset = prepared
    model = train.build_model(dataset.vocab_size, dataclasses.replace(device, compile=True))
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    low = {name for name, dtype in types.items() if dtype == torch.bfloat16}
    assert low == {name for name in types if "embedding" in name} != set()
    model = train.build_model(dataset.vocab_size, device)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    optimizer = train.Optimizer(model, device)
    x, y = next(prepare.Loader(dataset, 2, device, seed=0))
    losses = []
    for _ in range(8):
        with device.autocast():
            assert model(x[:1]).dtype == torch.float32
            loss = model(x, y)
        loss.backward()
        optimizer.step(1.0, 0.9, 0.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


# Schedules ----------------------------------------------------------------------------------------


def test_learning_rates_rise_stay_and_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WARMUP_RATIO": 0.0, "WARMDOWN_RATIO": 0.5, "FINAL_LR_FRAC": 0.0}.items():
        monkeypatch.setattr(train, name, value)
    assert [train.lr_multiplier(p) for p in (0, 0.25, 0.5)] == [1, 1, 1]
    assert train.lr_multiplier(0.75) == pytest.approx(0.5)
    assert train.lr_multiplier(1.0) == 0
    monkeypatch.setattr(train, "WARMUP_RATIO", 0.2)
    monkeypatch.setattr(train, "FINAL_LR_FRAC", 0.1)
    assert train.lr_multiplier(0) == 0
    assert train.lr_multiplier(0.1) == pytest.approx(0.5)
    assert train.lr_multiplier(1.0) == pytest.approx(0.1)
    monkeypatch.setattr(train, "WARMDOWN_RATIO", 1.0)
    assert 0 < train.lr_multiplier(0.5) < 1


def test_momentum_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "MUON_MOMENTUM_START", 0.85)
    monkeypatch.setattr(train, "MUON_MOMENTUM_STEPS", 300)
    assert train.muon_momentum(0) == pytest.approx(0.85)
    assert train.muon_momentum(150) == pytest.approx(0.90)
    assert train.muon_momentum(300) == train.muon_momentum(9999) == pytest.approx(0.95)
