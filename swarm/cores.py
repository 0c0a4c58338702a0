"""The CPU cores this process may use, and how to share them out."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path


def available() -> list[int]:
    """The cores this process may use, hardware threads of one core next to each other."""
    try:
        cores = os.sched_getaffinity(0)
    except AttributeError:  # macOS
        cores = set(range(os.cpu_count() or 1))
    return sorted(cores, key=lambda core: (_topology(core), core))


def _topology(core: int) -> tuple[int, int]:
    """Socket and physical core of a logical core; the kernel numbers siblings far apart."""
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        socket, physical = (folder / "physical_package_id", folder / "core_id")
        return int(socket.read_text()), int(physical.read_text())
    except (OSError, ValueError):
        return 0, core


def shares(cores: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Cut cores into `count` shares of equal size; with more shares than cores, one core each."""
    size = max(1, len(cores) // count)
    return [
        tuple(sorted(cores[(number * size + i) % len(cores)] for i in range(size)))
        for number in range(count)
    ]


def model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: *(.+)$", text, re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine() or "CPU"
    return " ".join(re.sub(r"\((R|TM)\)", "", name).split())
