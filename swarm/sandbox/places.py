"""Which files a trial may see and change, and where the caches of its libraries are."""

from __future__ import annotations

import contextlib
import os
import site
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from swarm.sandbox.landlock import DEVICE, READ, READ_DIR, READ_FILE, WRITE

_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys", "/snap",
    "/var/lib/snapd", "/nix/store", "/gnu/store", "/run/opengl-driver", "/run/opengl-driver-32",
    "/run/current-system", "/run/udev",
)  # fmt: skip
# Only root could read these, but root is who runs trials in many a container.
_SECRETS = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers",
    "/etc/sudoers.d", "/etc/ssh", "/etc/ssl/private", "/etc/krb5.keytab", "/etc/wireguard",
    "/etc/NetworkManager", "/etc/kubernetes", "/etc/docker",
)  # fmt: skip
_NODES = (
    "null", "zero", "full", "random", "urandom", "kfd", "dri", "accel", "dxg", "nvidia*",
    "nvhost*", "nvmap", "nvgpu", "habanalabs*", "hl[0-9]*", "hl_controlD[0-9]*", "infiniband",
)  # fmt: skip
_HELD_OUT = "heldout.bin"
_CACHES = {
    "CUDA_CACHE_PATH": "cuda",
    "TORCHINDUCTOR_CACHE_DIR": None,  # the harness chooses, per device
    "TRITON_CACHE_DIR": None,
    "MIOPEN_USER_DB_PATH": "miopen",
    "MIOPEN_CUSTOM_CACHE_DIR": "miopen",
    "SYCL_CACHE_DIR": "sycl",
    "NEO_CACHE_DIR": "neo",
}
"""Variables that name a compiler's cache; where it is below `<SWARM_CACHE>/compile` by default."""
_PREFIX_PARTS = ("bin", "lib", "lib64", "include", "share", "etc", "ssl", "pyvenv.cfg")
_UVM_SECONDS = 10.0


def environment(given: Mapping[str, str], private: Path) -> dict[str, str]:
    """`given`, with a home and a temporary folder of its own and caches where it may write them."""
    homes = {"HOME": str(private), "TMPDIR": str(private), "HABANA_LOGS": str(private)}
    cache = _compile_folder(given)
    kept = {name: str(cache / sub) for name, sub in _CACHES.items() if cache and sub}
    return kept | dict(given) | homes


def grants(
    folder: Path, evaluator: Path, given: Mapping[str, str], hidden: Sequence[Path]
) -> Iterator[tuple[Path, int]]:
    """Pairs of a place and Landlock rights for a trial in `folder`; makes the folders it needs.

    `given` is the environment before `environment` changed it, and `hidden` what stays unseen
    wherever it lies, but for what a trial cannot do without. The home of the user is hidden too.
    """
    hidden = _real([*hidden, Path(given.get("HOME", "/nonexistent")), *map(Path, _SECRETS)])
    dataset = Path(given["SWARM_DATASET"]) if "SWARM_DATASET" in given else None
    if dataset:
        hidden.append((dataset / _HELD_OUT).resolve())
        entries = dataset.iterdir() if dataset.is_dir() else ()
        files = (path for path in entries if path.is_file() and path.resolve() != hidden[-1])
        yield from ((path, READ_FILE) for path in files)
    for tree in (*map(Path, _SYSTEM), *_python(hidden)):
        yield from ((place, READ) for place in _around(tree.resolve(), hidden))
    for place in _named(given):
        if not any(_within(one, place) for one in hidden):
            yield place, READ
    yield evaluator, READ
    yield folder, WRITE
    for place in _writable(given):
        with contextlib.suppress(OSError):  # it then compiles without this cache
            place.mkdir(parents=True, exist_ok=True)
        yield place, WRITE
    yield from _devices()


def _devices() -> Iterator[tuple[Path, int]]:
    """The nodes of accelerators; and the names in /dev, by which libraries look for them."""
    dev = Path("/dev")
    _load_uvm(dev)
    yield dev, READ_DIR
    yield dev / "shm", WRITE
    for pattern in _NODES:
        yield from ((node, DEVICE) for node in dev.glob(pattern))


def _load_uvm(dev: Path) -> None:
    """Make /dev/nvidia-uvm, as the first CUDA program after a boot does by a setuid helper.

    A confined trial could not: no_new_privs takes the helper's rights.
    """
    if (dev / "nvidiactl").exists() and not (dev / "nvidia-uvm").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # CUDA will say what lacks
            helper = ["/usr/bin/nvidia-modprobe", "-u", "-c=0"]
            subprocess.run(helper, timeout=_UVM_SECONDS, capture_output=True)


def _python(hidden: Sequence[Path]) -> Iterator[Path]:
    """The interpreter, its libraries, and what `.pth` files add (a torch built from source)."""
    own = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    for prefix in {Path(name).resolve() for name in own}:
        # `python -m venv .` makes the repository the prefix.
        parts = _PREFIX_PARTS if prefix in hidden else ("",)
        yield from (prefix / part for part in parts)
    yield Path(sys.executable).resolve().parent
    for packages in map(Path, site.getsitepackages()):
        yield packages
        for listing in packages.glob("*.pth"):
            # A package that is worked on may be the repository itself.
            added = _added(packages, listing)
            yield from (path for path in added if not any(_within(path, one) for one in hidden))


def _added(packages: Path, listing: Path) -> list[Path]:
    """The places that a `.pth` file adds; none where it cannot be read, as Python has it."""
    try:
        lines = listing.read_text(errors="replace").splitlines()
    except OSError:
        return []
    paths = [line.strip() for line in lines if not line.startswith(("#", "import"))]
    found = []
    for path in paths:
        if path:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # it is no path
                found.append((packages / path).resolve())
    return found


def _named(given: Mapping[str, str]) -> Iterator[Path]:
    """Every place that its environment names, such as those in PATH, LD_LIBRARY_PATH, CUDA_HOME."""
    for name, value in given.items():
        if not name.startswith("SWARM_") and name not in ("HOME", "TMPDIR"):
            for part in value.split(os.pathsep):
                if part.startswith("/") and os.path.exists(part):  # noqa: PTH110  it never raises
                    yield Path(part).resolve()


def _writable(given: Mapping[str, str]) -> Iterator[Path]:
    cache = _compile_folder(given)
    if cache:
        yield cache
    yield from (Path(given[name]) for name in _CACHES if given.get(name, "").startswith("/"))


def _compile_folder(given: Mapping[str, str]) -> Path | None:
    """As `harness.setup` has it."""
    return Path(given["SWARM_CACHE"]) / "compile" if given.get("SWARM_CACHE") else None


def _around(tree: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """Places that make up a tree without what is hidden in it: the tree itself, or its branches.

    A tree that lies below something hidden was asked for by name, and is granted.
    """
    if tree in hidden:
        return
    below = [one for one in hidden if _within(one, tree)]
    if not below:
        yield tree
        return
    ways = {one.parts[len(tree.parts)] for one in below}  # the branches with something hidden
    with contextlib.suppress(OSError), os.scandir(tree) as entries:  # what is unseen is ungranted
        for entry in entries:
            if entry.name in ways:
                yield from _around(Path(entry.path), below)
            elif not entry.is_symlink():  # a link leads to where its target is granted
                yield Path(entry.path)


def _within(path: Path, folder: Path) -> bool:
    return f"{path}/".startswith(f"{str(folder).rstrip('/')}/")


def _real(paths: Iterable[Path]) -> list[Path]:
    return [path.resolve() for path in paths]
