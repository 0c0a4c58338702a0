"""Leaves a checkpoint, and folders: full, closed to everyone, and one that may not be listed."""

import os
from pathlib import Path

import prepare

Path("checkpoint.pt").write_bytes(os.urandom(5 << 20))
for name in ("checkpoints/1", "closed", "unlisted"):
    os.makedirs(f"{name}/below")
    Path(name, "model.pt").write_bytes(b"x" * 1000)
os.mkdir("unlisted/below/closed", 0)
os.chmod("closed", 0)
os.chmod("unlisted", 0o300)
prepare.evaluate_bpb(0.9)
print("---\nval_bpb: 0.900000\ntraining_seconds: 0.1")
