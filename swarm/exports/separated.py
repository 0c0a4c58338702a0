"""Tables as text: CSV for spreadsheets and pandas, TSV for shells."""

from __future__ import annotations

import csv
from datetime import datetime
from typing import IO

from swarm.exports.rows import Cell, Table

SEPARATORS = {"csv": ",", "tsv": "\t"}
# OWASP: a spreadsheet takes a cell that begins so for a formula, and would run what an agent wrote.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(table: Table, separator: str, file: IO[str]) -> None:
    """Write head and rows; what is not known is empty."""
    writer = csv.writer(file, delimiter=separator, lineterminator="\n")
    writer.writerow(table.names)
    writer.writerows([_cell(cell) for cell in row] for row in table.rows)


def _cell(cell: Cell) -> str | int | float:
    """Numbers in full; a text that would be a formula behind an apostrophe, on one line each."""
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case datetime():
            return cell.isoformat()
        case str():
            line = " ".join(cell.split()) if any(c in cell for c in "\t\r\n") else cell
            return f"'{line}" if line.startswith(_FORMULA) else line
    return cell
