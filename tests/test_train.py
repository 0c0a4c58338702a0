"""train.py: the model, attention, optimizer and schedules against references; whole trials."""

from __future__ import annotations

import importlib
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
from trainer_fixtures import ROOT, environment, prepare, prepared, run_python, summary

import train

__all__ = ["prepared"]

Prepared = tuple[Path, Any]
KEYS = (
    "val_bpb training_seconds total_seconds peak_vram_mb mfu_percent total_tokens_M num_steps"
    " num_params_M depth"
)


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
    assert lines[0].startswith("device: CPU, ")
    assert all(word in lines[0] for word in ("float32", "SDPA", "eager", "seed 7"))
    assert re.match(r"step 00000 \(0\.0 %\) \| loss \d", lines[1])
    assert "\r" not in done.stdout
    assert len(lines) < 25  # steps take milliseconds; a line a second
    facts = summary(done.stdout)
    assert list(facts) == KEYS.split()
    assert float(facts["training_seconds"]) >= 1
    assert int(facts["num_steps"]) > train.UNCOUNTED_STEPS
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
    broken = re.sub(r"^SOFTCAP = .*$", "SOFTCAP = 0.0", source, flags=re.M)
    assert broken != source
    (place / "train.py").write_text(broken, encoding="utf-8")
    (place / "prepare.py").write_text((ROOT / "prepare.py").read_text(encoding="utf-8"))
    done = run_python("train.py", cache=prepared[0], cwd=place, PYTHONPATH="", SWARM_SECONDS="60")
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
        done = run_python("train.py", cache=cache, SWARM_SECONDS="1")
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
    done = run_python("train.py", cache=cache, SWARM_DATASET=str(flipped), SWARM_SECONDS="60")
    assert (done.returncode, done.stdout) == (1, "")
    assert "val.bin is corrupt" in done.stderr


# Memory and compilation ---------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "limit", "tried"), [(16, 5, [16, 8, 4]), (6, 2, [6, 3, 1])])
def test_rows_are_halved_until_a_pass_fits(
    rows: int, limit: int, tried: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def attempt(rows: int) -> None:
        seen.append(rows)
        if rows > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert train.rows_that_fit(attempt, rows) == tried[-1]
    assert seen == tried
    assert capsys.readouterr().out.count("out of memory with") == len(tried) - 1
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        train.rows_that_fit(attempt, rows)


def test_the_recompile_limit_is_raised() -> None:
    settings: Any = importlib.import_module("torch._dynamo.config")
    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    before = getattr(settings, name)
    try:
        train.raise_recompile_limit()
        assert getattr(settings, name) == 64
    finally:
        setattr(settings, name, before)
    assert before != 64


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
    assert found[(False, "TOTAL_BATCH_SIZE")] == "524288"
    assert {name for small, name in found if small} <= {name for small, name in found if not small}


def test_the_full_scale_model_is_the_reference() -> None:
    full = config(vocab_size=8192, seq_len=2048, depth=8, head_dim=128, heads=4)
    model = train.GPT(full, device="meta")
    assert full.width == 512
    assert full.windows == [1024, 1024, 1024, 2048] * 2
    assert sorted(model.value_embeddings) == ["1", "3", "5", "7"]
    matrices = 8 * 12 * 512**2 + 4 * 4 * 32
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 6 * 8192 * 512 + matrices + 2 * 8
    spans = 6 * 1024 + 2 * 2048
    assert model.flops_per_token() == 6 * (matrices + 8192 * 512) + 12 * 512 * spans


# Model --------------------------------------------------------------------------------------------


def test_windows_follow_the_pattern_and_end_full() -> None:
    assert config(depth=5, window_pattern="SSSL").windows == [16, 16, 16, 32, 32]
    assert config(depth=2, window_pattern="SL").windows == [16, 32]
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
    assert spread == pytest.approx(24**-0.5, rel=0.1)


def test_loss_is_the_cross_entropy_of_the_capped_logits() -> None:
    torch.manual_seed(0)
    model = train.GPT(config())
    torch.nn.init.normal_(model.head.weight, std=20.0)
    tokens, targets = torch.randint(50, (2, 3, 32))
    logits = model(tokens).double()
    assert 14 < logits.abs().max() <= 15
    expected = -torch.log_softmax(logits, -1).gather(2, targets.unsqueeze(2)).mean()
    assert model(tokens, targets).item() == pytest.approx(expected.item(), rel=1e-5)


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
@pytest.mark.parametrize("kernel", [train.sdpa_attention, train.flex_attention])
@pytest.mark.parametrize("window", [5, 16, 128])
def test_attention_is_the_float64_reference(kernel: Any, window: int) -> None:
    shape = config(seq_len=128, head_dim=16, heads=2, window_pattern="S")
    spans = type("Spans", (), {"windows": [window, 128], "seq_len": shape.seq_len})
    q, k, v = torch.randn(3, 2, 128, 2, 16, generator=torch.Generator().manual_seed(0))
    y = kernel(spans, "cpu")(q, k, v, window)
    assert y.shape == v.shape
    assert (y - reference_attention(q, k, v, window)).abs().max() < 1e-5


def test_attention_kernels_are_chosen_by_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = prepare.Device("cpu", "CPU", "cpu", "float32", False, None, ())
    ampere = prepare.Device("cuda", "A100", "cuda:0", "bfloat16", True, None, (), (8, 0))
    hopper = prepare.Device("cuda", "H100", "cuda:0", "bfloat16", True, None, (), (9, 0))
    old = prepare.Device("cuda", "P100", "cuda:0", "float32", False, None, (), (6, 0))
    assert train.pick_attention(cpu)[0] == train.pick_attention(old)[0] == "SDPA"
    expected = "FlexAttention" if torch.cuda.is_available() else "SDPA"  # a probe decides
    assert train.pick_attention(ampere)[0] == expected
    said = "" if torch.cuda.is_available() else "FlexAttention does not work here"
    assert capsys.readouterr().out.startswith(said)
    (tmp_path / "flash_attn_interface.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    assert train.pick_attention(hopper)[0] == expected


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


def test_adamw_step_is_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 7, generator=generator)
    reference = torch.nn.Parameter(weight.double())
    adam = torch.optim.AdamW([reference], lr=0.03, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
    mean, variance = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 6):
        gradient = torch.randn(20, 7, generator=generator)
        reference.grad = gradient.double()
        adam.step()
        train.adamw_update(weight, gradient, mean, variance, *scalars(step, 0.03, 0.8, 0.95))
        assert (weight - reference).abs().max() < 1e-5


def test_every_parameter_is_optimized_once_and_the_loss_falls() -> None:
    torch.manual_seed(0)
    device = prepare.Device("cpu", "CPU", "cpu", "float32", False, None, ())
    model = train.GPT(config())
    optimizer = train.Optimizer(model, device)
    groups = [p for group, *_ in optimizer.muon for p in group]
    owned = [id(p) for p in [*groups, *(entry[0] for entry in optimizer.adamw)]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    assert {tuple(group[0].shape): len(group) for group, *_ in optimizer.muon} == {
        (24, 24): 16, (96, 24): 4, (24, 96): 4, (3, 24): 2,
    }  # fmt: skip
    rates = {tuple(group[0].shape): lr for group, lr, *_ in optimizer.muon}
    assert rates[(96, 24)] == pytest.approx(2 * train.MATRIX_LR)
    assert rates[(24, 96)] == pytest.approx(train.MATRIX_LR)
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
    device = prepare.Device("cpu", "CPU", "cpu", "float32", False, None, ())
    model = train.GPT(config())
    optimizer = train.Optimizer(model, device)
    tokens = torch.randint(50, (2, 32))
    model(tokens, tokens).backward()
    model.blocks[1].mlp.up.weight.grad = None
    with pytest.raises(ValueError, match=r"no gradient for blocks\.1\.mlp\.up\.weight"):
        optimizer.step(1.0, 0.9, 0.1)
    model.blocks[0].gain = torch.nn.Parameter(torch.full((24,), 7.0))
    model.init_weights()
    assert model.blocks[0].gain.tolist() == [7.0] * 24
    with pytest.raises(ValueError, match=r"no optimizer for blocks\.0\.gain: add it to"):
        train.Optimizer(model, device)


def test_bfloat16_holds_embeddings_and_learns(prepared: Prepared) -> None:
    torch.manual_seed(0)
    device = prepare.Device("cpu", "CPU", "cpu", "bfloat16", False, None, ())
    _, dataset = prepared
    model = train.build_model(dataset.vocab_size, device, train.sdpa_attention)
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    low = {name for name, dtype in types.items() if dtype == torch.bfloat16}
    assert low == {name for name in types if "embedding" in name} != set()
    optimizer = train.Optimizer(model, device)
    x, y = next(prepare.Loader(dataset, 2, device, seed=0))
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(x[:1]).dtype == torch.float32
            loss = model(x, y)
        loss.backward()
        optimizer.step(1.0, 0.9, 0.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


# Schedules ----------------------------------------------------------------------------------------


def test_learning_rates_rise_stay_and_fall_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_momentum_rises_and_weight_decay_falls() -> None:
    assert train.muon_momentum(0) == pytest.approx(0.85)
    assert train.muon_momentum(150) == pytest.approx(0.90)
    assert train.muon_momentum(300) == train.muon_momentum(9999) == pytest.approx(0.95)
    assert [train.weight_decay(p) for p in (0, 0.5, 1)] == pytest.approx([0.2, 0.1, 0])
