"""prepare.py's devices: every kind by a faked torch, real copies, caches and locks on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainer_fixtures import ROOT, environment, prepare, run_python, run_warm

from swarm.harness import peaks, probes, settings, setup

MASKS = (
    "SWARM_DEVICE", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK", "HABANA_VISIBLE_MODULES", "PT_HPU_LAZY_MODE",
)  # fmt: skip
WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
EPYC = "model name\t: AMD EPYC 7B13 64-Core Processor\nflags\t\t: fpu avx2 vaes\n"
XEON = (
    "model name\t: Intel(R) Xeon(R) 8480+\nflags\t\t: avx512_bf16 amx_bf16 avx512_fp16 amx_tile\n"
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No mask of the machine's own, a cache of the test's own, and no flash attention."""
    for name in MASKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "a 'cache'"))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, which has Triton."""
    folder = tmp_path / "some packages"
    folder.mkdir()
    (folder / "triton.py").touch()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setenv("CPATH", "/headers")
    return folder


@pytest.fixture
def bridge(packages: Path) -> Iterator[Path]:
    """An importable habana_frameworks.torch that leaves its lazy mode in `seen`."""
    folder = packages / "habana_frameworks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "torch.py").write_text("import os\nlazy = os.environ['PT_HPU_LAZY_MODE']\n")
    yield folder
    for name in ("habana_frameworks", "habana_frameworks.torch"):
        sys.modules.pop(name, None)


def fake_torch(**more: Any) -> Any:
    """What a PyTorch that is built for CPUs says; `more` replaces parts of it."""
    none = SimpleNamespace(is_available=lambda: False, is_built=lambda: False)
    usual = {
        "__version__": "2.9.1+cpu",
        "version": SimpleNamespace(cuda=None, hip=None),
        "cuda": none,
        "xpu": none,
        "backends": SimpleNamespace(mps=none),
    }
    return SimpleNamespace(**(usual | more))


def nvidia(name: str, capability: tuple[int, int], arches: list[str] = WHEEL) -> Any:
    major, minor = capability
    properties = SimpleNamespace(name=name, major=major, minor=minor, uuid="1a2b")
    return fake_torch(
        version=SimpleNamespace(cuda="12.8", hip=None),
        cuda=SimpleNamespace(
            is_available=lambda: True,
            get_device_properties=lambda index: properties,
            get_arch_list=lambda: arches,
        ),
    )


def amd(name: str, arch: str, units: int) -> Any:
    properties = SimpleNamespace(name=name, gcnArchName=arch, multi_processor_count=units)
    return fake_torch(
        version=SimpleNamespace(cuda=None, hip="6.4.4"),
        cuda=SimpleNamespace(
            is_available=lambda: True, get_device_properties=lambda index: properties
        ),
    )


def intel(name: str, units: int = 512, version: str = "2.9.1+xpu") -> Any:
    properties = SimpleNamespace(
        name=name, gpu_eu_count=units, has_subgroup_matrix_multiply_accumulate=False
    )
    xpu = SimpleNamespace(is_available=lambda: True, get_device_properties=lambda index: properties)
    return fake_torch(__version__=version, xpu=xpu)


def gaudi(name: str) -> Any:
    hpu = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: name)
    return fake_torch(hpu=hpu)


def apple(**more: Any) -> Any:
    mps = SimpleNamespace(is_available=lambda: True, **more)
    return fake_torch(backends=SimpleNamespace(mps=mps))


# Choices by kind ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("name", "capability", "dtype", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "bfloat16", 989.5),
        ("NVIDIA H200", (9, 0), "bfloat16", 989.5),
        ("NVIDIA B200", (10, 0), "bfloat16", 2250),
        ("NVIDIA GeForce RTX 4090", (8, 9), "bfloat16", 165.2),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "bfloat16", 312),
        ("NVIDIA RTX PRO 6000 Blackwell", (12, 1), "bfloat16", None),
        ("Tesla T4", (7, 5), "float32", None),
    ],
)
def test_nvidia(name: str, capability: tuple[int, int], dtype: str, tflops: float | None) -> None:
    device = prepare.pick_device(nvidia(name, capability))
    assert (device.kind, device.name, device.torch_device) == ("cuda", name, "cuda:0")
    assert (device.dtype, device.compile, device.fused) == (dtype, True, True)
    assert device.peak_flops == (None if tflops is None else pytest.approx(tflops * 1e12))
    assert device.attention == ("flex", "sdpa")
    assert device.lock_keys == ("GPU-1a2b",)


def test_flash_attention_is_for_hopper_where_its_package_is(packages: Path) -> None:
    (packages / "flash_attn_interface.py").write_text(
        "raise ImportError('built for another torch')"
    )
    hopper = prepare.pick_device(nvidia("NVIDIA H100 PCIe", (9, 0)))
    assert hopper.attention == ("flash3", "flex", "sdpa")
    assert prepare.pick_device(nvidia("NVIDIA B200", (10, 0))).attention == ("flex", "sdpa")


def test_an_old_gpu_computes_in_float32_and_eagerly(packages: Path) -> None:
    volta = nvidia("Tesla V100-SXM2-16GB", (7, 0), ["sm_70"])
    device = prepare.pick_device(volta)
    assert (device.dtype, device.compile, device.peak_flops) == ("float32", True, None)
    assert "bfloat16 needs capability 8.0" in device.describe()
    (packages / "triton.py").unlink()
    pascal = nvidia("Tesla P100-PCIE-16GB", (6, 0), ["sm_60"])
    for torch_, reason in ((volta, "not installed"), (pascal, "needs capability 7.0")):
        device = prepare.pick_device(torch_)
        assert (device.compile, device.attention) == (False, ("sdpa",))
        assert f"eager: Triton {'is ' if torch_ is volta else ''}{reason}" in device.describe()


@pytest.mark.usefixtures("packages")
def test_triton_needs_a_compiler_and_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    h100 = nvidia("NVIDIA H100 80GB HBM3", (9, 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prepare.pick_device(h100).compile
    monkeypatch.delenv("CC")
    assert "eager: Triton needs a C compiler" in prepare.pick_device(h100).describe()
    (tmp_path / "clang").touch(mode=0o755)
    assert prepare.pick_device(h100).compile
    monkeypatch.delenv("CPATH")
    monkeypatch.setattr("sysconfig.get_path", lambda *asked: str(tmp_path / "include"))
    assert "eager: Triton needs Python's C headers" in prepare.pick_device(h100).describe()


@pytest.mark.parametrize(
    ("capability", "arches", "runs"),
    [
        ((9, 0), WHEEL, True),
        ((8, 9), WHEEL, True),  # machine code of 8.6
        ((8, 0), ["sm_86"], False),
        ((12, 1), WHEEL, True),
        ((13, 0), WHEEL, True),  # compiled from the intermediate code
        ((13, 0), ["sm_120"], False),
        ((7, 0), WHEEL, False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90", "compute_90"], True),
    ],
)
def test_kernels_serve_later_minor_versions(
    capability: tuple[int, int], arches: list[str], runs: bool
) -> None:
    assert probes.has_kernels(capability, arches) == runs


def test_a_gpu_without_kernels_is_not_taken() -> None:
    device = prepare.pick_device(nvidia("NVIDIA B200", (10, 0), ["sm_80", "sm_90"]))
    assert device.kind == "cpu"
    assert "has no kernels for NVIDIA B200 (10.0), but for sm_80, sm_90" in device.describe()


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("name", "arch", "units", "dtype", "tflops"),
    [
        ("AMD Instinct MI300X", "gfx942:sramecc+:xnack-", 304, "bfloat16", 1307.4),
        ("AMD Instinct MI300X", "gfx942:sramecc+:xnack-", 38, "bfloat16", 1307.4 / 8),
        ("AMD Instinct MI250X/MI250", "gfx90a:sramecc+:xnack-", 104, "bfloat16", 181.05),
        ("AMD Instinct MI355X", "gfx950", 256, "bfloat16", 2516.6),
        ("AMD Radeon RX 7900 XTX", "gfx1100", 48, "bfloat16", 122.8),
        ("AMD Radeon RX 9070 XT", "gfx1201", 32, "bfloat16", None),
        ("AMD Instinct MI100", "gfx908:sramecc+:xnack-", 120, "float32", None),
        ("AMD Radeon RX 6900 XT", "gfx1030", 40, "float32", None),
    ],
)
def test_amd(name: str, arch: str, units: int, dtype: str, tflops: float | None) -> None:
    device = prepare.pick_device(amd(name, arch, units))
    modern = dtype == "bfloat16"
    assert (device.kind, device.dtype, device.compile) == ("cuda", dtype, modern)
    assert device.attention == (("flex", "sdpa") if modern else ("sdpa",))
    assert device.peak_flops == (None if tflops is None else pytest.approx(tflops * 1e12, rel=1e-4))
    assert f"ROCm, {arch.split(':')[0]}" in device.describe()
    assert device.lock_keys == ("rocm-0",)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("name", "units", "dtype", "tflops"),
    [
        ("Intel(R) Data Center GPU Max 1550", 1024, "bfloat16", 838.9),
        ("Intel(R) Data Center GPU Max 1550", 512, "bfloat16", 419.45),  # one tile
        ("Intel(R) Data Center GPU Max 1100", 448, "bfloat16", 355.5),
        ("Intel(R) Arc(TM) A770 Graphics", 512, "bfloat16", None),
        ("Intel(R) Arc(TM) Pro B60 Graphics", 160, "bfloat16", None),
        ("Intel(R) Arc(TM) Graphics", 128, "float32", None),
        ("Intel(R) UHD Graphics 770", 32, "float32", None),
    ],
)
def test_intel(name: str, units: int, dtype: str, tflops: float | None) -> None:
    device = prepare.pick_device(intel(name, units))
    fast = dtype == "bfloat16"
    assert (device.kind, device.torch_device, device.dtype) == ("xpu", "xpu:0", dtype)
    assert (device.compile, device.attention[-2:]) == (fast, ("blocked", "sdpa"))
    assert ("flex" in device.attention) == fast
    assert device.peak_flops == (None if tflops is None else pytest.approx(tflops * 1e12))
    assert device.lock_keys == ("xpu-0",)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(("version", "flex"), [("2.8.0", False), ("2.9.0", True), ("2.13.0", True)])
def test_flex_attention_on_intel_came_with_torch_2_9(version: str, flex: bool) -> None:
    device = prepare.pick_device(intel("Intel(R) Arc(TM) B580 Graphics", 160, version))
    assert device.attention == ("flex",) * flex + ("blocked", "sdpa")
    assert device.compile


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(("name", "tflops"), [("GAUDI2", 432), ("GAUDI3", 1835), ("GAUDI", None)])
def test_gaudi(monkeypatch: pytest.MonkeyPatch, name: str, tflops: float | None) -> None:
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", "6,7")
    device = prepare.pick_device(gaudi(name))
    assert (device.kind, device.name, device.dtype) == ("hpu", f"Intel {name}", "bfloat16")
    assert (device.compile, device.fused, device.attention) == (False, False, ("blocked", "sdpa"))
    assert device.peak_flops == (None if tflops is None else tflops * 1e12)
    assert device.lock_keys == ("hpu-6",)
    assert sys.modules["habana_frameworks.torch"].lazy == "0"


def test_a_gaudi_bridge_that_does_not_load_or_sees_none_is_a_reason(bridge: Path) -> None:
    none = fake_torch(hpu=SimpleNamespace(is_available=lambda: False))
    assert "is here but sees no Gaudi" in prepare.pick_device(none).describe()
    sys.modules.pop("habana_frameworks.torch")
    (bridge / "torch.py").write_text("raise OSError('libSynapse.so: cannot open shared object')")
    assert "does not load (libSynapse.so: cannot" in prepare.pick_device(none).describe()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("Apple M1", "float32"), ("Apple M4 Max", "float32"), ("Apple M5 Pro", "bfloat16")],
)
def test_apple(name: str, dtype: str) -> None:
    device = prepare.pick_device(apple(get_name=lambda: name))
    assert (device.kind, device.name, device.torch_device) == ("mps", name, "mps")
    assert (device.dtype, device.compile) == (dtype, False)
    assert device.fused == (dtype == "float32")
    assert (device.attention, device.peak_flops) == (("blocked", "sdpa"), None)
    assert device.lock_keys == ("mps-0",)


def test_an_older_torch_does_not_name_apples_gpu() -> None:
    device = prepare.pick_device(apple())
    assert (device.name, device.dtype) == ("Apple GPU", "float32")


@pytest.mark.parametrize(
    ("about", "name", "dtype"),
    [
        (EPYC, "AMD EPYC 7B13 64-Core Processor", "float32"),
        (XEON, "Intel Xeon 8480+", "bfloat16"),
        (XEON.replace("amx_tile", ""), "Intel Xeon 8480+", "float32"),
        (None, os.uname().machine, "float32"),
    ],
)
def test_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: str | None, name: str, dtype: str
) -> None:
    monkeypatch.setattr(probes, "CPUINFO", tmp_path / "cpuinfo")
    if about is not None:
        probes.CPUINFO.write_text(about)
    monkeypatch.setattr(probes, "cpu_cores", lambda: [3])
    device = prepare.pick_device(fake_torch())
    assert (device.kind, device.name, device.dtype) == ("cpu", f"{name}, 1 core", dtype)
    assert (device.compile, device.attention) == (False, ("blocked", "sdpa"))
    assert (device.peak_flops, device.lock_keys) == (None, ("cpu-3",))
    monkeypatch.setattr(probes, "cpu_cores", lambda: [3, 5])
    assert prepare.pick_device(fake_torch()).name == f"{name}, 2 cores"


# Which kind is chosen, and what is said of it -----------------------------------------------------


@pytest.mark.usefixtures("packages")
def test_the_line_about_a_device() -> None:
    assert prepare.pick_device(nvidia("NVIDIA H100 80GB HBM3", (9, 0))).describe() == (
        "device: NVIDIA H100 80GB HBM3 (CUDA, capability 9.0) | bfloat16: tensor cores"
        " | compiled: Triton is here | attention flex, sdpa | peak 989.5 TFLOP/s"
    )


def test_the_line_about_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "CPUINFO", tmp_path / "cpuinfo")
    probes.CPUINFO.write_text(EPYC)
    monkeypatch.setattr(probes, "cpu_cores", lambda: [0])
    assert prepare.pick_device(fake_torch()).describe() == (
        "device: AMD EPYC 7B13 64-Core Processor, 1 core"
        " (no accelerator: this PyTorch is a CPU build)"
        " | float32: bfloat16 is slow here (no AMX)"
        " | eager: compiling takes over a minute on a few cores"
        " | attention blocked, sdpa | peak unknown"
    )


def test_a_gpu_that_is_not_seen_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        warnings.warn("The NVIDIA driver is too old (found 11040). Please update.", stacklevel=2)
        return False

    blind = nvidia("NVIDIA H100", (9, 0))
    blind.cuda.is_available = unavailable
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (
        "(no accelerator: this PyTorch is built for CUDA 12.8 but sees no GPU"
        ' (CUDA_VISIBLE_DEVICES=""): The NVIDIA driver is too old (found 11040))'
    ) in prepare.pick_device(blind).describe()
    blind.version = SimpleNamespace(cuda=None, hip="6.4.4")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "-1")
    said = prepare.pick_device(blind).describe()
    assert 'for ROCm 6.4.4 but sees no GPU (HIP_VISIBLE_DEVICES="-1", CUDA_VISIBLE_D' in said


def test_other_builds_that_see_nothing_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZE_AFFINITY_MASK", "7")
    blind = fake_torch(version=SimpleNamespace(cuda=None, hip=None, xpu="20250201"))
    assert 'but sees none (ZE_AFFINITY_MASK="7")' in prepare.pick_device(blind).describe()
    blind = fake_torch()
    blind.backends.mps.is_built = lambda: True
    assert "macOS gives it none" in prepare.pick_device(blind).describe()


@pytest.mark.usefixtures("packages")
def test_a_kind_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    both = intel("Intel(R) Arc(TM) A770 Graphics")
    h100 = nvidia("NVIDIA H100 PCIe", (9, 0))
    both.cuda, both.version = h100.cuda, h100.version
    assert prepare.pick_device(both).kind == "cuda"
    for kind in ("cuda", "xpu", "cpu"):
        monkeypatch.setenv("SWARM_DEVICE", kind)
        assert prepare.pick_device(both).kind == kind
    assert "(SWARM_DEVICE=cpu)" in prepare.pick_device(both).describe()
    monkeypatch.setenv("SWARM_DEVICE", "")
    assert prepare.pick_device(both).kind == "cuda"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cuda", "SWARM_DEVICE is cuda: this PyTorch (2.9.1+cpu) is not built for it"),
        ("hpu", "SWARM_DEVICE is hpu: this PyTorch (2.9.1+cpu) is not built for it"),
        ("tpu", "SWARM_DEVICE is 'tpu'"),
    ],
)
def test_a_kind_that_is_not_here_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    monkeypatch.setenv("SWARM_DEVICE", kind)
    with pytest.raises(prepare.PrepareError) as caught:
        prepare.pick_device(fake_torch())
    assert (str(caught.value), caught.value.exit_code) == (message, 2)


def test_the_real_torch_of_this_machine_answers_every_probe() -> None:
    devices = [probe(torch) for probe in probes.PROBES.values()]
    assert isinstance(devices[-1], prepare.Device)
    assert all(isinstance(found, prepare.Device | str) for found in devices)
    assert prepare.pick_device().kind in probes.PROBES


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA GB200", 2500),
        ("AMD Instinct MI210", 181),
        ("AMD Instinct MI325X", 1307.4),
    ],
)
def test_peak_flops(name: str, tflops: float) -> None:
    assert peaks.peak_flops(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A4000",
        "NVIDIA GeForce GTX 1080",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "GRID A100-10C",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4080 SUPER",
        "AMD Radeon RX 7900 GRE",
    ],
)
def test_unknown_parts_have_no_peak(name: str) -> None:
    assert peaks.peak_flops(name) is None


def test_every_part_with_units_has_a_peak() -> None:
    assert set(peaks.UNITS) <= set(peaks.PEAK_TFLOPS)


# Scale --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "environ", "scale"),
    [
        ([], {}, "small"),
        (["nvidia0"], {}, "full"),
        (["nvidiactl"], {}, "small"),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "-1"}, "small"),
        (["nvidia0"], {"SWARM_DEVICE": "cuda"}, "full"),
        (["nvidia0"], {"SWARM_DEVICE": "cpu"}, "small"),
        (["nvidia0"], {"SWARM_DEVICE": "mps"}, "small"),
        (["kfd"], {}, "full"),
        (["accel/accel0:habanalabs"], {"CUDA_VISIBLE_DEVICES": ""}, "full"),
        (["accel/accel0:intel_vpu"], {}, "small"),  # a laptop's NPU
        (["dri/renderD128:0x0bd5"], {}, "full"),
        (["dri/renderD128:0x7d55", "dri/renderD129:0x0bda"], {"SWARM_DEVICE": "xpu"}, "full"),
        (["dri/renderD128:0x56a0"], {}, "small"),  # an Arc A770
        (["dri/renderD128"], {}, "small"),
    ],
)
def test_the_scale_follows_the_accelerator(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[str],
    environ: dict[str, str],
    scale: str,
) -> None:
    monkeypatch.setattr(probes.os, "environ", environ)
    for node in nodes:
        name, _, about = node.partition(":")
        path = tmp_path / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        device = tmp_path / "sys/class" / name.replace("dri/", "drm/") / "device"
        device.mkdir(parents=True)
        if about.startswith("0x"):
            (device / "vendor").write_text("0x8086\n")
            (device / "device").write_text(f"{about}\n")
        elif about:
            driver = tmp_path / "sys/bus/pci/drivers" / about
            driver.mkdir(parents=True)
            (device / "driver").symlink_to(driver)
    assert settings.default_scale(tmp_path) == scale


# Computing on the CPU -----------------------------------------------------------------------------


def device(**more: Any) -> Any:
    """A CPU device; `more` replaces parts of it."""
    usual = {
        "kind": "cpu", "name": "CPU", "torch_device": "cpu", "dtype": "float32", "compile": False,
        "attention": ("sdpa",), "fused": True, "peak_flops": None, "lock_keys": ("cpu-0",),
        "why": ("CPU", "", ""),
    }  # fmt: skip
    return prepare.Device(**(usual | more))


def test_a_value_taken_for_later_is_the_one_of_that_moment() -> None:
    total = torch.zeros((), requires_grad=True) + 1.5
    later = device().later(total)
    with torch.no_grad():
        total += 1
    assert later() == 1.5
    assert later() == 1.5


def test_matrix_products_are_in_the_devices_dtype() -> None:
    a = torch.ones(2, 2)
    with device().autocast():
        assert (a @ a).dtype == torch.float32
    with device(dtype="bfloat16").autocast():
        assert (a @ a).dtype == torch.bfloat16
    assert (a @ a).dtype == torch.float32


# Setting up a process -----------------------------------------------------------------------------

SET_UP = """
import prepare, os, resource, torch
device = prepare.pick_device()
{before}
prepare.set_up(device)
{after}
"""


def set_up(
    cache: Path, after: str, before: str = "", run: Callable[..., Any] = run_warm, **more: str
) -> str:
    program = SET_UP.format(before=before, after=after)
    done = run("-c", program, cache=cache, SWARM_DEVICE="cpu", **more)
    assert done.returncode == 0, done.stderr
    said: str = done.stdout
    return said


SHOW_CACHES = (
    "print(os.environ['TORCHINDUCTOR_CACHE_DIR'], os.environ['TRITON_CACHE_DIR'], sep='|')"
)


def test_compiled_kernels_are_kept_per_device_and_torch(tmp_path: Path) -> None:
    cache = tmp_path / "the cache"
    key = f"cpu-{min(os.sched_getaffinity(0))}"
    folder = cache / "compile" / f"{key}-torch{torch.__version__}"
    assert set_up(cache, SHOW_CACHES) == f"{folder}/inductor|{folder}/triton\n"
    chosen = {"TORCHINDUCTOR_CACHE_DIR": "/mine", "TRITON_CACHE_DIR": "/too"}
    assert set_up(cache, SHOW_CACHES, **chosen) == "/mine|/too\n"


def test_a_compile_cache_that_has_grown_too_big_is_removed_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "restored after the test")
    kept, grown = (device(lock_keys=(key,)) for key in ("GPU-a", "GPU-b"))
    compiled = settings.cache_dir() / "compile"
    for key in ("GPU-a", "GPU-b"):
        (compiled / f"{key}-torch2.9" / "inductor/ab").mkdir(parents=True)
        (compiled / f"{key}-torch2.9" / "inductor/ab/kernel.so").write_bytes(bytes(600))
        (compiled / f"{key}-torch2.9" / "triton.json").write_bytes(bytes(400))
    monkeypatch.setattr(setup, "COMPILE_CACHE_BYTES", 1000)
    setup.use_compile_cache(kept, "2.9")
    assert (compiled / "GPU-a-torch2.9/inductor/ab/kernel.so").is_file()
    (compiled / "GPU-b-torch2.9" / "one more").write_bytes(b"x")
    setup.use_compile_cache(grown, "2.9")
    assert [path.name for path in compiled.iterdir()] == ["GPU-a-torch2.9"]


ALLOCATE = """
import ctypes
class Info(ctypes.Structure):  # mallinfo2: bytes in the heap, …, bytes in maps of their own, …
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def allocate(megabytes):
    start = libc.mallinfo2()
    blocks = [libc.malloc(megabytes * 1_000_000) for _ in range(2)]
    used = libc.mallinfo2()
    for block in blocks:
        libc.free(block)
    kept = libc.mallinfo2().field0 - start.field0
    print((used.field4 - start.field4) // 1_000_000, kept // 1_000_000)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc from 2.33 on")
def test_freed_memory_is_kept(tmp_path: Path) -> None:
    """By default blocks of 20 MB are memory maps of their own, gone when freed; then no longer."""
    shown = set_up(tmp_path, "allocate(30)", f"{ALLOCATE}allocate(20)", run_python).splitlines()
    assert shown[0] == "40 0"
    mapped, kept = map(int, shown[1].split())
    assert mapped == 0
    assert kept >= 50


def test_waiting_and_memory_on_the_cpu(tmp_path: Path) -> None:
    before = "before = device.peak_memory_mb(); block = torch.ones(64 * 2**20)"
    after = "device.synchronize(); device.forget_memory(); print(before, device.peak_memory_mb())"
    start, end = map(float, set_up(tmp_path, after, before, run_python).split())
    assert 50 < start < 2**15  # torch alone
    assert 200 < end - start < 300  # 256 MB of ones, less what the imports had freed


def test_a_process_uses_the_cores_it_may_use(tmp_path: Path) -> None:
    pin = f"os.sched_setaffinity(0, {{{max(os.sched_getaffinity(0))}}}); torch.set_num_threads(4)"
    after = "print(torch.get_num_threads(), torch.get_float32_matmul_precision())"
    assert set_up(tmp_path, after, pin) == "1 high\n"


def test_dynamo_may_compile_many_shapes(tmp_path: Path) -> None:
    before = "import dataclasses; device = dataclasses.replace(device, compile=True)"
    after = "import torch._dynamo.config as config; print(config.recompile_limit)"
    assert set_up(tmp_path, after, before) == "64\n"


def test_importing_prepare_stays_light(tmp_path: Path) -> None:
    program = "import prepare, sys; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert run_python("-c", program, cache=tmp_path).stdout == "[]\n"


# Locks --------------------------------------------------------------------------------------------


def test_lock_is_refused_while_held_and_names_the_holder(tmp_path: Path) -> None:
    cache = settings.cache_dir()
    wanted = device(lock_keys=("cpu-0", "cpu-1"))
    program = (
        "import prepare, time, dataclasses;"
        "d = dataclasses.replace(prepare.pick_device(), lock_keys=('cpu-1',));"
        "held = prepare.lock_device(d); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=environment(cache), stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(prepare.PrepareError, match=f"pid {child.pid} in ") as caught:
            prepare.lock_device(wanted)
        assert caught.value.exit_code == 3
    finally:
        child.kill()
        child.wait()
    held = prepare.lock_device(wanted)  # freed by the kernel, and nothing kept by the refusal
    assert (cache / "locks" / "cpu-1.lock").read_text() == f"pid {os.getpid()} in {Path.cwd()}\n"
    with contextlib.ExitStack() as stack:
        for file in held:
            stack.enter_context(file)


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({}, "rocm-0"),
        ({"HIP_VISIBLE_DEVICES": "2,3"}, "rocm-2"),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, "rocm-2"),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "2"}, "rocm-1"),
        ({"ROCR_VISIBLE_DEVICES": "5", "HIP_VISIBLE_DEVICES": "0"}, "rocm-5"),
        ({"ROCR_VISIBLE_DEVICES": "2, 3", "HIP_VISIBLE_DEVICES": "1"}, "rocm-3"),
        ({"ROCR_VISIBLE_DEVICES": "GPU-7a", "HIP_VISIBLE_DEVICES": "0"}, "rocm-GPU-7a"),
        ({"ROCR_VISIBLE_DEVICES": ""}, "rocm-0"),
    ],
)
def test_an_amd_gpu_has_the_workers_lock_key(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], key: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    gpu = prepare.pick_device(amd("AMD Instinct MI300X", "gfx942", 304))
    assert gpu.lock_keys == (key,)


def test_an_intel_gpu_has_the_workers_lock_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZE_AFFINITY_MASK", "3,1")
    assert prepare.pick_device(intel("Intel(R) Arc(TM) B580 Graphics")).lock_keys == ("xpu-3",)
