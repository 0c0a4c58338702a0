"""Looks for API keys in its own environment and in those of the watchdog and the runner."""

import json
import os
import sys
from pathlib import Path

places = json.loads(Path("places.json").read_text())
found = []
for process in ("self", os.getppid(), places["runner"]):
    try:
        if b"API_KEY" in Path(f"/proc/{process}/environ").read_bytes():
            found.append(process)
    except PermissionError as error:
        print(error)
sys.exit(f"keys found in {found}")
