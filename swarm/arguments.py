"""Values on the command line, checked while it is parsed."""

from __future__ import annotations

import argparse
from collections.abc import Callable

_UNITS = {"s": 1, "m": 60, "h": 3600}


def count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return value


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return value


def port(text: str) -> int:
    if not text.isdecimal() or not int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"'{text}' is no port: 0 (any) to 65535")
    return int(text)


def list_of(kind: Callable[[str], object]) -> Callable[[str], list[object]]:
    """A parser of `a,b,c`, each of a kind."""

    def parse(text: str) -> list[object]:
        return [kind(part) for part in text.split(",") if part]

    return parse


def duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `1h`, or a plain number of seconds."""
    unit = _UNITS.get(text[-1:])
    return positive(text[:-1]) * unit if unit else positive(text)
