"""Screens over the main one: an experiment with its diff, and what the keys do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer

from swarm.watch.cells import STYLES, Line, clean
from swarm.watch.lines import Lines

_DIFF_STYLES = (
    ("+++", "bold"), ("---", "bold"), ("diff ", "bold"), ("index ", "dim"),
    ("@@", "cyan"), ("+", "green"), ("-", "red"),
)  # fmt: skip
_INDENT = " " * 9


class Page(Screen[None]):
    """Text to read and to leave."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,d", "app.pop_screen", "back", key_display="q"),
    ]

    def __init__(self, heading: Line, lines: Sequence[Line]) -> None:
        super().__init__()
        self._heading, self._lines = heading, lines

    def compose(self) -> ComposeResult:
        yield Lines(self._heading)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.query_one(Lines).show(self._lines)


def experiment(told: str, diff: str, verdict: str, width: int) -> Page:
    """An experiment: what `swarm show` says of it, and its diff in colours."""
    first, *more = (_wrapped(line, width) for line in told.splitlines())
    lines: list[Line] = [((line, f"bold {STYLES.get(verdict, '')}"),) for line in first]
    lines += [((line, ""),) for block in more for line in block]
    lines += [(), *(_diff_line(line) for line in diff.splitlines())]
    return Page(((f"experiment {told.split(' ', 1)[0]}", ""),), lines)


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, max(40, width), subsequent_indent=_INDENT, break_on_hyphens=False)


def _diff_line(line: str) -> Line:
    style = next((style for start, style in _DIFF_STYLES if line.startswith(start)), "")
    return ((clean(line.expandtabs(4)), style),)


def keys(bindings: Sequence[tuple[str, str]]) -> Page:
    """What the keys do."""
    return Page((("keys", ""),), [((f"  {key:<14}", "bold"), (text, "")) for key, text in bindings])
