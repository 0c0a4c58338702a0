"""Which accelerators are here, what makes their trials comparable, and how to pin one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from swarm import cores, gpus
from swarm.errors import UsageError
from swarm.records import Device

_QUERY_SECONDS = 10.0


def discover(environ: Mapping[str, str], timeout: float = _QUERY_SECONDS) -> list[Device]:
    """The accelerators this process may use, by vendor and index; none is an answer too.

    `CUDA_VISIBLE_DEVICES` and its likes, which Slurm and others set, are respected. Several
    devices share the CPU cores evenly. Raises `SwarmError` when a vendor's tool is installed but
    fails: that machine should have GPUs.
    """
    found = gpus.visible(environ, timeout)
    first: dict[str, int] = {}  # a kind's names go on where those of the kind before end
    for gpu in found:
        end = max((first[g.kind] + g.index + 1 for g in found if g.kind in first), default=0)
        first.setdefault(gpu.kind, end)
    shares = cores.shares(cores.available(), len(found)) if len(found) > 1 else [()] * len(found)
    return [
        Device(
            name=f"gpu{first[gpu.kind] + gpu.index}",
            kind=gpu.kind,
            id=gpu.id,
            model=gpu.model,
            cores=share,
            locks=gpu.locks,
        )
        for gpu, share in zip(found, shares, strict=True)
    ]


def cpu_workers(count: int, oversubscribe: bool) -> list[Device]:
    """`count` CPU workers, `cpu0` on, each with its own even share of the cores.

    More workers than cores is a `UsageError` unless `oversubscribe`: then cores are shared.
    """
    if count < 1:
        raise UsageError(f"cannot have {count} CPU workers", "--agents takes a number from 1 on")
    available = cores.available()
    if count > len(available) and not oversubscribe:
        raise UsageError(
            f"{count} agents need {count} CPU cores, found {len(available)}",
            f"--agents {len(available)}, or --oversubscribe to share cores",
        )
    model = cores.model()
    return [
        Device(
            name=f"cpu{number}",
            kind="cpu",
            id=",".join(map(str, share)),
            model=f"{model} x{len(share)}",
            cores=share,
            locks=tuple(f"cpu-{core}" for core in share),
            exclusive=count <= len(available),
        )
        for number, share in enumerate(cores.shares(available, count))
    ]


def choose(
    count: int | None, wanted: str | None, oversubscribe: bool, environ: Mapping[str, str]
) -> list[Device]:
    """The devices for `count` agents (`None`: every GPU, or one CPU worker).

    `wanted` is what `--devices` says: `cpu`, or GPU indices such as `0,2,5`; `None` takes the GPUs
    where there are any. Raises `UsageError` when there are too few.
    """
    if wanted == "cpu":
        return cpu_workers(1 if count is None else count, oversubscribe)
    found = discover(environ)
    if wanted is not None:
        found = _picked(wanted, found)
    elif not found:
        return cpu_workers(1 if count is None else count, oversubscribe)
    if count is None:
        return found
    if count < 1:
        raise UsageError(f"cannot start {count} agents", "--agents takes a number from 1 on")
    if count > len(found):
        s = "" if len(found) == 1 else "s"
        raise UsageError(
            f"{count} agents need {count} devices, found {len(found)} GPU{s}",
            f"--agents {len(found)}, or --devices cpu",
        )
    return found[:count]


def device_class(device: Device, seconds: float, fingerprint: str, torch_version: str) -> str:
    """What comparable trials have in common, such as `NVIDIA-H200/300s/3f2a91c0/torch2.9.1`.

    `seconds` is the training budget, `fingerprint` the dataset's.
    """
    model = re.sub(r"[^A-Za-z0-9.]+", "-", device.model).strip("-")
    torch = torch_version.partition("+")[0]
    return f"{model}/{seconds:g}s/{fingerprint[:8]}/torch{torch}"


def default_scale(device: Device) -> str:
    """The scale that trains on `device` in minutes, as `harness.settings.default_scale` has it."""
    if device.kind == "xpu":  # every laptop has the others
        return "full" if "GPU Max" in device.model else "small"
    return "small" if device.kind in ("cpu", "mps") else "full"


def environment(device: Device) -> dict[str, str]:
    """The variables that make a trial see this device and nothing else, and train on it."""
    kind = "cuda" if device.kind == "rocm" else device.kind  # as torch and prepare.py call it
    return _ENVIRONMENTS[device.kind](device) | {"SWARM_DEVICE": kind}


def _cpu_environment(device: Device) -> dict[str, str]:
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "-1"}
    return hidden | dict.fromkeys(threads, str(len(device.cores)))


_ENVIRONMENTS: dict[str, Callable[[Device], dict[str, str]]] = {
    "cuda": lambda device: {"CUDA_VISIBLE_DEVICES": device.id},
    # ROCR hides devices from everything above it, where HIP (which also reads the CUDA variable)
    # counts again from 0. All are set, so that inherited ones cannot interfere.
    "rocm": lambda device: {
        "ROCR_VISIBLE_DEVICES": device.id,
        "HIP_VISIBLE_DEVICES": "0",
        "CUDA_VISIBLE_DEVICES": "0",
    },
    # By default the mask counts the two tiles of a Max 1550; xpu-smi lists cards, in PCI order.
    "xpu": lambda device: {
        "ZE_AFFINITY_MASK": device.id,
        "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE",
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    },
    # Lazy mode, the default of older bridges, computes nothing before a mark that no one sets.
    "hpu": lambda device: {"HABANA_VISIBLE_MODULES": device.id, "PT_HPU_LAZY_MODE": "0"},
    "mps": lambda device: {},
    "cpu": _cpu_environment,
}


def _picked(wanted: str, found: list[Device]) -> list[Device]:
    names = ["gpu" + part.strip().removeprefix("gpu") for part in wanted.split(",")]
    there = {gpu.name: gpu for gpu in found}
    unknown = [name for name in names if name not in there]
    if unknown or len(set(names)) != len(names):
        what = f"no GPU {unknown[0].removeprefix('gpu')!r}" if unknown else "a GPU named twice"
        here = ", ".join(f"{gpu.name.removeprefix('gpu')} ({gpu.model})" for gpu in found)
        raise UsageError(
            f"--devices {wanted}: {what}; GPUs here: {here or 'none'}",
            "give indices of these GPUs, such as --devices 0,1, or --devices cpu",
        )
    return [there[name] for name in names]
