"""What a train.py really does, as a hash: two sources with one fingerprint train alike."""

from __future__ import annotations

import ast
import hashlib
import operator
import warnings
from collections.abc import Callable
from typing import Any

from swarm.errors import Refused

_DIGITS = 20
_MAX_BITS = 4096
"""Integers are folded up to this size, so that no `9**9**9` is ever computed."""

# What the grammar records but no program can notice.
_IGNORED_FIELDS = frozenset({"kind", "type_comment", "type_ignores"})

Number = int | float


def fingerprint(source: str) -> str:
    """Hash a `train.py` without its comments, docstrings, formatting and ways to write a number.

    Nothing is executed. Raises `Refused` when the source does not compile.
    """
    tree = _parsed(source)
    try:
        text = _canonical(_Simplified().visit(tree))
    except RecursionError as error:
        raise _refused("it is nested too deeply") from error
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _parsed(source: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source.removeprefix("\ufeff"), "train.py")
            # Parsing does not see everything: `return` outside a function, say.
            compile(tree, "train.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        # A null byte is reported without its line.
        line = error.lineno or source.count("\n", 0, source.find("\0")) + 1
        raise _refused(f"line {line}: {error.msg}") from error
    except UnicodeEncodeError as error:
        line = source.count("\n", 0, error.start) + 1
        raise _refused(f"line {line}: it is not valid UTF-8") from error
    except ValueError as error:
        raise _refused(str(error)) from error
    except (RecursionError, MemoryError) as error:
        raise _refused("it is nested too deeply") from error
    return tree


def _refused(why: str) -> Refused:
    return Refused(f"train.py does not compile: {why}", "correct it and submit again")


class _Simplified(ast.NodeTransformer):
    """Rewrites a tree to the simplest one of the same meaning."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                kept = [statement for statement in statements if not _does_nothing(statement)]
                setattr(node, block, kept)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        operand = _number(node.operand)
        apply = _UNARY.get(type(node.op))
        if operand is None or apply is None:
            return node
        try:
            return ast.Constant(apply(operand))
        except TypeError:  # ~1.5
            return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        left, right = _number(node.left), _number(node.right)
        apply = _BINARY.get(type(node.op))
        if left is None or right is None or apply is None or _too_big(node.op, left, right):
            return node
        try:
            value = apply(left, right)
        except (ArithmeticError, TypeError, ValueError):  # 1 / 0, 1.5 << 2, 1 << -1
            return node
        return ast.Constant(value)


_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}


def _number(node: ast.expr) -> Number | None:
    """The value of a numeric literal. `True` is one where it is calculated with, as in Python."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) else None


def _too_big(op: ast.operator, left: Number, right: Number) -> bool:
    """Whether the result may have more than `_MAX_BITS`; floats overflow by themselves."""
    if not (isinstance(left, int) and isinstance(right, int)):
        return False
    if isinstance(op, ast.Pow):
        return right > _MAX_BITS or left.bit_length() * max(right, 0) > _MAX_BITS
    if isinstance(op, ast.LShift):
        return right > _MAX_BITS or left.bit_length() + right > _MAX_BITS
    return left.bit_length() + right.bit_length() > _MAX_BITS


def _does_nothing(statement: ast.AST) -> bool:
    """`pass`, and constants that stand alone: docstrings, and strings used as comments."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)


def _canonical(value: object) -> str:
    """Write a tree down, the same in every version of Python (`ast.dump` changes its form)."""
    if isinstance(value, ast.AST):
        fields = (
            f"{name}={_canonical(field)}"
            for name, field in ast.iter_fields(value)
            if name not in _IGNORED_FIELDS and field is not None and field != []
        )
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    if type(value) is int:
        return hex(value)  # decimal has a limit of digits
    return repr(value)
