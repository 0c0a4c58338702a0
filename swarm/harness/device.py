"""The device of a trial: how to compute on it, measure it and keep it for one training."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from swarm.harness.settings import PrepareError, cache_dir

if TYPE_CHECKING:
    import torch


ASYNCHRONOUS = ("cuda", "xpu")  # kinds that copy from pinned memory and have events


@dataclass(frozen=True)
class Device:
    """The device of this process and how to compute on it."""

    kind: str  # torch's device type: cuda (NVIDIA and AMD) | xpu | hpu | mps | cpu
    name: str
    torch_device: str
    dtype: str  # of matrix products, a torch dtype's name: bfloat16 only where it is fast
    compile: bool  # whether torch.compile pays and works
    attention: tuple[str, ...]  # kernels to try, fastest first; the last always works
    fused: bool  # whether torch.optim.AdamW(fused=True) works
    peak_flops: float | None  # a second, dense, for `dtype`; None: unknown
    lock_keys: tuple[str, ...]
    why: tuple[str, str, str]  # the device, the dtype, compiled or eager

    def describe(self) -> str:
        """What was chosen and why, in a line for people."""
        device, dtype, compiling = self.why
        peak = "unknown" if self.peak_flops is None else f"{self.peak_flops / 1e12:g} TFLOP/s"
        return (
            f"device: {self.name} ({device}) | {self.dtype}: {dtype}"
            f" | {'compiled' if self.compile else 'eager'}: {compiling}"
            f" | attention {', '.join(self.attention)} | peak {peak}"
        )

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Matrix products in `dtype`; nothing changes where that is float32."""
        import torch

        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.kind, dtype=getattr(torch, self.dtype))

    def synchronize(self) -> None:
        """Wait for all that was asked of the device."""
        import torch

        getattr(torch, self.kind).synchronize()

    def peak_memory_mb(self) -> float:
        """Most memory used: allocated on the accelerator, or this process's resident set (CPU)."""
        import torch

        if self.kind == "cpu":
            return peak_resident_mb()
        if self.kind == "mps":  # keeps no peak, but seldom gives back what it took
            return torch.mps.driver_allocated_memory() / 2**20
        return float(getattr(torch, self.kind).max_memory_allocated()) / 2**20

    def forget_memory(self) -> None:
        """Give back the memory that the allocator keeps for reuse, and begin its peak anew."""
        import torch

        for name in ("empty_cache", "reset_peak_memory_stats"):  # not every kind has both
            getattr(getattr(torch, self.kind), name, lambda: None)()

    @property
    def queued_steps(self) -> int:
        """How many steps the host may be ahead of the device, which computes on its own."""
        return 1 if self.kind in ASYNCHRONOUS else 0

    def later(self, value: torch.Tensor) -> Callable[[], float]:
        """Take the value that a 0-dimensional tensor has at this point of the device's work.

        On CUDA and XPU the copy is started here, and calling the result waits for that copy alone,
        not for what was asked of the device since.
        """
        import torch

        value = value.detach()
        if self.kind not in ASYNCHRONOUS:
            value = value.clone()  # the caller may add to the original meanwhile
            return lambda: float(value)
        host = torch.empty_like(value, device="cpu", pin_memory=True)
        host.copy_(value, non_blocking=True)
        copied = getattr(torch, self.kind).Event()
        copied.record()

        def wait() -> float:
            copied.synchronize()
            return float(host)

        return wait


def peak_resident_mb() -> float:
    """The most memory that this process has had resident."""
    import resource

    with contextlib.suppress(OSError):  # Linux; there ru_maxrss would start at the parent's
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory is used up: only CUDA and XPU have a class of their own for it."""
    said = str(error).lower()
    return "out of memory" in said or "can't allocate memory" in said


def lock_device(device: Device) -> list[TextIO]:
    """Take the device for this process until it exits (keep the result alive).

    Raises PrepareError with exit code 3 when another training holds it.
    """
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    held: list[TextIO] = []
    for key in device.lock_keys:
        file = (folder / f"{key}.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.readline().strip() or "an unnamed process"
            for other in (*held, file):
                other.close()
            message = f"device {key} is already training: {holder}"
            hint = "wait for it, stop it, or choose another device (CUDA_VISIBLE_DEVICES, taskset)"
            raise PrepareError(message, hint, 3) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} in {Path.cwd()}\n")
        file.flush()
        held.append(file)
    return held
