"""The hyperparameter block of `train.py`: read its constants, change them, and nothing else.

The block is what stands between the banner comment that says "Hyperparameters" and the next
banner. In it, `NAME = literal  # meaning [low, high]` is a constant with its range, and
`# meaning {a, b}` one with its choices; `if SCALE == "small":` overrides what differs there.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from swarm.assignments import Assignment, Value, assignments, evaluated, syntax_tree

_RANGE = re.compile(r"\[([^\[\],]+),([^\[\],]+)\][\s.]*$")
_CHOICES = re.compile(r"\{([^{}]+)\}[\s.]*$")
_LOG_FROM = 8
"""A range whose ends differ by this factor or more is searched in the logarithm."""
_DIGITS = 3


@dataclass(frozen=True)
class Constant:
    """A tunable constant: its value, where to search, and the characters of `source` it fills.

    Either `choices` is set, or `low` and `high` (inclusive). `powers_of_two` means that nothing
    between two powers is tried.
    """

    name: str
    value: Value
    text: str
    span: tuple[int, int]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()
    log: bool = False
    integer: bool = False
    powers_of_two: bool = False

    def nearest(self, value: Value) -> Value:
        """`value` as it would be written: an integer, or three significant digits, in range."""
        if self.choices or isinstance(value, str):
            return value
        inside = min(max(value, self.low), self.high)
        if self.integer:
            return round(inside)
        rounded = _rounded(inside)
        unit = 10.0 ** (math.floor(math.log10(abs(rounded))) - _DIGITS + 1) if rounded else 0.0
        if rounded > self.high:
            return _rounded(rounded - unit)
        return _rounded(rounded + unit) if rounded < self.low else rounded

    def written(self, value: Value) -> str:
        """`value` as Python text in the manner of the text it replaces."""
        if isinstance(value, bool):
            return repr(value)
        if isinstance(value, str):
            text = repr(value)
            swap = self.text.startswith('"') and text.startswith("'") and '"' not in value
            return f'"{text[1:-1]}"' if swap else text
        if not self.integer and not self.choices:
            return repr(_rounded(value))
        if isinstance(value, float):
            return repr(value)
        if value >= 1024 and _is_power_of_two(value) and "**" in self.text:
            return f"2**{value.bit_length() - 1}"
        return f"{value:_}" if "_" in self.text else repr(value)


def parse(source: str, scale: str) -> dict[str, Constant]:
    """The tunable constants of the block as they hold at `scale`, by name.

    Raises `SwarmError` when there is no block, or it is not Python.
    """
    comments: dict[str, str] = {}
    constants: dict[str, Constant] = {}
    for assigned in assignments(source, scale):
        constants.pop(assigned.name, None)
        if not assigned.effective:
            continue
        if _RANGE.search(assigned.comment) or _CHOICES.search(assigned.comment):
            comments[assigned.name] = assigned.comment
        if constant := _constant(assigned, comments.get(assigned.name, "")):
            constants[assigned.name] = constant
    return constants


def edit(source: str, changes: Mapping[str, Value], scale: str) -> str:
    """`source` with the named constants changed where they take effect at `scale`.

    Every other character stays. Raises `KeyError` for a name that is no tunable constant.
    """
    constants = parse(source, scale)
    chosen = sorted((constants[name] for name in changes), key=lambda c: c.span, reverse=True)
    for constant in chosen:
        start, end = constant.span
        source = source[:start] + constant.written(changes[constant.name]) + source[end:]
    return source


def skeleton(source: str, scale: str) -> str:
    """A hash of what the program is apart from the values of its tunable constants.

    Results of two programs with one skeleton differ by constants alone, so one model fits both.
    Comments and layout do not count.
    """
    names = parse(source, scale).keys()
    spans = [a.span for a in assignments(source, scale) if a.name in names and a.span]
    for start, end in sorted(spans, reverse=True):
        source = f"{source[:start]}None{source[end:]}"
    return _structure(source)


@functools.lru_cache(maxsize=256)
def _structure(source: str) -> str:
    tree = syntax_tree(source.removeprefix("\ufeff"))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _constant(assigned: Assignment, comment: str) -> Constant | None:
    """The constant with the range its comment gives, or one that fits its value; or `None`."""
    value = assigned.value
    if value is None or assigned.span is None or "SEED" in assigned.name:
        return None  # a seed is no hyperparameter: choosing one selects noise
    make = functools.partial(Constant, assigned.name, value, assigned.text, assigned.span)
    if choices := _choices(comment, value):
        return make(choices=choices) if len(choices) > 1 else None
    if isinstance(value, str | bool):
        return None
    stated = _range(comment)
    if stated and stated[0] <= value <= stated[1]:
        low, high = stated
    elif stated and comment == assigned.comment:
        low, high = min(stated[0], value), max(stated[1], value)
    elif derived := _derived(value):
        low, high = derived
    else:
        return None
    integer = all(isinstance(each, int) for each in (value, low, high))
    log = low > 0 and (high / low >= _LOG_FROM or (not integer and not stated))
    powers = integer and all(_is_power_of_two(int(each)) for each in (value, low, high))
    if low == high:
        return None
    return make(low=low, high=high, log=log, integer=integer, powers_of_two=powers)


def _derived(value: float) -> tuple[float, float] | None:
    """Where to search when the comment does not say: a factor of 4, or half, to either side."""
    if value <= 0:
        return None
    if isinstance(value, float):
        return value / 4, min(value * 4, 1 - (1 - value) / 4) if value <= 1 else value * 4
    if _is_power_of_two(value):
        return max(1, value // 4), value * 4
    reach = max(1, value // 2)
    return max(1, value - reach), value + reach


def _range(comment: str) -> tuple[float, float] | None:
    found = _RANGE.search(comment)
    low, high = (evaluated(text) for text in found.groups()) if found else (None, None)
    if isinstance(low, str | None) or isinstance(high, str | None) or low > high:
        return None
    return low, high


def _choices(comment: str, value: Value) -> tuple[Value, ...]:
    """The choices in braces, the present value among them."""
    found = _CHOICES.search(comment)
    if not found:
        return ()
    texts = [text.strip() for text in found.group(1).split(",") if text.strip()]
    read = [text if (known := evaluated(text)) is None else known for text in texts]
    return tuple(dict.fromkeys([*(each for each in read if type(each) is type(value)), value]))


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
