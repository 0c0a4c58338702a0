"""A model's weights in a file, as safetensors has them: nothing is unpickled.

Eight bytes with the length of a JSON header (little endian), the header, and the tensors' bytes:
github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.harness.device import Device
from swarm.harness.settings import log

if TYPE_CHECKING:
    import torch

_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_MAX_HEADER_BYTES = 1 << 24


def keep(model: Any, device: Device, folder: Path) -> str:
    """Keep the weights in `folder` under the name SWARM_WEIGHTS, if that is set.

    Returns why that did not work, or nothing. A score does not depend on it, so nothing is raised.
    """
    name = os.environ.get("SWARM_WEIGHTS")
    if not name:
        return ""
    temporary = folder / f"{name}.part"
    try:
        write(temporary, uncompiled(model).state_dict(), autocast_dtype(device))
        temporary.replace(folder / name)
    except Exception as error:  # state_dict is the model's own code: it may raise anything
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        log(f"the weights were not kept: {why}")
        temporary.unlink(missing_ok=True)
        return why
    return ""


def uncompiled(model: Any) -> Any:
    """The module inside of what torch.compile made of it; its weights have other names there."""
    while hasattr(model, "_orig_mod"):
        model = model._orig_mod
    return model


def autocast_dtype(device: Device) -> str:
    """What matrix products are computed in here by torch.autocast: a dtype's name, or nothing."""
    import torch

    if not torch.is_autocast_enabled(device.kind):
        return ""
    return str(torch.get_autocast_dtype(device.kind)).removeprefix("torch.")


def write(path: Path, tensors: dict[str, torch.Tensor], autocast: str) -> None:
    """Write tensors, and what they were used with."""
    import torch

    header: dict[str, Any] = {"__metadata__": {"autocast": autocast}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        dtype = _NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            if tensor.numel():  # one without elements has no bytes to look at
                plain = tensor.detach().cpu().contiguous().reshape(-1)
                plain.view(torch.uint8).numpy().tofile(file)


def read(file: int) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors in an open file, on the CPU, and the autocast they were used with.

    Raises ValueError, KeyError or TypeError where the file holds something else.
    """
    import torch

    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if not 0 < length <= _MAX_HEADER_BYTES:
        raise ValueError("the weights have no header")
    header = json.loads(os.pread(file, length, 8))
    autocast = str(header.pop("__metadata__")["autocast"])
    size = os.fstat(file).st_size - 8 - length
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:  # the system reads 2 GiB at a time at most
        done += os.preadv(file, [view[done : done + (1 << 30)]], 8 + length + done)
    tensors = {}
    for name, about in header.items():
        dtype = getattr(torch, _DTYPES[about["dtype"]])
        begin, end = about["data_offsets"]
        if begin == end:
            tensors[name] = torch.empty(about["shape"], dtype=dtype)
        else:
            plain = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=begin)
            tensors[name] = plain.clone().view(dtype).reshape(about["shape"])  # aligned
    return tensors, autocast
