"""Writes, renames and removes outside its folder: home, repository, journal, /tmp, other trials."""

import json
import os
import shutil
import sys
from pathlib import Path

places = json.loads(Path("places.json").read_text())
done = []


def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        print(error)
    else:
        done.append((what.__name__, arguments))


for name in ("home", "repository", "journal's folder", "other trial", "elsewhere", "pristine"):
    folder = Path(places[name])
    attempt((folder / "planted").write_text, "x")
    attempt(os.mkdir, folder / "planted folder")
    attempt(os.symlink, "/etc/passwd", folder / "planted link")
    attempt(os.rename, folder, f"{folder}.moved")
for path in places["secrets"]:
    attempt(os.truncate, path, 0)
    attempt(os.remove, path)
    with open("mine", "w"):
        attempt(os.replace, "mine", path)
attempt(shutil.rmtree, Path(places["repository"], ".git"))
sys.exit(f"done: {done}")
