"""What a process does once before it trains: precision, threads, compile cache, memory."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import shutil
from pathlib import Path
from typing import Any

from swarm.harness.device import Device
from swarm.harness.settings import cache_dir, cpu_cores

COMPILE_CACHE_BYTES = 5_000_000_000  # of one device: some hundred different models


def set_up(device: Device) -> None:
    """What a process does once before it trains; it must hold the device's lock."""
    import torch

    torch.set_float32_matmul_precision("high")
    use_compile_cache(device, torch.__version__)
    if device.kind == "cpu":
        if hasattr(os, "sched_getaffinity"):
            torch.set_num_threads(min(torch.get_num_threads(), len(cpu_cores())))
        keep_freed_memory()
    if device.compile:
        # Muon compiles a graph for every shape of matrix. The name is new in torch 2.7.
        settings: Any = importlib.import_module("torch._dynamo.config")
        new = hasattr(settings, "recompile_limit")
        setattr(settings, "recompile_limit" if new else "cache_size_limit", 64)


def use_compile_cache(device: Device, version: str) -> None:
    """Let Inductor and Triton keep compiled kernels per device, where the user has no other wish.

    All worktrees and trials on a device share the folder. Its lock admits one training at a time,
    so that none is at work in the folder when it has grown too big and is removed.
    """
    folder = cache_dir() / "compile" / f"{device.lock_keys[0]}-torch{version}"
    if folder_bytes(folder) > COMPILE_CACHE_BYTES:
        old = folder.with_name(f"{folder.name}.old.{os.getpid()}")
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder; 0 where there is none."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(path, name)).st_size  # noqa: PTH118
    return total


def keep_freed_memory() -> None:
    """Have glibc reuse the memory of freed tensors instead of returning it to the kernel.

    By default every large tensor's pages are mapped and zeroed anew: 9,000 page faults in a step
    of the small model, 18 % of its time. Other C libraries have no mallopt, or ignore it.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, 32 * 2**20)  # the most it takes (HEAP_MAX_SIZE / 2)
        mallopt(m_trim_threshold, 2**31 - 1)
