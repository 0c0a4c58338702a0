"""What an experiment changed, as git tells it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from swarm.views.table import printable

_COLOURS = (
    ("+++", "1"), ("---", "1"), ("diff ", "1"), ("index ", "1"), ("@@", "36"), ("+", "32"),
    ("-", "31"),
)  # fmt: skip


def between(root: Path, base: str, commit: str) -> str:
    """The diff of two commits, or what git has to say where one of them is lost."""
    command = ["git", "--no-pager", "diff", "--no-color", "--no-ext-diff", "--no-textconv"]
    # A name from the journal is never taken for an option.
    done = subprocess.run(
        [*command, "--end-of-options", base, commit, "--"],
        cwd=root, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else f"git diff: {done.stderr.strip()}\n"


def shown(diff: str, colour: bool) -> str:
    """A diff for a terminal: what an agent wrote may not steer it. Git shows that as it is."""
    lines = (printable(line.expandtabs(4)) for line in diff.split("\n"))
    return "\n".join(_coloured(line) if colour else line for line in lines)


def _coloured(line: str) -> str:
    code = next((code for start, code in _COLOURS if line.startswith(start)), None)
    return f"\x1b[{code}m{line}\x1b[0m" if code else line
