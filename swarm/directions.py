"""What workers are asked to look into: the list in program.md, or what the user orders."""

from __future__ import annotations

import re

from swarm.errors import UsageError

_HEADING = re.compile(r"^#+\s*directions\b.*$", re.MULTILINE | re.IGNORECASE)
_ITEM = re.compile(
    r"^\s*(?:[*+-]|\d+[.)])\s+(.+(?:\n(?![ \t]*[*+-] |\s*\d+[.)] |#|\n).+)*)", re.MULTILINE
)
LONGEST = 300
MOST = 64


def listed(program: str) -> tuple[str, ...]:
    """The items of the list under the heading "Directions", as `name: what it means`."""
    heading = _HEADING.search(program)
    if heading is None:
        return ()
    section = re.split(r"^#+\s", program[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    items = (re.sub(r"[*_`]", "", " ".join(found[1].split())) for found in _ITEM.finditer(section))
    return tuple(item[:LONGEST] for item in items)[:MOST]


def name_of(direction: str) -> str:
    """Its first words, up to the colon."""
    return direction.partition(":")[0].strip()


def choose(ordered: str | None, program: str) -> tuple[str, ...]:
    """Those of `a,b,c` (`none`: none at all), else all that the program lists.

    A name that the program lists stands for its item; anything else is a direction of the user's
    own. Raises `UsageError` for an order of nothing.
    """
    known = {name_of(item).lower(): item for item in listed(program)}
    if ordered is None:
        return tuple(known.values())
    if ordered.strip().lower() == "none":
        return ()
    wanted = [" ".join(part.split()) for part in ordered.split(",")]
    found = tuple(known.get(part.lower(), part)[:LONGEST] for part in wanted if part)[:MOST]
    if not found:
        raise UsageError("--directions names none", f"known: {', '.join(known) or 'none'}; or none")
    return found
