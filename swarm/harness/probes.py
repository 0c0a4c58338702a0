"""Which device is here, and what suits it: a probe for each kind that PyTorch knows."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import platform
import re
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from swarm.harness.device import Device
from swarm.harness.peaks import peak_flops
from swarm.harness.settings import PrepareError, cpu_cores


def lock_key(prefix: str, environ: Mapping[str, str], *masks: str) -> str:
    """The lock key of the first visible device, as a swarm's workers name it: rocm-3, hpu-0, ….

    `masks` are environment variables that list visible devices, the outermost first: each counts
    within what the one before leaves. An entry that is no number names its device by itself.
    """
    place = 0
    for mask in reversed(masks):
        entries = [entry.strip() for entry in environ.get(mask, "").split(",")]
        if place < len(entries) and entries[place]:
            if not entries[place].isdecimal():
                return f"{prefix}-{entries[place]}"
            place = int(entries[place])
    return f"{prefix}-{place}"


def hidden_by(*masks: str) -> str:
    """The environment variables that may hide devices, as they are set, in brackets."""
    said = ", ".join(f'{mask}="{os.environ[mask]}"' for mask in masks if mask in os.environ)
    return f" ({said})" if said else ""


def triton_lacks() -> str:
    """What Triton would miss, empty when it can work; it builds its launchers in C at first use."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (gcc or clang)"
    headers = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    if not (headers.is_file() or os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH")):
        return f"Triton needs Python's C headers ({headers})"
    return ""


def torch_version(torch: Any) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", torch.__version__)[:2]
    return int(major), int(minor)


def cuda_device(torch: Any) -> Device | str:
    """The first visible NVIDIA or AMD GPU: PyTorch speaks to both through torch.cuda."""
    hip = torch.version.hip
    if not (hip or torch.version.cuda):
        return ""
    with warnings.catch_warnings(record=True) as caught:  # a driver that is too old, and the like
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        built = f"ROCm {hip}" if hip else f"CUDA {torch.version.cuda}"
        masks = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if hip else ()
        said = "".join(f": {str(warning.message).split('. ')[0]}" for warning in caught[:1])
        hidden = hidden_by(*masks, "CUDA_VISIBLE_DEVICES")
        return f"this PyTorch is built for {built} but sees no GPU{hidden}{said}"
    properties = torch.cuda.get_device_properties(0)
    return amd_gpu(properties) if hip else nvidia_gpu(properties, torch.cuda.get_arch_list())


def has_kernels(capability: tuple[int, int], arches: Iterable[str]) -> bool:
    """Whether a build for `arches` (sm_80, compute_90, …) runs: machine code (sm) serves later
    minor versions of its major one, intermediate code (compute) all later ones."""
    for arch in arches:
        if found := re.match(r"(sm|compute)_(\d+)(\d)", arch):
            built = int(found[2]), int(found[3])
            if built <= capability and (found[1] == "compute" or built[0] == capability[0]):
                return True
    return False


def nvidia_gpu(properties: Any, arches: list[str]) -> Device | str:
    """An NVIDIA GPU; `arches` are what this PyTorch has kernels for (empty: not said)."""
    capability = (properties.major, properties.minor)
    version = f"{properties.major}.{properties.minor}"
    if arches and not has_kernels(capability, arches):
        built = ", ".join(arches)
        return f"this PyTorch has no kernels for {properties.name} ({version}), but for {built}"
    bf16 = capability >= (8, 0)
    lacks = triton_lacks() if capability >= (7, 0) else "Triton needs capability 7.0"
    # FlashAttention-3 is for Hopper alone; whether the package works is seen when it is used.
    flash = capability[0] == 9 and importlib.util.find_spec("flash_attn_interface") is not None
    return Device(
        kind="cuda",
        name=properties.name,
        torch_device="cuda:0",
        dtype="bfloat16" if bf16 else "float32",
        compile=not lacks,
        attention=("flash3",) * flash + ("flex",) * (not lacks) + ("sdpa",),
        fused=True,
        peak_flops=peak_flops(properties.name) if bf16 else None,
        lock_keys=(f"GPU-{properties.uuid}",),
        why=(
            f"CUDA, capability {version}",
            "tensor cores" if bf16 else "bfloat16 needs capability 8.0, float16 a loss scale",
            lacks or "Triton is here",
        ),
    )


AMD_MASKS = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def amd_gpu(properties: Any) -> Device:
    """An AMD GPU; of the MI250X and of divided parts, the piece that is a device."""
    arch = properties.gcnArchName.partition(":")[0]
    # CDNA 2 and later, RDNA 3 and later; the CDNA of the MI100 has bfloat16 at half its rate.
    modern = re.fullmatch(r"gfx(90a|94\w|950|1[12]\w\w)", arch) is not None
    lacks = triton_lacks() if modern else f"Triton is not made for {arch}"
    peak = peak_flops(properties.name, properties.multi_processor_count) if modern else None
    environ = dict(os.environ)  # HIP reads CUDA's variable where its own is not set
    environ.setdefault("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES", ""))
    return Device(
        kind="cuda",
        name=properties.name,
        torch_device="cuda:0",
        dtype="bfloat16" if modern else "float32",
        compile=not lacks,
        attention=("flex",) * (not lacks) + ("sdpa",),
        fused=True,
        peak_flops=peak,
        lock_keys=(lock_key("rocm", environ, *AMD_MASKS),),
        why=(
            f"ROCm, {arch}",
            "matrix cores" if modern else f"bfloat16 is slow on {arch}",
            lacks or "Triton is here",
        ),
    )


def xpu_device(torch: Any) -> Device | str:
    """The first visible Intel GPU."""
    if not torch.xpu.is_available():
        if not getattr(torch.version, "xpu", None):
            return ""
        return f"this PyTorch is built for Intel GPUs but sees none{hidden_by('ZE_AFFINITY_MASK')}"
    properties = torch.xpu.get_device_properties(0)
    # By name: torch's flag for matrix engines is false too where it could not find out.
    modern = re.search(r"GPU Max|GPU Flex|Arc\W.*\b[A-Z]\d{2,3}\b", properties.name) is not None
    lacks = triton_lacks() if modern else "integrated graphics"
    # FlexAttention for Intel GPUs came with torch 2.9; their SDPA has no fused backward pass.
    flex = not lacks and torch_version(torch) >= (2, 9)
    return Device(
        kind="xpu",
        name=properties.name,
        torch_device="xpu:0",
        dtype="bfloat16" if modern else "float32",
        compile=not lacks,
        attention=("flex",) * flex + ("blocked", "sdpa"),
        fused=True,
        peak_flops=peak_flops(properties.name, properties.gpu_eu_count) if modern else None,
        lock_keys=(lock_key("xpu", os.environ, "ZE_AFFINITY_MASK"),),
        why=(
            "Intel XPU",
            "matrix engines" if modern else "integrated graphics",
            lacks or "Triton is here",
        ),
    )


def hpu_device(torch: Any) -> Device | str:
    """The first free Intel Gaudi, where its bridge to PyTorch is installed."""
    if importlib.util.find_spec("habana_frameworks") is None:
        return ""
    # Older bridges are lazy by default: nothing is computed before a mark that we do not set.
    os.environ.setdefault("PT_HPU_LAZY_MODE", "0")
    try:
        importlib.import_module("habana_frameworks.torch")
    except (ImportError, OSError, RuntimeError) as error:
        return f"Gaudi's bridge habana_frameworks.torch does not load ({error})"
    if not torch.hpu.is_available():
        return f"Gaudi's bridge is here but sees no Gaudi{hidden_by('HABANA_VISIBLE_MODULES')}"
    name = torch.hpu.get_device_name()
    return Device(
        kind="hpu",
        name=f"Intel {name}",
        torch_device="hpu",
        dtype="bfloat16",
        compile=False,
        attention=("blocked", "sdpa"),
        fused=False,  # listed by PyTorch, but the kernel is the bridge's to bring
        peak_flops=peak_flops(name),
        lock_keys=(lock_key("hpu", os.environ, "HABANA_VISIBLE_MODULES"),),
        why=("Gaudi", "matrix engines", "Inductor has no backend for Gaudi"),
    )


def mps_device(torch: Any) -> Device | str:
    """The GPU of an Apple chip."""
    if not torch.backends.mps.is_available():
        if not torch.backends.mps.is_built():
            return ""
        return "this PyTorch is built for Apple's GPUs but macOS gives it none"
    name = getattr(torch.backends.mps, "get_name", lambda: "Apple GPU")()  # torch 2.7 and later
    # Up to the M4 a GPU multiplies bfloat16 no faster than float32, and autocast adds copies; with
    # the M5's matrix units it trained 31 % faster (github.com/jingyaogong/minimind/pull/852).
    chip = re.search(r"\bM(\d+)\b", name)
    modern = chip is not None and int(chip[1]) >= 5
    return Device(
        kind="mps",
        name=name,
        torch_device="mps",
        dtype="bfloat16" if modern else "float32",
        compile=False,
        attention=("blocked", "sdpa"),
        fused=not modern,  # the kernel knows no bfloat16 parameters
        peak_flops=None,
        lock_keys=("mps-0",),
        why=(
            "Apple MPS",
            "matrix units" if modern else "bfloat16 is no faster before the M5",
            "Inductor's Metal backend is a prototype",
        ),
    )


CPUINFO = Path("/proc/cpuinfo")


def cpu_device(torch: Any) -> Device:
    """The CPU cores this process may use."""
    try:
        about = CPUINFO.read_text()
    except OSError:  # macOS
        about = ""
    model = re.search(r"^model name\s*: *(.+)$", about, re.MULTILINE)
    # Linux lists the flags of what it lets processes use. AMX is what makes bfloat16 fast.
    flags = re.search(r"^flags\s*:(.*)$", about, re.MULTILINE)
    amx = flags is not None and {"amx_tile", "amx_bf16"} <= set(flags[1].split())
    name = re.sub(r"\((R|TM)\)", "", model[1] if model else platform.machine() or "CPU").strip()
    count = len(cpu_cores()) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Device(
        kind="cpu",
        name=f"{' '.join(name.split())}, {count} core{'s' if count > 1 else ''}",
        torch_device="cpu",
        dtype="bfloat16" if amx else "float32",
        compile=False,
        attention=("blocked", "sdpa"),
        fused=True,
        peak_flops=None,
        lock_keys=tuple(f"cpu-{core}" for core in cpu_cores()),
        why=(
            "CPU",
            "AMX" if amx else "bfloat16 is slow here (no AMX)",
            "compiling takes over a minute on a few cores",
        ),
    )


PROBES: dict[str, Callable[[Any], Device | str]] = {
    "cuda": cuda_device,
    "xpu": xpu_device,
    "hpu": hpu_device,
    "mps": mps_device,
    "cpu": cpu_device,
}


def pick_device(torch: Any = None) -> Device:
    """The first accelerator that this PyTorch sees, else the CPU; SWARM_DEVICE forces a kind.

    Raises PrepareError (usage) when that kind is not here.
    """
    torch = torch or importlib.import_module("torch")
    wanted = os.environ.get("SWARM_DEVICE") or None
    if wanted not in (None, *PROBES):
        raise PrepareError(f"SWARM_DEVICE is {wanted!r}", f"set it to {', '.join(PROBES)}", 2)
    reasons = []
    for kind, probe in PROBES.items():
        if wanted not in (None, kind):
            continue
        found = probe(torch)
        if isinstance(found, str):
            reasons.append(found)
        elif kind != "cpu":
            return found
        else:
            known = "; ".join(filter(None, reasons)) or "this PyTorch is a CPU build"
            why = "SWARM_DEVICE=cpu" if wanted else f"no accelerator: {known}"
            return dataclasses.replace(found, why=(why, *found.why[1:]))
    reason = reasons[0] or f"this PyTorch ({torch.__version__}) is not built for it"
    raise PrepareError(
        f"SWARM_DEVICE is {wanted}: {reason}",
        "unset SWARM_DEVICE to take what is here, or install what is missing",
        2,
    )
