"""Gets rows without taking many batches, trains far too long on them, and prints that it did not.

The arguments say how it gets them, and how long it trains.
"""

import sys
import time

import torch

import prepare

dataset = prepare.Dataset.open()
whole = dataset.rows["train"] if sys.argv[1] == "one batch" else 1
loader = prepare.Loader(dataset, whole, prepare.pick_device(), 0)
rows = {
    "one batch": lambda: next(loader),
    "data": lambda: loader.data,
    "memory_map": lambda: dataset.memory_map("val"),
    "rows_of": lambda: dataset.rows_of("train"),
}[sys.argv[1]]()
time.sleep(float(sys.argv[2]))
for _ in range(1 if sys.argv[1] == "one batch" else 20):
    next(loader)


def model(x):
    return torch.zeros((*x.shape, dataset.vocab_size))


print(f"---\nval_bpb: {prepare.evaluate_bpb(model, 32, prepare.pick_device(), dataset):.6f}")
print("training_seconds: 0.5")
