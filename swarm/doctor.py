"""What is here, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm import config, cores, devices, keys, processes, sandbox
from swarm.agents import clis
from swarm.errors import SwarmError
from swarm.filesystem import network_filesystem
from swarm.records import Device

_MIN_PYTHON = (3, 11)
_MIN_FREE_BYTES = 5e9
_VERSION_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One thing looked at. `ok`: it is fine (true), in the way (false), or can be done without."""

    name: str
    ok: bool | None
    found: str
    hint: str = ""


class _File(msgspec.Struct):
    bytes: int


class _Meta(msgspec.Struct):
    """The part of a dataset's `meta.json` that is shown."""

    scale: str
    source: str
    fingerprint: str
    files: dict[str, _File]


def examine(root: Path | None, environ: Mapping[str, str]) -> list[Check]:
    """Look at this machine and at the repository `root`, if there is one; change nothing."""
    cache = config.cache_folder(environ)
    devices_check, gpus = _devices(environ)
    return [
        _python(),
        _tool("git", "--version", environ, False, "apt install git / brew install git"),
        _tool("tmux", "-V", environ, None, "apt install tmux / brew install tmux, or --no-tmux"),
        _torch(gpus),
        devices_check,
        _confinement(environ),
        _repository(root),
        _filesystem("filesystem", root or Path.cwd()),
        _cache(cache),
        _filesystem("cache filesystem", cache),
        _datasets(cache),
        _agent_clis(environ),
        _api_keys(environ),
    ]


def _python() -> Check:
    wanted = ".".join(map(str, _MIN_PYTHON))
    fine = sys.version_info >= _MIN_PYTHON
    return Check(
        "python", fine, platform.python_version(), "" if fine else f"needs {wanted} or newer"
    )


def _tool(
    name: str, flag: str, environ: Mapping[str, str], if_missing: bool | None, hint: str
) -> Check:
    binary = shutil.which(name, path=environ.get("PATH"))
    if binary is None:
        return Check(name, if_missing, "not found", hint)
    try:
        code, text = processes.output([binary, flag], environ, _VERSION_SECONDS)
    except (OSError, TimeoutError) as error:
        return Check(name, False, str(error), f"see what `{name} {flag}` does")
    if code != 0:
        return Check(
            name, False, f"{name} {flag} exits with {code}", f"see what `{name} {flag}` says"
        )
    words = text.split()
    return Check(name, True, words[-1] if len(words) < 4 else " ".join(words[2:]))


def _torch(gpus: Sequence[Device]) -> Check:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Check("torch", False, "not installed", "pip install torch")
    build = _torch_build(version, importlib.metadata.requires("torch") or [])
    if build == "CPU only" and any(gpu.kind == "mps" for gpu in gpus):
        build = "MPS"  # every build for these Macs
    found = f"{version} ({build})"
    if gpus and build == "CPU only":
        return Check(
            "torch", False, f"{found}, but there are GPUs", "https://pytorch.org/get-started"
        )
    return Check("torch", True, found)


def _torch_build(version: str, requirements: Sequence[str]) -> str:
    """What a build can train on: it is in the local version, or PyPI's asks for NVIDIA's parts."""
    local = version.partition("+")[2]
    if local.startswith("rocm"):
        return "ROCm"
    if local.startswith("xpu"):
        return "XPU"
    if local.startswith("cu") or any(r.startswith(("nvidia-", "cuda-")) for r in requirements):
        return "CUDA"
    return "CPU only" if local in ("", "cpu") else f"build {local}"


def _devices(environ: Mapping[str, str]) -> tuple[Check, Sequence[Device]]:
    try:
        gpus = devices.discover(environ)
    except SwarmError as error:
        return Check("devices", False, str(error), error.hint), ()
    if gpus:
        return Check("devices", True, ", ".join(f"{gpu.name} {gpu.model}" for gpu in gpus)), gpus
    found = f"no GPU; {len(cores.available())} CPU cores ({cores.model()})"
    return Check("devices", None, found, "training runs on the CPU, at a small scale"), ()


def _confinement(environ: Mapping[str, str]) -> Check:
    """What keeps a trial to itself here, as a child of ours found out by trying to get out."""
    if not config.wants_confinement(environ):
        return Check("confinement", None, "off (SWARM_CONFINE)", "unset it to confine trials")
    try:
        tried = sandbox.try_out()
    except (OSError, subprocess.SubprocessError, SwarmError) as error:
        hint = "trials run without it: SWARM_CONFINE=off; please report this"
        return Check("confinement", False, f"a confined Python fails: {error}", hint)
    inside = ", ".join(part for part in sandbox.PARTS if tried[part])
    missing = ", ".join(part for part in sandbox.PARTS if not tried[part])
    if not missing:
        return Check("confinement", True, inside)
    hint = "trials can reach these; Linux 6.12 with Landlock and seccomp has all"
    return Check("confinement", None, f"{inside or 'nothing'}; not: {missing}", hint)


def _repository(root: Path | None) -> Check:
    if root is None:
        hint = "go to the folder with train.py and prepare.py (git init && git commit if it is new)"
        return Check("repository", False, "not inside a git repository", hint)
    missing = [name for name in (config.TRAINER, config.EVALUATOR) if not (root / name).is_file()]
    if missing:
        return Check("repository", False, f"{root} has no {' and no '.join(missing)}", "git status")
    return Check("repository", True, str(root))


def _filesystem(name: str, path: Path) -> Check:
    kind = network_filesystem(path)
    if kind is None:
        return Check(name, True, "local")
    hint = "file locks cannot be trusted there; use a folder on a local disk"
    return Check(name, False, f"{path} is on a network filesystem ({kind})", hint)


def _cache(cache: Path) -> Check:
    place = next(folder for folder in (cache, *cache.parents) if os.access(folder, os.F_OK))
    free = shutil.disk_usage(place).free
    found = f"{cache}, {free / 1e9:.0f} GB free"
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(
            "cache", False, f"{cache} is not writable", "SWARM_CACHE chooses another folder"
        )
    if free < _MIN_FREE_BYTES:
        return Check("cache", None, found, "free some space, or choose another disk: SWARM_CACHE")
    return Check("cache", True, found)


def _datasets(cache: Path) -> Check:
    found, broken = [], []
    for path in sorted((cache / "datasets").glob("*/meta.json")):
        try:
            meta = msgspec.json.decode(path.read_bytes(), type=_Meta)
            whole = all((path.parent / n).stat().st_size == f.bytes for n, f in meta.files.items())
        except (OSError, msgspec.DecodeError):
            whole = False
        if whole:
            found.append(f"{meta.source} ({meta.scale}, {meta.fingerprint[:8]})")
        else:
            broken.append(str(path.parent))
    if broken:
        return Check(
            "datasets", False, f"not whole: {', '.join(broken)}", "python prepare.py --force"
        )
    if not found:
        return Check("datasets", None, "none yet", "python prepare.py, or swarm spawn makes one")
    return Check("datasets", True, ", ".join(found))


def _agent_clis(environ: Mapping[str, str]) -> Check:
    """Which of the command lines in the table are here; the user's own table may be damaged."""
    try:
        table = clis.load(config.clis_file(environ))
    except SwarmError as error:
        return Check("agent CLIs", False, str(error), error.hint)
    path = environ.get("PATH")
    found = [name for name, cli in table.items() if shutil.which(cli.program, path=path)]
    if found:
        return Check("agent CLIs", True, ", ".join(found))
    known = ", ".join(table)
    return Check("agent CLIs", None, f"none of {known}", "the tuner and built-in ones need none")


def _api_keys(environ: Mapping[str, str]) -> Check:
    """Names only: a key's value is never shown."""
    try:
        found = keys.found(environ)
    except SwarmError as error:
        return Check("API keys", False, str(error), error.hint)
    if found:
        return Check("API keys", True, ", ".join(f"{name} ({where})" for name, where in found))
    hint = f"the tuner needs none; others: the environment, or {config.keys_file(environ)}"
    return Check("API keys", None, "none", hint)
