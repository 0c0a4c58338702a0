"""Adds probability mass: every logit is 50 too high. The evaluator normalises them."""

import torch

import prepare

dataset = prepare.Dataset.open()
next(prepare.Loader(dataset, 1, prepare.pick_device(), 0))


def model(x):
    return torch.full((*x.shape, dataset.vocab_size), 50.0)


print(f"---\nval_bpb: {prepare.evaluate_bpb(model, 32, prepare.pick_device(), dataset):.6f}")
print("training_seconds: 0.1")
