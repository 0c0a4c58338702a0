"""The GPUs and other accelerators this process may use, as their vendors' tools list them."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from swarm import processes
from swarm.errors import SwarmError

_NVIDIA_QUERY = ("--query-gpu=index,uuid,name", "--format=csv,noheader")
_NO_GPU = ("No devices were found", "No AMD GPUs", "No device discovered")
_BROKEN_HINT = "repair the driver, or train on the CPU: --devices cpu"
# Laptops have Intel graphics too: Flex, Max and Arc A770, B580, Pro B60, … are cards.
_INTEL_CARD = re.compile(r"Data Center GPU|Arc\W.*\b[A-Z]\d{2,3}\b")


@dataclass(frozen=True)
class Gpu:
    """An accelerator as its vendor's tool lists it.

    `id` is what the visibility variables understand, `locks` are the names of its lock files: a
    training by hand takes one of them (`harness.probes.lock_key`).
    """

    kind: Literal["cuda", "rocm", "xpu", "hpu", "mps"]
    index: int
    id: str
    model: str
    locks: tuple[str, ...]


def visible(environ: Mapping[str, str], timeout: float) -> list[Gpu]:
    """The accelerators of every vendor in turn, each by index, but those the environment hides.

    Raises `SwarmError` when a vendor's tool is installed but fails, or is silent for `timeout`
    seconds: that machine should have GPUs.
    """
    return [gpu for vendor in _VENDORS for gpu in _visible(vendor, environ, timeout)]


class _Vendor(NamedTuple):
    """How to list a vendor's devices, and what hides some of them."""

    query: Callable[[Mapping[str, str], float], list[Gpu]]
    masks: tuple[str, ...] = ()  # in order: each counts within what the one before left
    by_position: bool = True  # a number in a mask is a place in the list, not an id


def _visible(vendor: _Vendor, environ: Mapping[str, str], timeout: float) -> list[Gpu]:
    masks = [(name, environ[name]) for name in vendor.masks if name in environ]
    if any(mask.strip() in ("", "-1", "NoDevFiles") for _, mask in masks):
        return []
    gpus = vendor.query(environ, timeout)
    for name, mask in masks:
        gpus = _masked(gpus, name, mask, vendor.by_position)
    return sorted(gpus, key=lambda gpu: gpu.index)


def _masked(gpus: list[Gpu], name: str, mask: str, by_position: bool) -> list[Gpu]:
    """CUDA's rule: indices or beginnings of UUIDs; the list ends at the first that is unknown."""
    seen: list[Gpu] = []
    for entry in (part.strip() for part in mask.split(",")):
        if entry.upper().startswith("MIG-") or re.fullmatch(r"\d+\.\d+", entry):
            raise SwarmError(
                f"{name} names a part of a GPU, {entry}; only whole GPUs are supported",
                f"give {name} whole GPUs (switch MIG off), or train on the CPU: --devices cpu",
            )
        if not entry.isdecimal():
            found = [gpu for gpu in gpus if entry and gpu.id.upper().startswith(entry.upper())]
        elif by_position:
            # Positions among what the tool lists: inside a container it may list only some.
            found = gpus[int(entry) : int(entry) + 1]
        else:
            found = [gpu for gpu in gpus if gpu.id == entry]
        if len(found) != 1 or found[0] in seen:
            break
        seen += found
    return seen


def _nvidia(environ: Mapping[str, str], timeout: float) -> list[Gpu]:
    text = _ask(["nvidia-smi", *_NVIDIA_QUERY], environ, timeout)
    gpus = []
    for line in (text or "").splitlines():
        if line.startswith("WARNING:"):  # such as "infoROM is corrupted", after the list
            continue
        fields = [field.strip() for field in line.split(",", 2)]
        if len(fields) != 3 or not fields[0].isdecimal() or not fields[1].startswith("GPU-"):
            raise SwarmError(f"nvidia-smi lists a GPU as {line.strip()!r}", _BROKEN_HINT)
        gpus.append(Gpu("cuda", int(fields[0]), fields[1], fields[2], locks=(fields[1],)))
    return gpus


def _amd(environ: Mapping[str, str], timeout: float) -> list[Gpu]:
    query = ["rocm-smi", "--showproductname", "--showuniqueid", "--json"]
    text = _ask(query, environ, timeout)
    if text is not None:
        cards = _rocm_smi_cards(text or "{}")
    else:
        cards = _amd_smi_cards(_ask(["amd-smi", "static", "--asic", "--json"], environ, timeout))
    ids = [unique for _, unique in cards.values()]
    gpus = []
    for i, (model, unique) in sorted(cards.items()):
        # Slices of one GPU share its unique id, and some GPUs have none: then the index pins it.
        pin = unique if ids.count(unique) == 1 else str(i)
        locks = dict.fromkeys((f"rocm-{i}", f"rocm-{pin}"))
        gpus.append(Gpu("rocm", i, pin, model, tuple(locks)))
    return gpus


def _rocm_smi_cards(text: str) -> dict[int, tuple[str, str]]:
    """Model and id by index, from `{"card0": {"Card series": …, "Unique ID": "0x…"}, "system": …}`.

    The capitals of "Card series" and which of the names is useful depend on the version.
    """
    cards = {}
    for key, card in _json(text, dict[str, dict[str, object]], "rocm-smi").items():
        if match := re.fullmatch(r"card(\d+)", key):
            fields = {name.lower(): str(value) for name, value in card.items()}
            names = [fields.get(name, "") for name in ("card series", "device name", "card model")]
            model = next((n for n in names if n and not n.startswith(("0x", "N/A"))), "AMD GPU")
            unique = fields.get("unique id", "")
            # ROCR writes 0x719d… as GPU-719d….
            known = re.fullmatch(r"0x([0-9a-fA-F]+)", unique) and int(unique, 16)
            cards[int(match[1])] = (
                model,
                f"GPU-{int(unique, 16):016x}" if known else str(match[1]),
            )
    return cards


def _amd_smi_cards(text: str | None) -> dict[int, tuple[str, str]]:
    """The same from `[{"gpu": 0, "asic": {"market_name": …}}]`, or that list as `gpu_data`."""
    if not text:
        return {}
    data = _json(text, _AmdSmi | list[_AmdSmiGpu], "amd-smi")
    rows = data.gpu_data if isinstance(data, _AmdSmi) else data
    return {row.gpu: (row.asic.market_name, str(row.gpu)) for row in rows}


class _AmdSmiAsic(msgspec.Struct):
    market_name: str = "AMD GPU"


class _AmdSmiGpu(msgspec.Struct):
    gpu: int
    asic: _AmdSmiAsic = msgspec.field(default_factory=_AmdSmiAsic)


class _AmdSmi(msgspec.Struct):
    gpu_data: list[_AmdSmiGpu]


class _IntelGpu(msgspec.Struct):
    device_id: int
    device_name: str = "Intel GPU"


class _XpuSmi(msgspec.Struct):
    device_list: list[_IntelGpu]


def _intel(environ: Mapping[str, str], timeout: float) -> list[Gpu]:
    text = _ask(["xpu-smi", "discovery", "-j"], environ, timeout)
    cards = _json(text, _XpuSmi, "xpu-smi").device_list if text else []
    return [
        Gpu("xpu", c.device_id, str(c.device_id), c.device_name, (f"xpu-{c.device_id}",))
        for c in cards
        if _INTEL_CARD.search(c.device_name)
    ]


def _gaudi(environ: Mapping[str, str], timeout: float) -> list[Gpu]:
    """By module: the place on the board, where an index may change with the next boot."""
    text = _ask(["hl-smi", "-Q", "module_id,name", "-f", "csv,noheader"], environ, timeout)
    gpus = []
    for line in filter(str.strip, (text or "").splitlines()):
        module, _, name = (field.strip() for field in line.partition(","))
        if not module.isdecimal():
            raise SwarmError(f"hl-smi lists a Gaudi as {line.strip()!r}", _BROKEN_HINT)
        gpus.append(Gpu("hpu", int(module), module, f"Intel Gaudi {name}", (f"hpu-{module}",)))
    return gpus


def _apple(environ: Mapping[str, str], timeout: float) -> list[Gpu]:
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return []
    text = _ask(["sysctl", "-n", "machdep.cpu.brand_string"], environ, timeout)
    return [Gpu("mps", 0, "mps", (text or "").strip() or "Apple GPU", ("mps-0",))]


_VENDORS = (
    _Vendor(_nvidia, ("CUDA_VISIBLE_DEVICES",)),
    _Vendor(_amd, ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")),
    _Vendor(_intel, ("ZE_AFFINITY_MASK",), by_position=False),
    _Vendor(_gaudi, ("HABANA_VISIBLE_MODULES",), by_position=False),
    _Vendor(_apple),
)


def _json(text: str, kind: Any, tool: str) -> Any:
    """Decode what a tool printed as JSON, after any warnings before it."""
    start = re.search(r"^\s*[{\[]", text, re.MULTILINE)
    try:
        return msgspec.json.decode(text[start.start() :] if start else text, type=kind)
    except msgspec.DecodeError as error:
        raise SwarmError(
            f"{tool} printed what is no list of GPUs: {error}", _BROKEN_HINT
        ) from error


def _ask(argv: list[str], environ: Mapping[str, str], timeout: float) -> str | None:
    """What a vendor's tool prints; `None` where it is not installed, empty when it has no GPU."""
    binary = shutil.which(argv[0], path=environ.get("PATH"))
    if binary is None:
        return None
    try:
        code, text = processes.output([binary, *argv[1:]], environ, timeout)
    except (OSError, TimeoutError) as error:
        raise SwarmError(f"{argv[0]} failed: {error}", _BROKEN_HINT) from error
    if any(words in text for words in _NO_GPU):
        return ""
    if code != 0:
        said = " ".join(text.split())[:200] or "nothing"
        raise SwarmError(f"{argv[0]} failed with exit code {code}: it said {said}", _BROKEN_HINT)
    return text
