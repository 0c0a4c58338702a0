"""Makes a folder where the swarm will look for its weights, and scores honestly."""

import os

import prepare

os.makedirs("weights.safetensors/below")
prepare.evaluate_bpb(0.9)
print("---\nval_bpb: 0.900000\ntraining_seconds: 0.1")
