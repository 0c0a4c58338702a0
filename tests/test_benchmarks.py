"""The trainer's benchmark: its reference is the same model and optimizer, its variants are true."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from trainer_fixtures import ROOT, prepared

import train
from swarm import hyperparameters

__all__ = ["prepared"]

Prepared = tuple[Path, Any]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / f"benchmarks/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


reference, trainer = load("reference"), load("trainer")
SOURCE = (ROOT / "train.py").read_text()
KEYS = (
    "val_bpb training_seconds total_seconds peak_vram_mb mfu_percent total_tokens_M num_steps"
    " num_params_M depth"
)

# The reference's model ----------------------------------------------------------------------------

NAMES = {"query": "wq", "key": "wk", "value": "wv", "output": "wo", "blocks": "layers"}


def renamed(name: str) -> str:
    """The reference's name of a parameter of train.GPT."""
    return ".".join(NAMES.get(part, part) for part in name.split("."))


def use_upstream_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the constants of the imported train.py, which its model reads."""
    for name, value in (trainer.VALUES | trainer.NEUTRAL).items():
        if hasattr(train, name):
            monkeypatch.setattr(train, name, value)


def models(monkeypatch: pytest.MonkeyPatch) -> tuple[train.GPT, Any]:
    """train.GPT with upstream's constants, and the reference with its weights, in float64."""
    use_upstream_values(monkeypatch)
    config = train.GPTConfig(
        vocab_size=50, seq_len=32, depth=5, head_dim=16, heads=3,
        window_pattern=train.WINDOW_PATTERN, embedding_dtype=torch.float64,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = train.GPT(config).double()
    for parameter in ours.parameters():  # fresh blocks are the identity: nothing to compare
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.zeros_(ours.shifts)  # as SHIFT_INIT and SHIFT_LR of 0 leave them
    sizes = reference.Sizes(
        50, 32, depth=5, width=48, head_dim=16, mlp_ratio=train.MLP_RATIO, dtype=torch.float64
    )
    theirs = reference.GPT(sizes).double()
    weights = {renamed(name): weight for name, weight in ours.state_dict().items()}
    assert not weights.pop("shifts").any()
    theirs.load_state_dict(weights)
    return ours, theirs


def test_the_reference_is_the_model_of_train_py(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = models(monkeypatch)
    tokens = torch.randint(0, 50, (3, 32))
    expected = ours(tokens)
    assert expected.std() > 1, "the logits must depend on the weights"
    torch.testing.assert_close(theirs(tokens), expected, rtol=1e-5, atol=1e-5)
    assert theirs.flops_per_token() == ours.flops_per_token()


def test_the_reference_starts_as_train_py_does(monkeypatch: pytest.MonkeyPatch) -> None:
    use_upstream_values(monkeypatch)
    ours = train.GPT(train.GPTConfig(400, 32, depth=4, head_dim=32, heads=4))
    sizes = reference.Sizes(400, 32, depth=4, width=128, head_dim=32, mlp_ratio=train.MLP_RATIO)
    theirs = reference.GPT(sizes)
    found = dict(theirs.named_parameters())
    assert not ours.shifts.any()
    del ours.shifts
    for name, weight in ours.named_parameters():
        like = found.pop(renamed(name))
        assert like.shape == weight.shape
        expected = weight.std().item()
        assert like.std().item() == pytest.approx(expected, rel=0.05, abs=1e-6), name
        assert like.mean().item() == pytest.approx(weight.mean().item(), abs=0.02), name
    assert not found


# The reference's optimizer ------------------------------------------------------------------------


def muon_by_singular_values(
    weight: Any, gradient: Any, buffer: Any, variance: Any, lr: float, momentum: float, decay: float
) -> tuple[Any, Any, Any]:
    """A step of Muon in float64, the orthogonalization as a polynomial of singular values."""
    buffer = momentum * buffer + (1 - momentum) * gradient
    nesterov = momentum * buffer + (1 - momentum) * gradient
    left, singular, right = np.linalg.svd(nesterov, full_matrices=False)
    singular = singular / (1.02 * np.sqrt((singular**2).sum()) + 1e-6)
    for a, b, c in train.POLAR_EXPRESS:
        singular = a * singular + b * singular**3 + c * singular**5
    update = left @ np.diag(singular) @ right
    rows, columns = weight.shape
    power = (update**2).mean(axis=1 if rows >= columns else 0, keepdims=True)
    variance = 0.95 * variance + 0.05 * power
    reduced = update / np.sqrt(variance)
    update = reduced * np.sqrt((update**2).sum() / (reduced**2).sum())
    wanted = np.where(update * weight >= 0, decay * weight, 0.0)
    rate = lr * max(1.0, rows / columns) ** 0.5
    return weight - rate * (update + wanted), buffer, variance


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_the_reference_muon_step_is_the_formula(shape: tuple[int, int]) -> None:
    random_state = np.random.default_rng(1)
    expected = random_state.normal(size=shape)
    reduced = (shape[0], 1) if shape[0] >= shape[1] else (1, shape[1])
    buffer, variance = np.zeros(shape), np.zeros(reduced)
    weight = torch.tensor(expected)
    state = torch.tensor(buffer), torch.tensor(variance)
    for _ in range(3):
        gradient = random_state.normal(size=shape)
        weight.grad = torch.tensor(gradient)
        reference.muon_step(weight, *state, 0.1, 0.9, 0.3, torch.float64)
        expected, buffer, variance = muon_by_singular_values(
            expected, gradient, buffer, variance, 0.1, 0.9, 0.3
        )
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_the_reference_adamw_step_is_the_formula() -> None:
    random_state = np.random.default_rng(2)
    expected = random_state.normal(size=7)
    mean, square = np.zeros(7), np.zeros(7)
    weight, moments = torch.tensor(expected), (torch.zeros(7).double(), torch.zeros(7).double())
    for step in (1, 2, 3):
        gradient = random_state.normal(size=7)
        weight.grad = torch.tensor(gradient)
        reference.adamw_step(weight, *moments, step, 0.1, (0.8, 0.95))
        mean, square = 0.8 * mean + 0.2 * gradient, 0.95 * square + 0.05 * gradient**2
        expected = expected - 0.1 * (mean / (1 - 0.8**step)) / (
            np.sqrt(square / (1 - 0.95**step)) + 1e-10
        )
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-12)


def test_the_reference_optimizer_has_the_rates_of_upstream() -> None:
    torch.manual_seed(0)
    model = reference.GPT(reference.Sizes(40, 16, depth=3, width=48, head_dim=16))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = reference.Optimizer(model, torch.float32)
    gradients = {name: torch.randn_like(weight) for name, weight in before.items()}
    for name, weight in model.named_parameters():
        weight.grad = gradients[name]
    optimizer.step(progress=0.75)  # half-way down the last half: rates × 0.5
    scale = math.sqrt(768 / 48)
    rates = {"head": 0.004 * scale, "embedding": 0.6 * scale, "value_embeddings": 0.6 * scale}
    rates |= {"residual_scalars": 0.005, "x0_scalars": 0.5}
    for name, weight in model.named_parameters():
        first = name.split(".")[0]
        if first in rates:  # Adam's first step is the rate, against the gradient's sign
            expected = before[name] - 0.5 * rates[first] * gradients[name].sign()
        else:
            matrix = before[name].double().numpy()
            zeros = np.zeros_like(matrix)
            stepped, _, _ = muon_by_singular_values(
                matrix, gradients[name].double().numpy(), zeros, 0.0, 0.5 * 0.04, 0.85, 0.2 * 0.25
            )
            expected = torch.tensor(stepped, dtype=torch.float32)
        torch.testing.assert_close(weight, expected, rtol=1e-3, atol=2e-5, msg=name)


def test_both_baselines_have_the_same_values_and_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [name for name in trainer.VALUES if hasattr(reference, name)]
    assert len(shared) >= 13
    for name in shared:
        assert getattr(reference, name) == trainer.VALUES[name], name
    assert (trainer.VALUES["ADAM_BETA1"], trainer.VALUES["ADAM_BETA2"]) == reference.ADAM_BETAS
    use_upstream_values(monkeypatch)
    for step in (0, 1, 150, 299, 300, 5000):
        assert reference.muon_momentum(step) == pytest.approx(train.muon_momentum(step))
    for progress in (0.0, 0.3, 0.5, 0.6, 0.99, 1.0):
        assert reference.lr_multiplier(progress) == pytest.approx(train.lr_multiplier(progress))


# The reference's data -----------------------------------------------------------------------------


def test_the_reference_packs_the_longest_that_fits_or_crops_the_shortest(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = reference.PackingLoader(prepared[1], rows=2, device="cpu", seed=1)
    loader.seq_len = 9
    loader.buffer = [[length] * length for length in (4, 7, 12, 3, 2, 15)]
    monkeypatch.setattr(reference, "PACK_BUFFER", 0)  # nothing more arrives
    x, y = loader.batch()
    assert x.tolist() == [[7] * 7 + [3] * 2, [4] * 4 + [2] * 2 + [12] * 3]
    assert y.tolist() == [[7] * 6 + [3] * 3, [4] * 3 + [2] * 2 + [12] * 4]
    assert loader.buffer == [[15] * 15]


def test_the_reference_tokenizes_documents_as_it_goes(prepared: Prepared) -> None:
    dataset = prepared[1]
    loader = reference.PackingLoader(dataset, rows=20, device="cpu", seed=1)
    loader.texts = itertools.cycle(["import os", "def f(x):"])
    x, y = loader.batch()
    assert x.shape == y.shape == (20, dataset.seq_len)
    assert (x[:, 0] == dataset.bos).all()
    for document in bytes_of(loader, x.flatten().tolist()).split(b"<|reserved_0|>")[1:-1]:
        assert b"import os".startswith(document) or b"def f(x):".startswith(document)


def bytes_of(loader: Any, tokens: list[int]) -> bytes:
    decoded: bytes = loader.encoding.decode_bytes(tokens)
    return decoded


def test_the_reference_reads_the_training_text_back(prepared: Prepared) -> None:
    dataset = prepared[1]
    texts = reference.training_texts(dataset, seed=3)
    tokens = dataset.memory_map("train")
    decode = dataset.tokenizer().encoding().decode_bytes
    first = decode(tokens[0][tokens[0] != dataset.bos].tolist()).decode(errors="ignore")
    assert any(text and first.startswith(text) for text in texts)
    bytes_read = sum(len(text.encode()) for text in texts)
    lengths = np.array(dataset.tokenizer().token_bytes())
    assert bytes_read == pytest.approx(lengths[tokens].sum(), rel=1e-3)
    assert texts != reference.training_texts(dataset, seed=4)


# Whole trials -------------------------------------------------------------------------------------


def bench(prepared: Prepared, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Any:
    monkeypatch.setenv("SWARM_CACHE", str(prepared[0]))
    monkeypatch.delenv("SWARM_DATASET", raising=False)
    return trainer.Bench(folder, "small", seconds, trainer.trial_core())


def test_the_reference_trains_and_is_scored(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = trainer.compared(["reference"], SOURCE, "small", seeds=1)
    results = trainer.run_all(bench(prepared, tmp_path, monkeypatch, 1), variants)
    (result,) = results["reference"].values()
    assert list(result.summary) == KEYS.split()
    assert 0 < result.number("val_bpb") < 6
    assert list(result.phases) == ["start", "data", "model", "training", "evaluation", "total"]
    assert result.phases["total"] == pytest.approx(sum(result.phases.values()) / 2, abs=0.3)
    assert result.phases["total"] == result.number("total_seconds")
    assert result.device.endswith("float32 | eager")


def test_a_trial_of_fixed_steps_makes_them_however_short_its_time(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = trainer.Variant("ours", trainer.with_fixed_steps(SOURCE, 14), seeds=1)
    result = bench(prepared, tmp_path, monkeypatch, 0.01).trial(variant, seed=1)
    assert result.number("num_steps") == 14


def test_a_failed_trial_is_shown_and_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "empty"))
    place = tmp_path / 'it\'s a "place"'
    place.mkdir()
    variants = trainer.compared(["ours"], SOURCE, "small", seeds=1)
    results = trainer.run_all(trainer.Bench(place, "small", 1, None), variants)
    assert results == {"ours": {}}
    shown = capsys.readouterr().err
    assert "ours, seed 1: failed, exit code 1" in shown
    assert "    error: no dataset is prepared for the small scale" in shown
    assert "| val_bpb | – |" in trainer.comparison(results)


# Variants and tables ------------------------------------------------------------------------------


def values(source: str, scale: str) -> dict[str, Any]:
    return {name: c.value for name, c in hyperparameters.parse(source, scale).items()}


@pytest.mark.parametrize("scale", ["small", "full"])
def test_the_upstream_variant_holds_the_values_of_upstream(scale: str) -> None:
    source = trainer.with_upstream_values(SOURCE, scale)
    compile(source, "train.py", "exec")
    found = values(source, scale)
    before = values(SOURCE, scale)
    assert trainer.VALUES.items() <= found.items()
    expected_sizes = trainer.SIZES.items() if scale == "full" else before.items()
    assert all((name, found[name]) in expected_sizes for name in trainer.SIZES)
    for name in found.keys() - trainer.VALUES.keys() - trainer.SIZES.keys():
        assert found[name] == trainer.NEUTRAL.get(name), f"{name} is in no table of trainer.py"


def test_upstreams_value_wins_over_the_small_block_and_new_constants_are_neutral(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = (
        "# ---------- Hyperparameters ----------\n"
        "MATRIX_LR = 0.028  # [0.004, 0.2]\n"
        "QUERY_SCALE = 1.25  # [0.5, 3.0]\n"
        "NOVELTY = 3  # [1, 9]\n"
        "DEPTH = 8  # [2, 24]\n"
        'if SCALE == "small":\n'
        "    MATRIX_LR = 0.1  # [0.004, 0.2]\n"
        "    DEPTH = 3  # [2, 24]\n"
        "# ---------- Model ----------\n"
    )
    edited = trainer.with_upstream_values(source, "small")
    found = values(edited, "small")
    assert found == {"MATRIX_LR": 0.04, "QUERY_SCALE": 1.0, "NOVELTY": 3, "DEPTH": 3}
    shown = capsys.readouterr().err
    assert "no constant ADAM_BETA1: skipped" in shown
    assert "EMBEDDING_DECAY" not in shown  # neutral when it is not there
    assert "value of NOVELTY is not known: it stays 3" in shown


def test_the_reference_gets_the_sizes_of_train_py() -> None:
    words = trainer.reference_arguments(trainer.with_upstream_values(SOURCE, "full"), "full")
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given == {
        "--depth": "8", "--width": "512", "--head-dim": "128", "--mlp-ratio": "4",
        "--batch": "524288", "--rows": "32",
    }  # fmt: skip
    small = values(SOURCE, "small")
    words = trainer.reference_arguments(SOURCE, "small")
    given = dict(zip(words[::2], words[1::2], strict=True))
    config = train.GPTConfig(vocab_size=8)
    assert int(given["--width"]) == config.width
    assert int(given["--head-dim"]) == config.head_dim
    assert int(given["--batch"]) == small["TOTAL_BATCH_SIZE"]


def test_each_learning_rate_is_halved_and_doubled_alone() -> None:
    first, *others = trainer.perturbed(SOURCE, "small", seeds=4, perturbed_seeds=2)
    assert (first.source, first.seeds) == (SOURCE, 4)
    base = values(SOURCE, "small")
    factors = []
    for variant in others:
        assert variant.seeds == 2
        found = {
            name: c.value for name, c in hyperparameters.parse(variant.source, "small").items()
        }
        (name,) = [each for each in base if base[each] != found[each]]
        factors.append((name, found[name] / base[name]))
    names = ("MATRIX_LR", "EMBEDDING_LR", "UNEMBEDDING_LR")
    assert factors == [(name, pytest.approx(f)) for name in names for f in (0.5, 2.0)]


def output(val_bpb: float, steps: int, seconds: float) -> str:
    return (
        "device: A Device | float32\n"
        f"seconds: start 1.2 | warm-up 0.2 | training {seconds} | total {seconds + 2}\n"
        f"---\nval_bpb: {val_bpb}\ntraining_seconds: {seconds}\ntotal_seconds: {seconds + 2}\n"
        f"mfu_percent: unknown\ntotal_tokens_M: {steps / 1000}\nnum_steps: {steps}\n"
    )


def test_the_tables_say_means_deviations_and_differences() -> None:
    def results(*outputs: str) -> dict[int, Any]:
        return {seed: trainer.read_output(each) for seed, each in enumerate(outputs, 1)}

    found = {
        "ours": results(output(1.0, 4000, 10.0), output(1.2, 4000, 10.0)),
        "reference": results(output(1.5, 1000, 10.0), output(1.5, 1000, 10.0)),
    }
    lines = trainer.comparison(found).splitlines()
    table = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines}
    assert table["tokens/s"] == ["400,000", "100,000"]
    assert table["÷ reference"] == ["4.00", "1.00"]
    assert table["MFU, %"] == ["–", "–"]
    assert table["warm-up, s"] == ["0.2", "0.2"]
    assert table["total, s"] == ["12.0", "12.0"]
    assert table["val_bpb"] == ["1.10000", "1.50000"]
    assert table["± SD over seeds"] == ["0.14142", "0.00000"]
    assert table["− reference"] == ["-0.40000", "+0.00000"]
    noise = trainer.noise(
        {"ours": found["ours"], "MATRIX_LR × 2": {2: found["reference"][2]}}  # seed 1 failed
    )
    assert "| ours | 2 | 1.10000 | 0.14142 | – | – |" in noise
    assert "| MATRIX_LR × 2 | 1 | 1.50000 | – | +0.30000 | +2.1 |" in noise, "1.5 − 1.2, by seed"


def test_an_output_without_a_finite_score_is_no_result() -> None:
    assert trainer.read_output("error: no dataset\n") is None
    assert trainer.read_output(output(math.nan, 10, 1.0)) is None
