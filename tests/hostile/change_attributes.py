"""Takes the user's rights to files away, and sets their times: no content is written."""

import json
import os
import sys
from pathlib import Path

places = json.loads(Path("places.json").read_text())
for path in (*places["secrets"], places["home"], places["pristine"]):
    for change in (
        lambda path: os.chmod(path, 0),
        lambda path: os.chown(path, 65534, 65534),
        lambda path: os.utime(path, (1, 1)),
        lambda path: os.setxattr(path, "user.mark", b"x"),
    ):
        try:
            change(path)
        except OSError as error:
            print(error)
for path in Path(places["pristine"]).rglob("*.py"):
    with open(path) as file:
        os.fchmod(file.fileno(), 0)
Path("own").write_text("")
os.chmod("own", 0o600)  # an honest program goes on after this
sys.exit("tried all")
