"""A `train.py` that is being changed: in memory, until it is submitted."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import Refused, SwarmError

_MERGE_SECONDS = 30.0


@dataclass
class Draft:
    """A changed `text`, and the commit and text it was begun from."""

    commit: str
    original: str
    text: str

    def edit(self, old: str, new: str) -> None:
        """Replace `old`. Raises `Refused` when it does not occur exactly once."""
        if not old:
            raise Refused("the text to replace is empty", "give the exact lines to replace")
        if "\r\n" in self.text:  # read shows lines, not how they end
            old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
        count = self.text.count(old)
        if count != 1:
            hint = "copy the lines exactly as read shows them, indentation included"
            hint = hint if count == 0 else "take more lines around it, until it is the only one"
            raise Refused(f"the text to replace occurs {count} times, not once", hint)
        if old == new:
            raise Refused("the replacement is what was there already", "change something")
        self.text = self.text.replace(old, new)

    def rewrite(self, source: str) -> None:
        if not source.strip():
            raise Refused("that would empty train.py", "give the whole file")
        self.text = source if source.endswith("\n") else source + "\n"

    def problem(self) -> str:
        """Why it is no Python program; empty when it is one."""
        try:
            compile(self.text, "train.py", "exec", dont_inherit=True)
        except SyntaxError as error:
            line = (error.text or "").strip()
            return f"line {error.lineno}: {error.msg}" + (f": {line}" if line else "")
        except (ValueError, RecursionError, MemoryError) as error:  # a NUL byte; too deep for it
            return str(error) or type(error).__name__
        return ""

    def rebase(self, commit: str, original: str) -> None:
        """Make the same changes to another text. Raises `Refused` when they contradict it."""
        if original != self.original:
            if self.text == self.original:
                self.text = original
            else:
                self.text = _merged(self.text, self.original, original)
        self.commit, self.original = commit, original


def _merged(ours: str, base: str, theirs: str) -> str:
    """What git makes of two changes of one text. Raises `Refused` when they meet."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("ours", "base", "theirs")]
        for path, text in zip(paths, (ours, base, theirs), strict=True):
            path.write_bytes(text.encode())
        done = subprocess.run(
            ["git", "merge-file", "-p", "-q", *map(str, paths)],
            cwd=folder,
            capture_output=True,
            check=False,
            timeout=_MERGE_SECONDS,
        )
    if done.returncode < 0 or done.returncode > 127:
        raise SwarmError(f"git merge-file failed: {done.stderr.decode(errors='replace').strip()}")
    if done.returncode:
        raise Refused(
            "meanwhile the base has changed in the same lines as your draft",
            "read train.py again: it is the new base now; make your change in it",
        )
    return done.stdout.decode()
