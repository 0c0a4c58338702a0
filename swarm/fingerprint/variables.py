"""Variables of a program, and the statements that do nothing but bind them."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["module", "function", "class"]
Block = list[Any]  # statements, in place
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(eq=False, slots=True)
class Variable:
    """A name of one scope. `hard`: bound by more than definitions; `fixed`: keeps its name."""

    name: str
    kind: Kind
    definitions: list[Definition] = field(default_factory=list)
    hard: bool = False
    fixed: bool = False
    needed: bool = False
    deleted: bool = False


@dataclass(eq=False, slots=True)
class Definition:
    """A statement (or one name of an import) that may do nothing but bind names.

    `block` is the list it stands in, `owner` the definition around it. `sure` are the names that
    are certainly bound when it is executed: of its own scope, and of the module.
    """

    node: ast.stmt | ast.alias
    block: Block
    owner: Definition | None
    kind: Kind
    statement: ast.stmt
    sure: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    variables: list[Variable] = field(default_factory=list)
    reads: list[Variable] = field(default_factory=list)
    inner: list[Definition] = field(default_factory=list)
    position: int = 0  # in its block
    live: bool = False
    gone: bool = False
    itself: bool = False  # x = x


@dataclass(eq=False, slots=True)
class Annotation:
    """An annotation outside of class bodies: of a statement in `block`, or of a function."""

    node: ast.AST
    name: str
    kind: Kind
    reads: Definition
    function: Function | None = None
    block: Block = field(default_factory=list)


class Scope:
    """A scope of the program. `outer` has its names that are declared `global` or `nonlocal`."""

    def __init__(self, kind: Kind, parent: Scope | None, comprehension: bool = False) -> None:
        self.kind, self.parent, self.comprehension = kind, parent, comprehension
        self.table: dict[str, Variable] = {}
        self.outer: dict[str, str] = {}

    def variable(self, name: str) -> Variable:
        if name not in self.table:
            self.table[name] = Variable(name, self.kind)
        return self.table[name]

    def found(self, name: str) -> list[Variable]:
        """The variable that `name` is here.

        In a class body that binds it, it may also be the module's: functions in between are then
        not looked at, but they are named, too, to be on the safe side.
        """
        found: list[Variable] = []
        bound_by_class = self.kind == "class" and name in self.table
        at: Scope | None = self
        while at is not None:
            if at.outer.get(name) == "global":
                while at.parent is not None:
                    at = at.parent
            if name in at.table and (at is self or at.kind != "class"):
                found.append(at.table[name])
                if not bound_by_class:
                    break
            at = at.parent
        return found


def last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`; empty when it is neither a name nor an attribute."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
    return ""


def parameters(arguments: ast.arguments) -> list[ast.arg]:
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*listed, *(each for each in (arguments.vararg, arguments.kwarg) if each)]


def is_plain(value: ast.AST | None) -> bool:
    """Whether it is made of constants, names and arithmetic only, so that it may be harmless."""
    match value:
        case ast.Constant() | ast.Name():
            return True
        case ast.Tuple(elements) | ast.List(elements):
            return all(map(is_literal, elements))
        case ast.Set(elements):
            return all(isinstance(each, ast.Constant) for each in elements)
        case ast.Dict(keys, values):
            return all(isinstance(k, ast.Constant) for k in keys) and all(map(is_literal, values))
        case ast.UnaryOp(_, operand):
            return is_plain(operand)
        case ast.BinOp(left, _, right):
            return is_plain(left) and is_plain(right)
    return False


def is_literal(value: ast.AST | None) -> bool:
    """Whether it is made of constants alone, so that evaluating it does nothing."""
    return is_plain(value) and not isinstance(value, ast.Name | ast.UnaryOp | ast.BinOp)
