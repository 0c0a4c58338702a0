"""A report as one HTML file: light and dark, printable, without a script or a request."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path

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

_STYLE = Path(__file__).with_name("style.css")
# Should anything ever slip through the escaping, the browser runs and fetches nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(title: str, blocks: Iterable[Block], pictures: Mapping[str, bytes]) -> str:
    """The whole page; `pictures` are PNGs by file name, and are put into it."""
    body = "\n".join(_block(block, pictures) for block in blocks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_STYLE.read_text()}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _block(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, kind):
            return f'<p class="{kind}">{_inline(text)}</p>' if kind else f"<p>{_inline(text)}</p>"
        case Items(items):
            return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return _table(block)
        case Listing(text):
            return f"<pre><code>{escape(text, lines=True)}</code></pre>"
        case Picture(file, shows):
            data = base64.b64encode(pictures[file]).decode()
            alt = escape(shows)
            return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>'


def _table(table: Table) -> str:
    head = "".join(_cell("th", at, text, table) for at, text in enumerate(table.head))
    rows = "\n".join(
        "<tr>" + "".join(_cell("td", at, text, table) for at, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    head = f"<thead><tr>{head}</tr></thead>\n" if any(table.head) else ""
    return f'<div class="scroll"><table>\n{head}<tbody>\n{rows}\n</tbody>\n</table></div>'


def _cell(tag: str, at: int, text: Text, table: Table) -> str:
    kind = ' class="n"' if at in table.numbers else ""
    return f"<{tag}{kind}>{_inline(text)}</{tag}>"


def _inline(text: Text) -> str:
    return "".join(map(_span, parts(text)))


def _span(part: Inline) -> str:
    match part:
        case Code(text):
            return f"<code>{escape(text)}</code>"
        case Strong(text):
            return f"<strong>{escape(text)}</strong>"
        case str():
            return escape(part)


def escape(text: str, lines: bool = False) -> str:
    """Text in which nothing is markup, for elements and attributes alike."""
    shown = "\n".join(map(printable, text.split("\n"))) if lines else printable(text)
    return html.escape(shown)
