"""Definitions that nothing reads are taken out of a program, and annotations nobody looks at."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable
from typing import Any

from swarm.fingerprint.folding import Number, calculated, number, unary
from swarm.fingerprint.reflection import Reflection
from swarm.fingerprint.scopes import Scopes
from swarm.fingerprint.variables import Definition, Variable, is_literal, parameters

_LOOK_AHEAD = 100
"""So many statements are searched for the one that overwrites a constant."""

_MAX_ROUNDS = 4

_MAX_VALUES = 16
"""A variable with more possible values than these is not followed further."""

# Importing these does nothing but bind a name, and they always have these names.
_QUIET_MODULES = frozenset({
    "abc", "argparse", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "gc", "glob", "hashlib", "heapq", "io",
    "itertools", "json", "logging", "math", "operator", "os", "pathlib", "pprint", "random", "re",
    "shutil", "statistics", "string", "struct", "sys", "tempfile", "textwrap", "threading", "time",
    "types", "typing", "uuid", "warnings",
})  # fmt: skip
_QUIET_NAMES = {
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"},
    "collections.abc": {"Callable", "Iterable", "Iterator", "Mapping", "Sequence"},
    "contextlib": {"contextmanager", "nullcontext", "suppress"},
    "dataclasses": {"asdict", "dataclass", "field", "replace"},
    "functools": {"cache", "lru_cache", "partial", "reduce", "wraps"},
    "itertools": {"chain", "count", "cycle", "islice", "product", "repeat"},
    "math": {"ceil", "cos", "exp", "floor", "inf", "log", "log2", "pi", "sin", "sqrt"},
    "pathlib": {"Path"},
    "time": {"monotonic", "perf_counter", "sleep", "time"},
    "typing": {"Any", "Callable", "ClassVar", "Dict", "Final", "Iterator", "List", "Literal",
               "NamedTuple", "Optional", "Protocol", "Tuple", "TypeVar", "Union"},
}  # fmt: skip
_PLAIN_BASES = {"", "object", "nn.Module", "torch.nn.Module"}


def without_dead(module: ast.Module) -> tuple[Scopes, Reflection]:
    """Take out of `module`, in place, what no run could miss; return its names.

    Everything stays where a program looks at its own names: it might read any of them.
    """
    for _ in range(_MAX_ROUNDS):  # what is gone may have hidden more, though seldom
        scopes = Scopes(module)
        reflection = Reflection(module, scopes)
        sweep = _Sweep(scopes, reflection)
        sweep.annotations()
        if not reflection.sees_names:
            sweep.to_themselves()
            sweep.overwritten()
            sweep.unread()
            sweep.declarations()
        sweep.finish()
        if not sweep.found:
            break
    return scopes, reflection


class _Sweep:
    def __init__(self, scopes: Scopes, reflection: Reflection) -> None:
        self.scopes, self.reflection = scopes, reflection
        self._blocks: dict[int, list[Any]] = {}
        self._replaced: dict[int, ast.stmt | None] = {}
        self.found = False
        self._values: dict[Variable, list[Number] | None] = {}

    def _take(self, definition: Definition) -> None:
        definition.gone = True
        self._remove(definition)

    def _remove(self, definition: Definition) -> None:
        if isinstance(definition.node, ast.alias):  # a name less, which nothing else depends on
            statement: Any = definition.statement
            statement.names = [a for a in statement.names if a is not definition.node]
            if statement.names:
                return
        else:
            self.found = True
        self._replace(definition.statement, definition.block, None)

    def _replace(self, statement: ast.stmt, block: list[Any], by: ast.stmt | None) -> None:
        self._blocks[id(block)] = block
        self._replaced[id(statement)] = by

    def finish(self) -> None:
        for block in self._blocks.values():
            changed = (self._replaced.get(id(each), each) for each in block)
            block[:] = [each for each in changed if each is not None]

    # ---- annotations -----------------------------------------------------------------------

    def annotations(self) -> None:
        """Drop the annotations that are ignored; what the others name, keeps its name."""
        for annotation in self.scopes.annotations:
            node = annotation.node
            if not self.reflection.ignores(annotation):
                for variable in annotation.reads.reads:
                    variable.needed = variable.fixed = True
            elif not isinstance(node, ast.AnnAssign):
                setattr(node, annotation.name, None)
            elif node.value:
                plain = ast.Assign([node.target], node.value, None, lineno=node.lineno)
                self._replace(node, annotation.block, plain)
            else:
                node.annotation = ast.Constant(None)

    # ---- assignments -----------------------------------------------------------------------

    def to_themselves(self) -> None:
        """Remove `x = x` where x is bound."""
        for definition in self.scopes.definitions:
            variables = definition.reads
            if definition.itself and all(self._is_sure(definition, v) for v in variables):
                for variable in definition.variables:
                    variable.definitions.remove(definition)
                self._take(definition)

    def overwritten(self) -> None:
        """Remove `A = 1` before `A = 2` where only constants are assigned in between."""
        for variable in self.scopes.variables:
            if len(variable.definitions) > 1 and self._is_constant(variable):
                kept = [d for d in variable.definitions if not self._is_overwritten(d, variable)]
                for definition in set(variable.definitions) - set(kept):
                    self._take(definition)
                variable.definitions = kept

    def _is_constant(self, variable: Variable) -> bool:
        """Whether literals are all that is ever assigned to it, with nothing else on the left."""
        return not variable.hard and all(
            len(definition.variables) == 1
            and is_literal(_value(definition))
            and not self._is_annotated(definition)
            for definition in variable.definitions
        )

    def _is_overwritten(self, definition: Definition, variable: Variable) -> bool:
        start = definition.position + 1
        for statement in definition.block[start : start + _LOOK_AHEAD]:
            if not (isinstance(statement, ast.Assign) and is_literal(statement.value)):
                return False
            targets = [each for each in statement.targets if isinstance(each, ast.Name)]
            if len(targets) < len(statement.targets):
                return False
            if any(self.scopes.of.get(target) is variable for target in targets):
                return True
        return False

    def unread(self) -> None:
        """Remove the definitions that nothing needs, directly or through others."""
        there = [definition for definition in self.scopes.definitions if not definition.gone]
        harmful = {definition for definition in there if not self._is_harmless(definition)}
        waiting = [definition for definition in harmful if definition.owner is None]
        for variable in self.scopes.variables:
            if variable.hard or variable.needed or self.reflection.reads(variable):
                waiting += variable.definitions
        while waiting:
            definition = waiting.pop()
            if not definition.live:
                definition.live = True
                for variable in definition.reads:
                    variable.needed = True
                    waiting += variable.definitions
                waiting += (inner for inner in definition.inner if inner in harmful)
        for definition in there:
            if not definition.live:
                self._remove(definition)

    def _is_harmless(self, definition: Definition) -> bool:
        """Whether it does nothing, and cannot fail, besides binding its names."""
        match definition.node:
            case ast.alias(name):
                return _is_quiet(definition.statement, name)
            case ast.FunctionDef() | ast.AsyncFunctionDef() as function:
                return _is_plain_function(function)
            case ast.ClassDef() as found:
                return _is_plain_class(found)
        value = _value(definition)
        return not self._is_annotated(definition) and (
            is_literal(value) or self._numbers(value, definition) is not None
        )

    def _is_annotated(self, definition: Definition) -> bool:
        """Whether an annotation is evaluated with it."""
        annotated = isinstance(definition.node, ast.AnnAssign)
        return (
            annotated and definition.kind == "module" and id(definition.node) not in self._replaced
        )

    def _is_sure(self, definition: Definition, variable: Variable) -> bool:
        """Whether the variable is bound for certain when the definition is executed."""
        if variable.deleted:
            return False
        here, module = definition.sure
        if variable.kind == definition.kind:
            return variable.name in here
        return variable.kind == "module" and variable.name in module

    # ---- values ----------------------------------------------------------------------------

    def _numbers(self, value: ast.AST | None, definition: Definition) -> list[Number] | None:
        """Every number that the expression may be; `None` unless that is certain."""
        match value:
            case ast.Constant():
                found = number(value)
                return None if found is None else [found]
            case ast.Name():
                variable = self.scopes.of.get(value)
                if variable is None or not self._is_sure(definition, variable):
                    return None
                return self._values_of(variable)
            case ast.UnaryOp(operation, operand) if not isinstance(operation, ast.Not):
                known = self._numbers(operand, definition)
                return known and _all_numbers(
                    unary(ast.UnaryOp(operation, ast.Constant(each))) for each in known
                )
            case ast.BinOp(left, operation, right):
                one, other = self._numbers(left, definition), self._numbers(right, definition)
                return (one and other) and _all_numbers(
                    ast.Constant(calculated(operation, *pair))
                    for pair in itertools.product(one, other)
                )
        return None

    def _values_of(self, variable: Variable) -> list[Number] | None:
        if variable not in self._values:
            self._values[variable] = None  # a variable that depends on itself
            found: list[Number] | None = None if variable.hard else []
            for definition in variable.definitions:
                values = self._numbers(_value(definition), definition)
                found = None if found is None or values is None else [*found, *values]
            self._values[variable] = found if found and len(found) <= _MAX_VALUES else None
        return self._values[variable]

    # ---- declarations ----------------------------------------------------------------------

    def declarations(self) -> None:
        """Drop `x: None` where x is never read, or something else makes it local, too."""
        seen: set[Variable] = set()
        for statement, block, variable in self.scopes.declarations:
            bound = variable.hard or any(definition.live for definition in variable.definitions)
            if bound or not variable.needed or variable in seen:
                self._replace(statement, block, None)
            seen.add(variable)


def _all_numbers(results: Iterable[ast.AST]) -> list[Number] | None:
    numbers = [number(each) if isinstance(each, ast.expr) else None for each in results]
    known = [each for each in numbers if each is not None]
    return known if len(known) == len(numbers) <= _MAX_VALUES else None


def _value(definition: Definition) -> ast.expr | None:
    node = definition.node
    return node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None


def _is_quiet(statement: ast.stmt, name: str) -> bool:
    match statement:
        case ast.Import():
            return name.split(".")[0] in _QUIET_MODULES and "." not in name
        case ast.ImportFrom(module=str(module), level=0):
            return name in _QUIET_NAMES.get(module, ())
    return False


def _is_plain_function(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = function.args
    defaults = [*arguments.defaults, *(each for each in arguments.kw_defaults if each)]
    annotated = function.returns or any(each.annotation for each in parameters(arguments))
    return not function.decorator_list and not annotated and all(map(is_literal, defaults))


def _is_plain_class(found: ast.ClassDef) -> bool:
    """A class of nothing but methods and constants, on a base that does not mind."""
    if found.decorator_list or found.keywords or len(found.bases) > 1:
        return False
    if not {ast.unparse(base) for base in found.bases} <= _PLAIN_BASES:
        return False
    return all(_is_plain_member(statement) for statement in found.body)


def _is_plain_member(statement: ast.stmt) -> bool:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            special = name in ("__init_subclass__", "__set_name__", "__class_getitem__")
            return _is_plain_function(statement) and not special
        case ast.Assign([ast.Name(name)], value):
            return is_literal(value) and not name.startswith("__")
    return isinstance(statement, ast.Pass)
