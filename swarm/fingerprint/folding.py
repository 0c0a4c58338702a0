"""What can be seen without knowing any name: numbers, constant conditions, unreachable code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

_MAX_BITS = 4096
"""Integers are folded up to this size, so that no `9**9**9` is ever computed."""

Number = int | float
Node = TypeVar("Node", bound=ast.AST)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_JUMPS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_DECIDES_BY_PRESENCE = (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal)
"""What changes a function by being written in it, even where it is never executed."""


class Folding:
    """Rewrites a tree, in place, to a simpler one of the same meaning."""

    def __init__(self, keep_docstrings: bool = False) -> None:
        self._keep_docstrings = keep_docstrings
        self._scope: type[ast.AST] = ast.Module

    def visit(self, node: ast.AST) -> ast.AST:
        """The node with everything below it folded, or what it folds to."""
        kind = type(node)
        before = self._scope
        if kind in FUNCTIONS or kind is ast.ClassDef:
            self._scope = kind
        for field in kind._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    setattr(node, field, self._block(value, kind in _DOCUMENTED))
                elif value:
                    value[:] = [self.visit(v) if isinstance(v, ast.AST) else v for v in value]
            elif isinstance(value, ast.AST) and field != "ctx":
                if field == "format_spec":  # stays an f-string: the grammar wants one there
                    _children(self, value)
                else:
                    setattr(node, field, self.visit(value))
        self._scope = before
        rewrite = _REWRITES.get(kind)
        result: ast.AST = rewrite(node) if rewrite else node
        return result

    def _block(self, statements: list[ast.stmt], documented: bool) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for number, statement in enumerate(statements):
            if does_nothing(statement):
                if self._keep_docstrings and documented and number == 0:
                    found.append(statement)
                continue
            folded = self.visit(statement)
            assert isinstance(folded, ast.stmt)
            found += self._flat(folded)
        jump = next((i for i, s in enumerate(found) if isinstance(s, _JUMPS)), len(found))
        declared = self._declared(found[jump + 1 :])
        return found if declared is None else [*declared, *found[: jump + 1]]

    def _flat(self, statement: ast.stmt) -> list[ast.stmt]:
        """The statements that do what this one does: its one branch that can be taken, say."""
        match statement:
            case ast.If(ast.Constant(value), body, orelse):
                taken, never = (body, orelse) if value else (orelse, body)
            case ast.While(ast.Constant(value), body, orelse) if not value:
                taken, never = orelse, body
            case ast.Assert(ast.Constant(value), message) if value:
                taken, never = [], [ast.Expr(message)] if message else []
            case ast.If(test, [*_, last] as body, [_, *_] as orelse) if isinstance(last, _JUMPS):
                return [ast.If(test, body, []), *orelse]
            case _ if does_nothing(statement):
                return []
            case _:
                return [statement]
        declared = self._declared(never)
        return [statement] if declared is None else [*declared, *taken]

    def _declared(self, never: Sequence[ast.stmt]) -> list[ast.stmt] | None:
        """What remains of statements that are never executed: declarations of local names.

        `None` when they may not be removed. An assignment makes a name local wherever it stands;
        a class body that binds a name does not look for it in the functions around it.
        """
        if any(isinstance(node, _DECIDES_BY_PRESENCE) for node in in_scope(never)):
            return None
        names = {name for node in in_scope(never) for name in bound_names(node)}
        if self._scope is ast.ClassDef and names:
            return None
        return [declaration(name) for name in sorted(names)] if self._scope in FUNCTIONS else []


def declaration(name: str) -> ast.stmt:
    """`name: None`, which in a function makes the name local and does nothing else."""
    return ast.AnnAssign(ast.Name(name, ast.Store()), ast.Constant(None), None, 1)


def does_nothing(statement: ast.AST) -> bool:
    """`pass`, and constants that stand alone: docstrings, and strings used as comments."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)


def in_scope(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """The nodes and all below them that belong to the same scope as they do."""
    for node in nodes:
        yield node
        yield from in_scope(_same_scope(node))


def _same_scope(node: ast.AST) -> list[ast.AST]:
    match node:
        case ast.Lambda(args):
            return [*args.defaults, *filter(None, args.kw_defaults)]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            parts = [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]
            return [*parts, *ast.walk(node.args)]
        case ast.ClassDef():
            return [*node.decorator_list, *node.bases, *node.keywords]
        case ast.comprehension(_, iterable, conditions):
            return [iterable, *conditions]  # its target is a name of the comprehension alone
    return list(ast.iter_child_nodes(node))


def bound_names(node: ast.AST) -> Iterator[str]:
    """The names that this node by itself binds or deletes."""
    match node:
        case ast.Name(name, ast.Store() | ast.Del()):
            yield name
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name
        case ast.MatchStar(str(name)) | ast.MatchMapping(rest=str(name)):
            yield name
        case ast.alias(name, alias):
            yield alias or name.split(".")[0]


# ---- expressions ---------------------------------------------------------------------------


def _children(folding: Folding, node: ast.AST) -> None:
    for field, value in ast.iter_fields(node):
        if isinstance(value, list):
            setattr(node, field, [folding.visit(each) for each in value])


def unary(node: Any) -> Any:
    if isinstance(node.op, ast.Not):
        constant = isinstance(node.operand, ast.Constant)
        return ast.Constant(not node.operand.value) if constant else node
    operand = number(node.operand)
    if operand is None:
        return node
    try:
        return ast.Constant(UNARY[type(node.op)](operand))
    except TypeError:  # ~1.5
        return node


def _binary(node: Any) -> Any:
    match node:
        case ast.BinOp(ast.Constant(str(left)), ast.Add(), ast.Constant(str(right))):
            return ast.Constant(left + right)
    value = calculated(node.op, number(node.left), number(node.right))
    return node if value is None else ast.Constant(value)


def _compared(node: Any) -> Any:
    match node:
        case ast.Compare(left, [operation], [right]) if type(operation) in _COMPARISONS:
            one, other = number(left), number(right)
            if one is not None and other is not None:
                return ast.Constant(_COMPARISONS[type(operation)](one, other))
    return node


def _boolean(node: Any) -> Any:
    """`True and x` is `x`, `False and x` is `False`; what follows a constant only."""
    goes_on = isinstance(node.op, ast.And)
    values = node.values
    while len(values) > 1 and isinstance(values[0], ast.Constant):
        if bool(values[0].value) == goes_on:
            values = values[1:]
        elif all(map(_is_silent, values[1:])):
            values = values[:1]
        else:
            break
    return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)


def _chosen(node: Any) -> Any:
    match node:
        case ast.IfExp(ast.Constant(value), body, orelse):
            taken, never = (body, orelse) if value else (orelse, body)
            return taken if _is_silent(never) else node
    return node


def _is_silent(never: ast.expr) -> bool:
    """Whether an expression that is never evaluated leaves no trace on its function."""
    return not any(
        isinstance(node, (*_DECIDES_BY_PRESENCE, ast.NamedExpr)) for node in ast.walk(never)
    )


def _joined(node: Any) -> Any:
    """An f-string without placeholders is a string; neighbouring constants are one."""
    merged: list[ast.expr] = []
    for value in node.values:
        match merged[-1:], value:
            case [ast.Constant(str(before))], ast.Constant(str(text)):
                merged[-1] = ast.Constant(before + text)
            case _:
                merged.append(value)
    match merged:
        case []:
            return ast.Constant("")
        case [ast.Constant()]:
            return merged[0]
    return ast.JoinedStr(merged)


def _returned(node: Any) -> Any:
    match node:
        case ast.Return(ast.Constant(None)):
            return ast.Return(None)
    return node


def _defined(node: Any) -> Any:
    match node.body:
        case [*before, ast.Return(None)]:
            node.body = before
    return node


_REWRITES: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.UnaryOp: unary,
    ast.BinOp: _binary,
    ast.Compare: _compared,
    ast.BoolOp: _boolean,
    ast.IfExp: _chosen,
    ast.JoinedStr: _joined,
    ast.Return: _returned,
    ast.FunctionDef: _defined,
    ast.AsyncFunctionDef: _defined,
}


# ---- numbers -------------------------------------------------------------------------------

UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
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
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def number(node: ast.expr) -> Number | None:
    """The value of a numeric literal. `True` is one where it is calculated with, as in Python."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) else None


def calculated(op: ast.operator, left: Number | None, right: Number | None) -> Any:
    """The result of an operation on numbers; `None` where it fails or would be huge."""
    apply = _BINARY.get(type(op))
    if left is None or right is None or apply is None or _too_big(op, left, right):
        return None
    try:
        return apply(left, right)
    except (ArithmeticError, TypeError, ValueError):  # 1 / 0, 1.5 << 2, 1 << -1
        return None


def _too_big(op: ast.operator, left: Number, right: Number) -> bool:
    """Whether the result may have more than `_MAX_BITS`; floats overflow by themselves."""
    if not (isinstance(left, int) and isinstance(right, int)):
        return False
    if isinstance(op, ast.Pow):
        return right > _MAX_BITS or left.bit_length() * max(right, 0) > _MAX_BITS
    if isinstance(op, ast.LShift):
        return right > _MAX_BITS or left.bit_length() + right > _MAX_BITS
    return left.bit_length() + right.bit_length() > _MAX_BITS
