"""What every trial of a device class shares: sizes, the environment, how a failure is told."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path


class PrepareError(Exception):
    """A failure the user can act on: what happened, what to do about it, the exit code."""

    def __init__(self, message: str, hint: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


@dataclass(frozen=True)
class Scale:
    """Sizes that datasets and trials of one scale share.

    `eval_tokens` is what one evaluation scores: the validation and the held-out split hold at most
    that many tokens each, and at least `min_eval_tokens`.
    """

    seq_len: int
    vocab_size: int
    eval_tokens: int
    min_eval_tokens: int
    token_bytes: int  # more bytes than tokens have on average, to set enough text aside
    eval_rows: int  # that a model is called with at once in an evaluation
    part_chars: int  # of text that one process tokenizes and packs at a time

    def __post_init__(self) -> None:
        assert self.vocab_size <= 2**15  # tokens travel to the device as int16


SCALES = {
    "full": Scale(
        2048, 8192, eval_tokens=40 * 524288, min_eval_tokens=65536,
        token_bytes=5, eval_rows=16, part_chars=8_000_000,
    ),
    "small": Scale(
        256, 1024, eval_tokens=65536, min_eval_tokens=65536,
        token_bytes=4, eval_rows=32, part_chars=2_000_000,
    ),
}  # fmt: skip


def default_scale(root: Path = Path("/")) -> str:
    """`full` where an accelerator is that trains it in minutes, else `small` (no torch needed).

    Seen by device nodes below `root`: NVIDIA's and AMD's, Gaudi's, and of Intel's GPUs the Max
    series only, as every laptop has the others. Apple's chips are too slow for the full scale.
    """
    dev = root / "dev"
    wsl = (dev / "dxg").exists() and shutil.which("nvidia-smi") is not None
    cuda = wsl or (dev / "kfd").exists() or any(dev.glob("nvidia[0-9]*"))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    accel = [node.name for node in dev.glob("accel/accel*[0-9]")]
    drivers = (root / "sys/class/accel" / name / "device/driver" for name in accel)
    seen = {
        "cuda": cuda and not hidden,
        "xpu": any(is_intel_max(root, node.name) for node in dev.glob("dri/renderD*")),
        "hpu": any(driver.resolve().name == "habanalabs" for driver in drivers),
    }
    wanted = os.environ.get("SWARM_DEVICE")
    return "full" if any(seen[kind] for kind in seen if wanted in (None, "", kind)) else "small"


def is_intel_max(root: Path, node: str) -> bool:
    """Whether a render node is a Data Center GPU Max: PCI ids 8086:0bd0 to 8086:0bef."""
    device = root / "sys/class/drm" / node / "device"
    try:
        vendor, part = (int((device / name).read_text(), 16) for name in ("vendor", "device"))
    except (OSError, ValueError):
        return False
    return vendor == 0x8086 and 0x0BD0 <= part <= 0x0BEF


def env_number(name: str, default: float) -> float:
    """A number from the environment; NaN where it is none (see check_environment)."""
    try:
        return float(os.environ.get(name) or default)
    except ValueError:
        return math.nan


SCALE = os.environ.get("SWARM_SCALE") or default_scale()
_SIZES = SCALES.get(SCALE, SCALES["small"])  # check_environment refuses others
MAX_SEQ_LEN = _SIZES.seq_len
VOCAB_SIZE = _SIZES.vocab_size  # at most; a tiny corpus may give fewer tokens
EVAL_ROWS = _SIZES.eval_rows
TIME_BUDGET = env_number("SWARM_SECONDS", 300)  # seconds
SEED = env_number("SWARM_SEED", 42)
_IMPORTED = time.monotonic()
SPLITS = ("train", "val", "heldout")


def check_environment() -> None:
    """Raise PrepareError (usage) for settings that make no sense."""
    if SCALE not in SCALES:
        raise PrepareError(f"SWARM_SCALE is {SCALE!r}", "set it to full or small", 2)
    if not 0 < TIME_BUDGET < math.inf:
        raise PrepareError("SWARM_SECONDS is no positive number", "set it to seconds, as in 300", 2)
    if not (SEED >= 0 and SEED.is_integer()):
        raise PrepareError("SWARM_SEED is no whole number from 0", "set it to one, as in 42", 2)


def cache_dir() -> Path:
    return Path(os.environ.get("SWARM_CACHE") or Path.home() / ".cache" / "swarm").absolute()


def seconds_since_start() -> float:
    """Wall-clock seconds that this process has run; where the system does not say, since here."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:  # not Linux
        return time.monotonic() - _IMPORTED
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def fail(error: PrepareError) -> int:
    """Print the two lines every failure has; return the exit code."""
    log(f"error: {error}\nhint: {error.hint}")
    return error.exit_code


def write_atomic(path: Path, content: bytes) -> None:
    """Readers see the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def cpu_cores() -> list[int]:
    """Core numbers this process may use; [0] where the system has no affinity (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
