"""Batches for training, from the memory map to the device with no Python per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.harness import budget
from swarm.harness.dataset import Dataset
from swarm.harness.device import ASYNCHRONOUS, Device

if TYPE_CHECKING:
    import numpy as np
    import torch


class Loader:
    """Endless batches (x, y) of shape (batch_size, T), int64, on the device; y is x one token on.

    Every epoch visits every row once, in an order that the seed and the epoch decide; a batch may
    span two epochs. `epoch` counts from 1 and is that of the last batch's last row.

    Rows are read at random through a memory map. A dataset larger than the memory costs one or two
    page faults a row: some 1,000 to 2,000 random reads a second at 2 M tokens/s and full scale,
    which any SSD serves and no hard disk does.
    """

    def __init__(self, dataset: Dataset, batch_size: int, device: Device, seed: int) -> None:
        self._data = dataset.uncounted("train")  # training begins with its batches
        self.batch_size, self.device, self.seed = batch_size, device, seed
        self.epoch = 0
        self._order: Any = []
        self._next = 0

    @property
    def data(self) -> np.ndarray:
        """All rows; who asks for them begins to train."""
        budget.rows_asked_for()
        return self._data

    def _rows(self) -> np.ndarray:
        import numpy as np

        chosen: list[Any] = []
        missing = self.batch_size
        while missing:
            if self._next == len(self._order):
                self.epoch += 1
                generator = np.random.default_rng([self.seed, self.epoch])
                self._order, self._next = generator.permutation(len(self._data)), 0
            taken = self._order[self._next : self._next + missing]
            chosen.append(taken)
            self._next += len(taken)
            missing -= len(taken)
        return np.concatenate(chosen)

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        budget.batch_handed_out()
        batch = to_device(self._data[self._rows()], self.device)
        return batch[:, :-1], batch[:, 1:]


def to_device(rows: np.ndarray, device: Device) -> torch.Tensor:
    """Tokens (uint16, below 2^15) as int64 on a device; they travel as int16, a quarter of that."""
    import torch

    if device.kind == "cpu":  # NumPy widens on one thread: torch's threads wait for each other
        return torch.from_numpy(rows.astype("int64"))
    narrow = torch.from_numpy(rows.view("int16"))
    if device.kind in ASYNCHRONOUS:
        narrow = narrow.pin_memory()
    return narrow.to(device.torch_device, non_blocking=device.kind in ASYNCHRONOUS).long()
