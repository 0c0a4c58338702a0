"""The assignments in the hyperparameter block of `train.py`, with the characters they fill."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from swarm.errors import SwarmError

Value = int | float | str | bool
State = Literal["live", "skipped", "unknown"]

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_RULE = re.compile(r"#\s*[-=─═]{4,}")
_COMMENT = re.compile(r"[\s)]*#(.*)")
_LARGEST = 2.0**53

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Assignment:
    """An assignment to `name`; `effective` is false where it is skipped or unpredictable.

    `value` is `None` where it is no literal, `span` (characters of the file) where the statement
    is more than one name and one value. `comment` is what follows on the line.
    """

    name: str
    value: Value | None
    text: str
    span: tuple[int, int] | None
    comment: str
    effective: bool


def assignments(source: str, scale: str) -> Iterator[Assignment]:
    """Every assignment in the block, in the order of the file; the last effective one holds.

    An assignment that is skipped at `scale` is yielded before, never after, one that holds.
    """
    lines = _LINE.findall(source)
    first, last = _block(lines)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    tree = syntax_tree("".join(lines[first:last]), first)
    skipped: list[Assignment] = []
    live: list[Assignment] = []
    for statement, state in _flat(tree.body, scale):
        for assigned in _assigned(statement, state, lines[first:], starts[first:]):
            (skipped if state == "skipped" else live).append(assigned)
    yield from skipped
    yield from live


def _block(lines: Sequence[str]) -> tuple[int, int]:
    """Index of the first line of the block, and of the banner behind it."""
    for number, line in enumerate(lines):
        around = lines[max(0, number - 1) : number + 2]
        banner = any(_RULE.match(each) for each in around)
        if line.startswith("#") and "hyperparameters" in line.lower() and banner:
            break
    else:
        raise SwarmError(
            "train.py has no hyperparameter block",
            "start it with a banner comment: # ----- Hyperparameters -----",
        )
    first = number + 1
    while first < len(lines) and lines[first].startswith("#"):
        first += 1
    rules = (at for at in range(first, len(lines)) if _RULE.match(lines[at]))
    return first, next(rules, len(lines))


def syntax_tree(text: str, lines_before: int = 0) -> ast.Module:
    """Parse part of `train.py`; a `SwarmError` names the line of the file."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = (getattr(error, "lineno", None) or 1) + lines_before
        raise SwarmError(f"train.py, line {line}: {error}", "it does not compile") from error


def _flat(
    body: Sequence[ast.stmt], scale: str, state: State = "live"
) -> Iterator[tuple[ast.stmt, State]]:
    """The statements of `body` and of its `if`s, and whether they are executed at `scale`."""
    for statement in body:
        if not isinstance(statement, ast.If):
            yield statement, state
            continue
        holds = _holds(statement.test, scale)
        for branch, taken in ((statement.body, holds), (statement.orelse, holds is False)):
            inner: State = "unknown" if holds is None else "live" if taken else "skipped"
            yield from _flat(branch, scale, inner if state == "live" else state)


def _holds(test: ast.expr, scale: str) -> bool | None:
    """Whether `SCALE == "…"` holds; `None` for any other condition."""
    match test:
        case ast.Compare(ast.Name("SCALE"), [ast.Eq()], [ast.Constant(str(wanted))]):
            return wanted == scale
    return None


def _assigned(
    statement: ast.stmt, state: State, lines: Sequence[str], starts: Sequence[int]
) -> Iterator[Assignment]:
    match statement:
        case ast.Assign([ast.Name(name)], node) | ast.AnnAssign(
            ast.Name(name), _, ast.expr() as node
        ):
            begin, end = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            head = len(lines[begin].encode()[: node.col_offset].decode())
            tail = len(lines[end].encode()[: node.end_col_offset].decode())
            comment = _COMMENT.match(lines[end], tail)
            span = (starts[begin] + head, starts[end] + tail)
            text = "".join(lines[begin : end + 1])[head : span[1] - starts[begin]]
            note = comment.group(1) if comment else ""
            yield Assignment(name, literal(node), text, span, note, state == "live")
        case _:
            for inner in ast.walk(statement):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield Assignment(inner.id, None, "", None, "", False)


# ---- literals ------------------------------------------------------------------------------


def evaluated(text: str) -> Value | None:
    """The value that `text` writes as a literal expression, or `None`."""
    try:
        return literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return None


def literal(node: ast.expr) -> Value | None:
    """The value of a literal expression such as `2**17` or `-0.5`; `None` for any other."""
    match node:
        case ast.Constant(str() | bool() as plain):
            return plain
        case ast.Constant(int() | float() as number):
            return number if abs(number) <= _LARGEST else None
        case ast.UnaryOp(ast.USub(), operand):
            inner = literal(operand)
            return None if inner is None or isinstance(inner, str | bool) else -inner
        case ast.BinOp(left, operation, right) if type(operation) in _OPERATORS:
            return _combined(literal(left), _OPERATORS[type(operation)], literal(right))
    return None


def _combined(
    left: Value | None, operation: Callable[[float, float], float], right: Value | None
) -> Value | None:
    if isinstance(left, str | bool | None) or isinstance(right, str | bool | None):
        return None
    if operation is operator.pow and (abs(right) > 64 or left <= 0):
        return None  # an edited file must not make us compute 9**9**9
    try:
        result = operation(left, right)
    except ArithmeticError:
        return None
    return result if abs(result) <= _LARGEST else None
