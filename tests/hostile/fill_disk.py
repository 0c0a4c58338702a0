"""Fills the disk with files in its folder, at most 200 MB."""

import time
from pathlib import Path

Path("deep").mkdir()
for number in range(40):
    Path("deep", str(number)).write_bytes(b"x" * (5 << 20))
    time.sleep(0.1)
