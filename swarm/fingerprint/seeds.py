"""Random seeds in a program: to choose another one is to draw another lot, not to find anything."""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

from swarm.fingerprint.scopes import Scopes
from swarm.fingerprint.variables import Definition, Variable, last_name

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
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_LOOPS = ast.For | ast.AsyncFor | ast.While
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_AGAIN = _LOOPS | _COMPREHENSIONS | ast.Lambda  # what is in them may be executed again


def blind(module: ast.Module, scopes: Scopes) -> None:
    """Take the choice of random seeds out of `module`, in place.

    That is: constants given to seeding calls, calculations with `prepare.SEED` and constants, and
    the variables that are for nothing else. How often it is seeded, and by what that changes during
    a run, is no choice of a seed and stays.
    """
    blindfold = _Blindfold(module, scopes)
    blindfold.visit(module)
    dropped = Counter(scopes.of[node] for node in blindfold.dropped if node in scopes.of)
    reads = Counter(
        variable for node, variable in scopes.of.items() if isinstance(node.ctx, ast.Load)
    )
    shown = Counter(scopes.of[node] for node in blindfold.shown if node in scopes.of)
    _forget_values({
        variable
        for variable, count in dropped.items()
        if count + shown[variable] == reads[variable] and not variable.hard
    })  # fmt: skip


def _forget_values(seeds: set[Variable]) -> None:
    for definition in (each for variable in seeds for each in variable.definitions):
        node = definition.node
        alone = seeds.issuperset(definition.variables)  # SEED = DEPTH = 8 is a depth, too
        if isinstance(node, ast.Assign | ast.AnnAssign) and alone and not definition.gone:
            node.value = _seed()


def _seed() -> ast.expr:
    return ast.Constant(...)


class _Blindfold:
    def __init__(self, module: ast.Module, scopes: Scopes) -> None:
        self._scopes = scopes
        self._own = {
            node.name if isinstance(node, ast.ClassDef | ast.FunctionDef) else node.id
            for node in ast.walk(module)
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
            or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        }
        self._once = once(module, scopes)
        self._repeated = False
        self._constants: dict[Variable, bool] = {}
        self.dropped: set[ast.Name] = set()
        self.shown: set[ast.Name] = set()  # in f-strings: what is printed trains nothing

    def visit(self, node: ast.AST) -> ast.AST:
        """The node without seeds in it."""
        if isinstance(node, ast.expr) and self._is_seed(node):
            return self._dropped(node)
        if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
            self.shown.add(node.value)
        if isinstance(node, ast.Call):
            self._call(node)
        before = self._repeated
        if isinstance(node, _FUNCTIONS):
            self._repeated = node not in self._once
        self._repeated |= isinstance(node, _LOOPS)
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
        self._repeated = before
        return node

    def _only_seeds(self, statement: object) -> bool:
        """Whether it does nothing but choose a seed, once in a run."""
        match statement:
            case ast.Expr(ast.Call(function) as call) if last_name(function) in _SEEDING:
                given = _given_to(call)
                if not self._repeated and all(map(self._is_constant, given)):
                    for each in given:
                        self._dropped(each)
                    return True
        return False

    def _call(self, call: ast.Call) -> None:
        name = last_name(call.func)
        ours = isinstance(call.func, ast.Name) and name in self._own
        if name in _SEEDING or (name in _GENERATORS and not ours):
            given = _given_to(call)
            if all(map(self._is_constant, given)):
                for each in given:
                    self._dropped(each)
                call.args, call.keywords = [_seed()], []
            elif call.args:
                call.args[0] = self._without_constants(call.args[0])
        if name == "Loader" and not ours and len(call.args) > _LOADER_SEED:
            call.args[_LOADER_SEED] = self._without_constants(call.args[_LOADER_SEED])
        for keyword in call.keywords:
            if keyword.arg in _KEYWORDS:
                keyword.value = self._without_constants(keyword.value)

    def _without_constants(self, seed: ast.expr) -> ast.expr:
        """A seed less its constant, so that `step + 7` is `step`; what else it is made of stays."""
        if self._is_constant(seed):
            return self._dropped(seed)
        match seed:
            case ast.BinOp(left, ast.Add() | ast.Sub() | ast.BitXor(), right):
                for constant, rest in ((left, right), (right, left)):
                    if self._is_constant(constant):
                        self._dropped(constant)
                        return self._without_constants(rest)
                seed.left, seed.right = map(self._without_constants, (left, right))
            case ast.Call(ast.Name(name), [argument], []) if name in _CONVERSIONS:
                seed.args = [self._without_constants(argument)]
            case ast.List(elements) | ast.Tuple(elements):
                seed.elts = [self._without_constants(each) for each in elements]
        return seed

    def _dropped(self, node: ast.expr) -> ast.expr:
        self.dropped.update(each for each in ast.walk(node) if isinstance(each, ast.Name))
        return _seed()

    def _is_constant(self, node: ast.expr) -> bool:
        """Whether it is made of constants, the trial's seed, and variables of those alone."""
        match node:
            case ast.List(elements) | ast.Tuple(elements) | ast.JoinedStr(elements):
                return all(map(self._is_constant, elements))
            case ast.FormattedValue(value):
                return self._is_constant(value)
        return all(map(self._is_constant_leaf, _leaves(node)))

    def _is_constant_leaf(self, leaf: ast.expr) -> bool:
        if not isinstance(leaf, ast.Name):
            return isinstance(leaf, ast.Constant) or _is_given(leaf)
        variable = self._scopes.of.get(leaf)
        if variable is None:
            return False
        if variable not in self._constants:
            self._constants[variable] = False  # one that depends on itself
            self._constants[variable] = not variable.hard and all(
                map(self._is_constant_definition, variable.definitions)
            )
        return self._constants[variable]

    def _is_constant_definition(self, definition: Definition) -> bool:
        match definition.node:
            case ast.alias("SEED"):
                return True
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                return self._is_constant(value)
        return False

    def _is_seed(self, node: ast.expr) -> bool:
        """Whether it is the seed of the trial, or calculated from it and constants alone."""
        leaves = _leaves(node)
        return any(map(_is_given, leaves)) and all(
            _is_given(leaf) or isinstance(leaf, ast.Constant) for leaf in leaves
        )


def once(module: ast.Module, scopes: Scopes) -> set[ast.AST]:
    """The functions that are executed once in a run, such as `main`: called at one place only.

    That is in the module itself or in another such function, and not in a loop.
    """
    reads: dict[Variable, list[ast.Name]] = {}
    for name, variable in scopes.of.items():
        if isinstance(name.ctx, ast.Load):
            reads.setdefault(variable, []).append(name)
    callers: dict[ast.AST, ast.AST] = {}  # the name of what is called → the function around it

    def look(node: ast.AST, around: ast.AST) -> None:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            callers[node.func] = around
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, _AGAIN):
                look(child, child if isinstance(child, _FUNCTIONS) else around)

    look(module, module)
    found: set[ast.AST] = {module}
    waiting = [each for each in scopes.definitions if isinstance(each.node, ast.FunctionDef)]
    while True:
        new = {
            each.node
            for each in waiting
            if each.node not in found
            and len(each.variables) == 1
            and not each.variables[0].hard
            and len(each.variables[0].definitions) == 1
            and not getattr(each.node, "decorator_list", [])
            and len(calls := reads.get(each.variables[0], [])) == 1
            and callers.get(calls[0]) in found
        }
        if not new:
            return found
        found |= new


def _given_to(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


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
