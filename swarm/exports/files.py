"""Exports to files: which format a name asks for, and writing it."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from typing import IO

import swarm
from swarm.disk import write_whole
from swarm.errors import UsageError
from swarm.exports import rows, separated
from swarm.exports.rows import Table
from swarm.leaderboard import Leaderboard

FORMATS = ("parquet", *separated.SEPARATORS)


def form_of(place: str, asked: str | None) -> str:
    """The format for a file, by its ending unless one is asked for; `-` (stdout) is CSV.

    Raises `UsageError` where that is none.
    """
    if place == "-":
        if asked == "parquet":
            raise UsageError("Parquet does not go to stdout", "swarm export night.parquet")
        return asked or "csv"
    form = asked or Path(place).suffix.removeprefix(".").lower()
    if form not in FORMATS:
        known = ", ".join(f".{each}" for each in FORMATS)
        raise UsageError(f"cannot tell the format of '{place}' by its ending", f"one of {known}")
    if not Path(place).absolute().parent.is_dir():
        folder = Path(place).parent
        raise UsageError(f"there is no folder {folder}", f"mkdir -p {shlex.quote(str(folder))}")
    return form


def write(path: Path, tag: str, board: Leaderboard, form: str, trials: bool) -> None:
    """Write the experiments of a swarm, or its trials, whole or not at all."""
    table = _table(board, trials)
    if form == "parquet":
        from swarm.exports import parquet

        about = {"swarm": tag, "written_by": f"swarm {swarm.__version__}"}
        parquet.write(table, path, about)
        return
    text = io.StringIO()
    separated.write(table, separated.SEPARATORS[form], text)
    write_whole(path, text.getvalue().encode(errors="replace"))


def print_to(file: IO[str], board: Leaderboard, form: str, trials: bool) -> None:
    """The same on a stream."""
    separated.write(_table(board, trials), separated.SEPARATORS[form], file)


def _table(board: Leaderboard, trials: bool) -> Table:
    return rows.trials(board) if trials else rows.experiments(board)
