"""A small repository to run swarms on: its trainer takes milliseconds and scores its constants.

The trainer is a real one as far as the swarm can tell: a train.py with a hyperparameter block, a
prepare.py that measures and attests. What it measures is a known function of the constants.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PREPARE = '''\
"""Fixed part of the toy: prepares nothing, measures a known function."""
import json, os, sys
from pathlib import Path

SECONDS = float(os.environ.get("SWARM_SECONDS", "1"))


def evaluate_bpb(score):
    path = os.environ.get("SWARM_ATTEST")
    if path:
        found = {"val_bpb": score, "tokens": 1, "bytes": 1, "batches": 10}
        Path(path + ".part").write_text(json.dumps(found))
        os.replace(path + ".part", path)
    return score


if __name__ == "__main__":
    print("---")
    print("dataset: " + os.getcwd())
    print("fingerprint: 70f70f70f70f70f7")
'''

TRAIN = '''\
"""Toy trainer: val_bpb is a bowl over the constants, with a little noise from the seed."""
import math, os, random, time

import prepare

# ----- Hyperparameters ---------------------------------------------------------------------------
LR = 0.04  # learning rate [0.001, 1.0]
DECAY = 0.2  # weight decay [0.01, 2.0]
BATCH = 2**6  # rows per step [16, 1024]
WAIT = 0.0  # seconds to sleep
# ----- Training ----------------------------------------------------------------------------------


def main():
    rng = random.Random(f"{os.environ.get('SWARM_SEED')} {LR} {DECAY} {BATCH}")
    time.sleep(WAIT)
    bowl = math.log(LR / 0.3) ** 2 + math.log(DECAY / 0.05) ** 2 + math.log2(BATCH / 256) ** 2
    score = prepare.evaluate_bpb(1.0 + 0.02 * bowl + rng.gauss(0, 1e-4))
    print("---")
    print(f"val_bpb: {score:.6f}")
    print("training_seconds: 0.1")
    print("total_seconds: 0.1")
    print("peak_vram_mb: 10.0")
    print("mfu_percent: unknown")
    print("total_tokens_M: 0.1")
    print("num_steps: 10")
    print("num_params_M: 0.1")
    print("depth: 1")


if __name__ == "__main__":
    main()
'''

GIT_IDENTITY = {
    "GIT_AUTHOR_NAME": "a user",
    "GIT_AUTHOR_EMAIL": "user@localhost",
    "GIT_COMMITTER_NAME": "a user",
    "GIT_COMMITTER_EMAIL": "user@localhost",
}


def git(root: Path, *command: str) -> str:
    """Run git as the user would; return its output."""
    return subprocess.run(
        ["git", *command],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | GIT_IDENTITY,
    ).stdout.strip()


def make_repository(root: Path, train: str = TRAIN, prepare: str = PREPARE) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    (root / "train.py").write_text(train)
    (root / "prepare.py").write_text(prepare)
    (root / "notes.txt").write_text("the user's own\n")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    return root


def swarm(
    root: Path, *arguments: str, environment: dict[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the real command line in `root`."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "swarm.cli", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
