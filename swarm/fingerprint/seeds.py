"""Random seeds in a program: to choose another one is to draw another lot, not to find anything."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable
from typing import Any

from swarm.fingerprint.scopes import Scopes
from swarm.fingerprint.variables import Variable, last_name

# Calls, by the last part of their name, all of whose arguments choose random numbers.
_SEEDING = frozenset({
    "manual_seed", "manual_seed_all", "seed", "seed_all", "set_seed", "seed_everything",
})  # fmt: skip
_GENERATORS = frozenset({
    "Random", "default_rng", "RandomState", "SeedSequence", "PCG64", "MT19937", "Philox", "PRNGKey",
})  # fmt: skip
_KEYWORDS = frozenset({"seed", "random_seed", "random_state", "rng_seed"})
_LOADER_SEED = 3  # the position of the seed in prepare.Loader(dataset, rows, device, seed)
_CONVERSIONS = frozenset({"int", "float", "abs", "hash", "round", "str"})
_VARIABLE = "SWARM_SEED"


def blind(module: ast.Module, scopes: Scopes) -> None:
    """Take the choice of random seeds out of `module`, in place.

    That is: what seeding calls are given, calculations with `prepare.SEED` and constants, and the
    variables that are for nothing else.
    """
    blindfold = _Blindfold(scopes)
    blindfold.visit(module)
    dropped = Counter(scopes.of[node] for node in blindfold.dropped if node in scopes.of)
    reads = Counter(
        variable for node, variable in scopes.of.items() if isinstance(node.ctx, ast.Load)
    )
    shown = Counter(scopes.of[node] for node in blindfold.shown if node in scopes.of)
    for variable, count in dropped.items():
        if count + shown[variable] == reads[variable] and not variable.hard:
            _forget_value(variable)


def _forget_value(variable: Variable) -> None:
    for definition in variable.definitions:
        node = definition.node
        if isinstance(node, ast.Assign | ast.AnnAssign) and not definition.gone:
            node.value = _seed()


def _seed() -> ast.expr:
    return ast.Constant(...)


class _Blindfold:
    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes
        self.dropped: set[ast.Name] = set()
        self.shown: set[ast.Name] = set()  # in f-strings: what is printed trains nothing

    def visit(self, node: ast.AST) -> ast.AST:
        """The node without seeds in it."""
        if isinstance(node, ast.expr) and self._is_seed(node):
            self._drop([node])
            return _seed()
        if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
            self.shown.add(node.value)
        if isinstance(node, ast.Call):
            self._call(node)
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                value[:] = [
                    self.visit(each) if isinstance(each, ast.AST) else each
                    for each in value
                    if not self._only_seeds(each)
                ]
            elif isinstance(value, ast.AST) and name != "ctx":
                setattr(node, name, self.visit(value))
        return node

    def _only_seeds(self, statement: object) -> bool:
        match statement:
            case ast.Expr(ast.Call(function) as call) if last_name(function) in _SEEDING:
                self._drop([call])
                return True
        return False

    def _call(self, call: ast.Call) -> None:
        name = last_name(call.func)
        if name in _SEEDING or name in _GENERATORS:
            self._drop([*call.args, *call.keywords])
            call.args, call.keywords = [_seed()], []
            return
        if name == "Loader" and len(call.args) > _LOADER_SEED:
            self._drop([call.args[_LOADER_SEED]])
            call.args[_LOADER_SEED] = _seed()
        for keyword in call.keywords:
            if keyword.arg in _KEYWORDS:
                self._drop([keyword.value])
                keyword.value = _seed()

    def _drop(self, nodes: Iterable[ast.AST]) -> None:
        inside = (each for node in nodes for each in ast.walk(node))
        self.dropped.update(each for each in inside if isinstance(each, ast.Name))

    def _is_seed(self, node: ast.expr) -> bool:
        """Whether it is the seed of the trial, or calculated from it and constants alone."""
        leaves = _leaves(node)
        return any(map(_is_given, leaves)) and all(
            _is_given(leaf) or isinstance(leaf, ast.Constant) for leaf in leaves
        )


def _leaves(node: ast.expr) -> list[ast.expr]:
    """What an arithmetic expression is calculated from."""
    match node:
        case ast.BinOp(left, _, right):
            return [*_leaves(left), *_leaves(right)]
        case ast.UnaryOp(_, operand):
            return _leaves(operand)
        case ast.Call(ast.Name(name), [argument], []) if name in _CONVERSIONS:
            return _leaves(argument)
    return [node]


def _is_given(leaf: Any) -> bool:
    """`prepare.SEED`, or the environment variable it comes from."""
    match leaf:
        case ast.Attribute(ast.Name("prepare"), "SEED"):
            return True
        case ast.Subscript(_, ast.Constant(name)) | ast.Call(args=[ast.Constant(name), *_]):
            return bool(name == _VARIABLE)
    return False
