"""A report as Markdown that shows on GitHub as it was meant, whatever agents wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable

from swarm.report.blocks import (
    Block,
    Code,
    Heading,
    Inline,
    Items,
    Listing,
    Paragraph,
    Picture,
    Strong,
    Table,
    Text,
    parts,
)
from swarm.views.table import printable

# Whatever starts markup, an entity, a mention, a formula or a table cell; and what would make a
# link of a bare address.
_MARKUP = re.compile(r"[\\`*\[\]<>|~&@$#!]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.I)
_BEGINS_BLOCK = re.compile(r"^(\s*)([-+=]|\d+[.)])")


def render(blocks: Iterable[Block]) -> str:
    """The whole document, in GitHub's dialect (tables)."""
    return "\n\n".join(map(_block, blocks)) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {escape(text)}"
        case Paragraph(text, kind):
            return f"> {_inline(text)}" if kind == "caution" else _begun(_inline(text))
        case Items(items):
            return "\n".join(f"- {_begun(_inline(item))}" for item in items)
        case Table():
            return _table(block)
        case Listing(text):
            return f"{_fence(text, 3)}sh\n{text}\n{_fence(text, 3)}"
        case Picture(file, shows):
            return f"![{escape(shows)}]({file})"


def _table(table: Table) -> str:
    rules = ["---:" if at in table.numbers else "---" for at in range(len(table.head))]
    rows = [[_cell(cell) for cell in row] for row in (table.head, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rules, *rows[1:]])


def _cell(text: Text) -> str:
    # In a table even a code span ends at a bar, unless that is escaped.
    return "".join(
        _span(part).replace("|", r"\|") if isinstance(part, Code) else _span(part)
        for part in parts(text)
    )


def _inline(text: Text) -> str:
    return "".join(map(_span, parts(text)))


def _span(part: Inline) -> str:
    match part:
        case Code(text):
            shown = printable(text)
            fence = _fence(shown, 1)
            pad = " " if shown.startswith("`") or shown.endswith("`") else ""
            return f"{fence}{pad}{shown}{pad}{fence}" if shown.strip() else ""
        case Strong(text):
            return f"**{escape(text)}**" if text.strip() else ""
        case str():
            return escape(part)


def escape(text: str) -> str:
    """Text in which nothing is markup."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def _begun(text: str) -> str:
    """Text that begins no list, rule or heading by its first characters."""
    return _BEGINS_BLOCK.sub(lambda found: f"{found[1]}{found[2][:-1]}\\{found[2][-1]}", text)


def _fence(text: str, least: int) -> str:
    """More backticks than the text has anywhere in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
