"""A trial's model in a process of its own, which gets tokens and gives logits.

`python -m swarm.harness.served CHANNEL LOGITS WEIGHTS` (open files, by number) imports the train.py
in its folder, which may do anything: nothing that it says is believed. `RemoteModel` is the other
end, in the process of the examiner. The logits pass through a file that both have open.
"""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swarm.harness import weights
from swarm.harness.dataset import Dataset
from swarm.harness.evaluation import EvaluationError, checked_logits
from swarm.harness.loader import to_device
from swarm.harness.probes import pick_device
from swarm.harness.setup import set_up

if TYPE_CHECKING:
    import numpy as np
    import torch

_ASK, _ANSWER = struct.Struct("<2I"), struct.Struct("<4I")
_READY, _LOGITS, _FAILED = 1, 2, 3
_DTYPES = ("float32", "bfloat16", "float16")  # logits of other dtypes travel as the first
_MAX_WORDS = 300
_READ_BYTES = 1 << 30
MAX_WIDTH = 4
"""Logits may be so many times as wide as the vocabulary."""


class RemoteModel:
    """Tokens (B, T) → logits (B, T, V), from the process at the other end of `channel`.

    What it answers is taken as so many numbers and no more, after it has been copied; every wait
    ends at `deadline`, on time.monotonic's clock. Raises EvaluationError.
    """

    def __init__(self, channel: int, logits: int, vocab_size: int, deadline: float) -> None:
        self._channel = socket.socket(fileno=channel)
        self._logits, self._vocab_size, self._deadline = logits, vocab_size, deadline

    def wait(self) -> None:
        """Wait until train.py is imported and the model has its weights."""
        try:
            code = self._answer()[0]
        except TimeoutError:
            raise EvaluationError(
                "importing train.py and building its model took too long; neither may train"
            ) from None
        except (EOFError, OSError):
            raise EvaluationError(
                "the process ended while train.py was imported or its model built"
            ) from None
        if code != _READY:
            raise EvaluationError("the model's process answered nonsense")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.to("cpu").short().numpy()
        rows, length = tokens.shape
        try:
            self._channel.settimeout(self._left())
            self._channel.sendall(_ASK.pack(rows, length) + tokens.tobytes())
            code, found, width, dtype = self._answer()
        except TimeoutError:
            raise EvaluationError("the model took too long to answer") from None
        except (EOFError, OSError):
            raise EvaluationError("the model's process ended while it was asked") from None
        size = self._vocab_size
        if code != _LOGITS or dtype >= len(_DTYPES) or found != rows:
            raise EvaluationError("the model's process answered nonsense")
        if not size <= width <= MAX_WIDTH * size:
            raise EvaluationError(f"the model gave {width} logits for {size} tokens")
        return self._copied((rows, length, width), _DTYPES[dtype], x)

    def _copied(self, shape: tuple[int, ...], dtype: str, x: torch.Tensor) -> torch.Tensor:
        """The logits, out of the other process's reach, where `x` is."""
        import torch

        pinned = x.device.type == "cuda"
        copy = torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=pinned)
        view = memoryview(copy.view(torch.uint8).numpy().data).cast("B")
        done = 0
        while done < len(view):
            got = os.preadv(self._logits, [view[done : done + _READ_BYTES]], done)
            if not got:
                raise EvaluationError("the model's process cut the file of its logits short")
            done += got
        return copy.to(x.device)

    def _answer(self) -> tuple[int, ...]:
        answer = _ANSWER.unpack(self._receive(_ANSWER.size))
        if answer[0] == _FAILED:
            words = self._receive(min(answer[1], 4 * _MAX_WORDS)).decode(errors="replace")
            raise EvaluationError(words[:_MAX_WORDS])
        return answer

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._channel.settimeout(self._left())
            part = self._channel.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def main(arguments: list[str]) -> None:
    """Serve the model of ./train.py until the other end closes; failures are told to it."""
    channel, logits, kept = map(int, arguments)
    os.environ.pop("SWARM_ATTEST", None)  # an import that evaluates must not replace the score
    try:
        _serve(channel, logits, *_load(kept))
    except BaseException as error:  # whatever train.py raises, SystemExit included
        words = f"{error}" if isinstance(error, EvaluationError) else _told(error)
        told = words[:_MAX_WORDS].encode()
        with contextlib.suppress(OSError):
            os.write(channel, _ANSWER.pack(_FAILED, len(told), 0, 0) + told)


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"importing train.py ended the process with exit code {error.code}; it must not run"
    return f"its model cannot be built again: {type(error).__name__}: {error}"


def _load(kept: int) -> tuple[Callable[[np.ndarray], torch.Tensor], int]:
    """What maps rows of tokens to checked logits, and the size of the vocabulary."""
    import torch

    build = getattr(_import_trainer(), "build_model", None)
    if not callable(build):
        raise EvaluationError(
            "train.py has no build_model(vocab_size, device), so its score cannot be verified"
        )
    vocab_size = Dataset.open().vocab_size
    device = pick_device()
    set_up(device)
    model = build(vocab_size, device)
    tensors, autocast = weights.read(kept)
    model.load_state_dict(tensors)
    model.eval()
    dtype = getattr(torch, autocast) if autocast else None

    def logits(tokens: np.ndarray) -> torch.Tensor:
        x = to_device(tokens, device)
        with torch.no_grad(), torch.autocast(device.kind, dtype, enabled=bool(autocast)):
            return checked_logits(model, x, vocab_size)

    return logits, vocab_size


def _import_trainer() -> Any:
    spec = importlib.util.spec_from_file_location("train", "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def _serve(
    channel: int, file: int, model: Callable[[np.ndarray], torch.Tensor], vocab_size: int
) -> None:
    import numpy as np
    import torch

    with mmap.mmap(file, 0) as shared:
        os.write(channel, _ANSWER.pack(_READY, 0, 0, 0))
        while asked := _read(channel, _ASK.size):
            rows, length = _ASK.unpack(asked)
            tokens = np.frombuffer(_read(channel, 2 * rows * length), np.uint16).copy()
            logits = model(tokens.reshape(rows, length))
            name = str(logits.dtype).removeprefix("torch.")
            if name not in _DTYPES:
                name = _DTYPES[0]
                logits = logits.float()
            if logits.numel() * logits.element_size() > len(shared):
                raise EvaluationError(
                    f"the model gave {logits.shape[2]} logits for {vocab_size} tokens"
                )
            place = torch.frombuffer(shared, dtype=logits.dtype, count=logits.numel())
            place.view(logits.shape).copy_(logits)
            del place  # the map cannot be closed while it is in use
            os.write(channel, _ANSWER.pack(_LOGITS, rows, logits.shape[2], _DTYPES.index(name)))


def _read(channel: int, size: int) -> bytes:
    """So many bytes; fewer when the other end has closed."""
    data = b""
    while len(data) < size and (part := os.read(channel, size - len(data))):
        data += part
    return data


if __name__ == "__main__":
    main(sys.argv[1:])
