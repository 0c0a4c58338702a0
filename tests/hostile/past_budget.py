"""Trains far longer than its budget, and prints that it did not."""

import time

import torch

import prepare

dataset = prepare.Dataset.open()
loader = prepare.Loader(dataset, 1, prepare.pick_device(), 0)
started = time.monotonic()
while time.monotonic() < started + 3.2:
    next(loader)
    time.sleep(0.1)


def model(x):
    return torch.zeros((*x.shape, dataset.vocab_size))


print(f"---\nval_bpb: {prepare.evaluate_bpb(model, 32, prepare.pick_device(), dataset):.6f}")
print("training_seconds: 0.5")
