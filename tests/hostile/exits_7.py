"""Reports a good score, then fails."""

import sys

import prepare

print(f"---\nval_bpb: {prepare.evaluate_bpb(0.5):.6f}\ntraining_seconds: 1.0")
sys.exit(7)
