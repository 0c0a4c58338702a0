"""Make `.venv` and install swarm into it with the right build of torch for this machine.

Run by `make`; needs nothing but Python. TORCH overrides what is installed as torch, for example
`make install TORCH="torch==2.9.0 --index-url …"`.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = (3, 11)
OLDEST_TORCH = (2, 6)
VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"


def main() -> None:
    if sys.version_info < MINIMUM:
        fail(f"Python {platform.python_version()} is too old", "install Python 3.11 or newer")
    make_venv()
    if not has_torch():
        pip("install", *torch_requirement())
    pip("install", "--editable", ".[train,tuner,llm,plot,wandb,tensorboard,mlflow,dev]")
    (VENV / "installed").touch()


def make_venv() -> None:
    if PYTHON.exists() and not subprocess.run([PYTHON, "-m", "pip", "--version"],
                                              capture_output=True).returncode:  # fmt: skip
        return
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True)
    if made.returncode:
        fail("this Python cannot make a virtual environment", "on Debian: apt install python3-venv")


def has_torch() -> bool:
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    return subprocess.run([PYTHON, "-c", look]).returncode == 0


def torch_requirement() -> list[str]:
    """The CPU build where there is no GPU and the package index has one; else the ordinary one."""
    wanted = os.environ.get("TORCH", "").strip()
    if wanted:
        return shlex.split(wanted)
    if has_gpu() or platform.system() != "Linux":
        return ["torch"]
    newest = max(cpu_builds(), default=None, key=release)
    if newest is None:
        print("no GPU here, but the package index has no CPU build of torch: taking the ordinary"
              " one, which is large (TORCH=… chooses another)", flush=True)  # fmt: skip
        return ["torch"]
    return [f"torch=={newest}"]


def has_gpu() -> bool:
    devices = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
    return bool(shutil.which("nvidia-smi")) or any(device.exists() for device in devices)


def cpu_builds() -> list[str]:
    """Versions such as `2.9.0+cpu` that the package index offers for this Python."""
    asked = subprocess.run(
        [PYTHON, "-m", "pip", "index", "versions", "torch"], capture_output=True, text=True
    )
    line = next((x for x in asked.stdout.splitlines() if x.startswith("Available versions:")), "")
    versions = [version.strip() for version in line.partition(":")[2].split(",")]
    return [v for v in versions if v.endswith("+cpu") and release(v) >= OLDEST_TORCH]


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdigit())


def pip(*arguments: str) -> None:
    print("pip", json.dumps(arguments), flush=True)
    done = subprocess.run([PYTHON, "-m", "pip", "--disable-pip-version-check", "-q", *arguments])
    if done.returncode:
        fail(f"pip {arguments[0]} failed", "see its message above; is the network there?")


def fail(message: str, hint: str) -> None:
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
