"""Leaves links, pipes and folders under the names that the watchdog will write and read."""

import json
import os
from pathlib import Path

places = json.loads(Path("places.json").read_text())
watchdog = os.getppid()
secret = places["secrets"][0]
os.mkfifo("attested.json")
os.unlink("run.log")
os.symlink(secret, "run.log")
os.makedirs("result.json/below")
os.symlink(secret, f"result.json.{watchdog}.part")
os.makedirs("tmp", exist_ok=True)
os.chdir("tmp")
for _ in range(1100):  # deeper than Python recurses, and longer than a path may be
    os.mkdir("d")
    os.chdir("d")
print("---\nval_bpb: 0.100000\ntraining_seconds: 1.0")
