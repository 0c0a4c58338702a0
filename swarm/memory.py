"""How much memory this machine, or the container we are in, has."""

from __future__ import annotations

from pathlib import Path

import psutil

_FOR_TRIALS = 0.9
_MIN_SHARE = 1 << 30


def available(root: Path = Path("/")) -> int:
    """Bytes of memory: the machine's, or what a cgroup above us allows if that is less."""
    limits = [_limit(path) for path in _limit_files(root)]
    return min([psutil.virtual_memory().total, *(limit for limit in limits if limit)])


def share(workers: int, root: Path = Path("/")) -> int:
    """Bytes that one trial may use beside those of the other workers; never less than 1 GiB."""
    return max(_MIN_SHARE, int(_FOR_TRIALS * available(root)) // max(1, workers))


def _limit_files(root: Path) -> list[Path]:
    """Where cgroups (version 2: no controllers are named) say our limits, from ours upwards."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        ours = mount / own.lstrip("/")
        found += [folder / name for folder in (ours, *ours.parents) if folder.is_relative_to(mount)]
    return found


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:  # inside a container the path may be that of the host
        return None
    return int(text) if text.isdigit() else None
