"""Reads what is the user's: keys in the home, the repository, the journal, another trial."""

import json
import os
import sys
from pathlib import Path

places = json.loads(Path("places.json").read_text())
found = []
for folder in ("home", "repository", "journal's folder", "other trial"):
    for path, _, names in os.walk(places[folder]):
        found += [Path(path, name).read_bytes() for name in names if name != "places.json"]
for path in places["secrets"]:
    for way in (path, f"/proc/self/cwd/{os.path.relpath(path)}", f"/proc/1/root{path}"):
        try:
            found.append(Path(way).read_bytes())
        except (PermissionError, FileNotFoundError) as error:
            print(error)
try:
    os.link(places["secrets"][0], "mine")
    found.append(Path("mine").read_bytes())
except OSError as error:
    print(error)
sys.exit(f"read {len(found)} files")
