"""The file of a model's weights: what is read is what was written, and nothing else is believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_fixtures import prepare

from swarm.harness import weights
from swarm.harness.device import Device

CPU = prepare.Device(
    kind="cpu", name="", torch_device="cpu", dtype="float32", compile=False, attention=("sdpa",),
    fused=True, peak_flops=None, lock_keys=(), why=("", "", ""),
)  # fmt: skip


def read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    file = os.open(path, os.O_RDONLY)
    try:
        return weights.read(file)
    finally:
        os.close(file)


def test_all_kinds_of_tensors_come_back(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    written = {
        "flags": torch.tensor([True, False, True]),  # an odd size: what follows is not aligned
        "a matrix": torch.randn(3, 5, generator=generator),
        "transposed": torch.randn(3, 5, generator=generator).T,
        "half": torch.randn(7, generator=generator).bfloat16(),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "nothing": torch.empty(0, 4),
        "counts": torch.arange(5),
        "not finite": torch.tensor([float("nan"), float("inf")]),
    }
    weights.write(tmp_path / "w", written, "bfloat16")
    found, autocast = read(tmp_path / "w")
    assert autocast == "bfloat16" and list(found) == list(written)
    for name, tensor in written.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].nan_to_num(), tensor.nan_to_num()), name


def test_it_is_laid_out_as_safetensors(tmp_path: Path) -> None:
    weights.write(tmp_path / "w", {"x": torch.tensor([[1, 2]], dtype=torch.int16)}, "")
    content = (tmp_path / "w").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length]) == {
        "__metadata__": {"autocast": ""},
        "x": {"dtype": "I16", "shape": [1, 2], "data_offsets": [0, 4]},
    }
    assert content[8 + length :] == b"\x01\x00\x02\x00"


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02" + b"\x00" * 7 + b"{}"])
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises((ValueError, KeyError)):
        read(tmp_path / "w")


class Compiled(torch.nn.Module):
    """As torch.compile wraps a module."""

    def __init__(self, inside: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = inside


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Device], str]:
    monkeypatch.setenv("SWARM_WEIGHTS", "kept")
    return lambda model, device: weights.keep(model, device, tmp_path)


def test_the_names_are_those_of_the_model_that_was_compiled(
    tmp_path: Path, keep: Callable[[Any, Device], str]
) -> None:
    inside = torch.nn.Linear(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert keep(Compiled(inside), CPU) == ""
    found, autocast = read(tmp_path / "kept")
    assert autocast == "bfloat16" and torch.equal(found["weight"], inside.weight)
    assert list(found) == ["weight", "bias"]


def test_what_cannot_be_kept_fails_nothing(
    tmp_path: Path, keep: Callable[[Any, Device], str], capfd: pytest.CaptureFixture[str]
) -> None:
    complex_numbers = torch.nn.ParameterDict({"x": torch.ones(2, dtype=torch.complex64)})
    for model, why in ((lambda x: x, "no attribute 'state_dict'"), (complex_numbers, "complex64")):
        assert why in keep(model, CPU)
        assert why in capfd.readouterr().err
        assert list(tmp_path.iterdir()) == []
