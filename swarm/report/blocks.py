"""What a report is made of, before it is Markdown or HTML: both say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Code:
    """Something to be typed or looked up: a commit, a command, a name in a program."""

    text: str


@dataclass(frozen=True)
class Strong:
    """What somebody in a hurry should see."""

    text: str


Inline: TypeAlias = str | Code | Strong
Text: TypeAlias = Inline | tuple[Inline, ...]


@dataclass(frozen=True)
class Heading:
    """Of a section; `level` 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text; a `lead` sums up what follows, a `caution` says how not to read it."""

    text: Text
    kind: str = ""


@dataclass(frozen=True)
class Items:
    """A list of short texts."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Table:
    """Rows of cells below a head. Columns in `numbers` are aligned to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Text]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Listing:
    """Lines to be copied into a terminal."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A picture that lies beside the report, and what it shows."""

    file: str
    shows: str


Block: TypeAlias = Heading | Paragraph | Items | Table | Listing | Picture


def parts(text: Text) -> tuple[Inline, ...]:
    """The pieces of a text."""
    return text if isinstance(text, tuple) else (text,)
