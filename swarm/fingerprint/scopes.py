"""Which variable every name of a program is: Python's scopes, with what binds and what reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from swarm.fingerprint.variables import (
    Annotation,
    Block,
    Definition,
    Function,
    Kind,
    Scope,
    Variable,
    is_plain,
    last_name,
    parameters,
)


class Scopes:
    """The names of a module. `of` says which variable a name node is, unless it is a builtin."""

    def __init__(self, module: ast.Module) -> None:
        self.of: dict[ast.Name, Variable] = {}
        self.definitions: list[Definition] = []
        self.annotations: list[Annotation] = []
        self.declarations: list[tuple[ast.stmt, Block, Variable]] = []
        self.names: set[str] = set()
        self.words: set[str] = set()  # attributes, and what is imported
        self.strings: list[str] = []
        self.imported: set[str] = set()
        self.odd = False
        self.module = self._scope = Scope("module", None)
        self._owner: Definition | None = None
        self._position = 0
        self._bound: set[str] = set()
        self._module_bound: frozenset[str] = frozenset()
        self._reads: list[tuple[ast.Name, Scope, Definition | None]] = []
        self._nonlocal: list[tuple[str, ast.Name | None, Scope]] = []
        self._block(module.body)
        self._resolve()

    @property
    def variables(self) -> Iterator[Variable]:
        """Those of the module and all others that a name stands for."""
        yield from dict.fromkeys([*self.module.table.values(), *self.of.values()])

    def _resolve(self) -> None:
        for name, node, scope in self._nonlocal:
            for variable in scope.found(name):
                variable.hard = variable.fixed = variable.needed = variable.deleted = True
                if node:
                    self.of[node] = variable
        for node, scope, owner in self._reads:
            found = scope.found(node.id)
            for variable in found:
                if owner is None:
                    variable.needed = True
                else:
                    owner.reads.append(variable)
                # In a class body a name may be the class's at one time and outer at another.
                variable.fixed |= len(found) > 1
                self.of[node] = found[0]

    def _bind(
        self,
        name: str,
        node: ast.Name | None = None,
        definition: Definition | None = None,
        fixed: bool = False,
        deleted: bool = False,
    ) -> None:
        where = self._scope.outer.get(name)
        if where == "nonlocal":
            self._nonlocal.append((name, node, self._scope))
            return
        variable = (self.module if where else self._scope).variable(name)
        variable.fixed |= fixed or bool(where)
        variable.deleted |= deleted
        if node is not None:
            self.of[node] = variable
        if definition is None:
            variable.hard = True
        else:
            definition.variables.append(variable)
            variable.definitions.append(definition)

    def _name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.names.add(node.id)
            self._reads.append((node, self._scope, self._owner))
            return
        self._bind(node.id, node, deleted=isinstance(node.ctx, ast.Del))

    def _visit(self, node: ast.AST) -> None:
        handler = _HANDLERS.get(type(node))
        if handler:
            handler(self, node)
        else:
            self._children(node)

    def _children(self, node: ast.AST) -> None:
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    self._block(value)
                else:
                    self._all(value)
            elif isinstance(value, ast.AST) and name != "ctx":
                self._visit(value)

    def _all(self, nodes: Sequence[Any]) -> None:
        for node in nodes:
            if isinstance(node, ast.AST):
                self._visit(node)

    # ---- statements ------------------------------------------------------------------------

    def _block(self, statements: list[ast.stmt]) -> None:
        before = self._bound
        self._bound = set(before)
        for self._position, statement in enumerate(statements):
            self._statement(statement, statements)
        self._bound = before

    def _statement(self, statement: ast.stmt, block: Block) -> None:
        match statement:
            case ast.Assign(targets, value) if self._scope.kind != "class":
                self._assign(statement, targets, value, block)
            case ast.AnnAssign(target, annotation, value) if self._scope.kind != "class":
                self._annotation(statement, "annotation", annotation, block=block)
                if value is not None:
                    self._assign(statement, [target], value, block)
                elif not isinstance(target, ast.Name):
                    self._visit(target)
                elif self._scope.kind == "function":
                    self._declaration(target, statement, block)
            case ast.AnnAssign(annotation=annotation):  # dataclasses look names in it up
                named = (node for node in ast.walk(annotation) if isinstance(node, ast.Name))
                self.strings.extend(node.id for node in named)
                self._children(statement)
            case ast.Import(names) | ast.ImportFrom(names=names):
                self._import(statement, names, block)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(statement, block)
            case ast.ClassDef():
                self._class(statement, block)
            case _:
                self._visit(statement)

    def _declaration(self, target: ast.Name, statement: ast.stmt, block: Block) -> None:
        if target.id in self._scope.outer:  # ours: what was never executed used a global name
            variable = Variable(target.id, "function")
        else:
            variable = self._scope.variable(target.id)
        self.of[target] = variable
        self.declarations.append((statement, block, variable))

    def _definition(
        self, node: ast.stmt | ast.alias, block: Block, statement: ast.stmt
    ) -> Definition:
        found = Definition(node, block, self._owner, self._scope.kind, statement)
        found.position = self._position
        self.definitions.append(found)
        if self._owner:
            self._owner.inner.append(found)
        return found

    def _assign(
        self, statement: ast.stmt, targets: list[ast.expr], value: ast.expr, block: Block
    ) -> None:
        names = [target for target in targets if isinstance(target, ast.Name)]
        if len(names) < len(targets) or not is_plain(value):
            self._visit(value)
            self._all(targets)
        else:
            definition = self._definition(statement, block, statement)
            outer, self._owner = self._owner, definition
            self._visit(value)
            self._owner = outer
            used = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
            definition.sure = (frozenset(used & self._bound), frozenset(used & self._module_bound))
            definition.itself = (
                isinstance(value, ast.Name) and len(names) == 1 and value.id == names[0].id
            )
            for target in names:
                self._bind(target.id, target, definition)
        self._bound.update(target.id for target in names)

    def _import(self, statement: ast.stmt, names: list[ast.alias], block: Block) -> None:
        module = getattr(statement, "module", None)
        for alias in names:
            self.imported.add((module or alias.name).split(".")[0])
            self.words.update((alias.name, *(module or "").split(".")))
            if alias.name == "*":
                self.odd = True
                continue
            self.odd |= (module, alias.name) == ("sys", "modules")
            name = alias.asname or alias.name.split(".")[0]
            removable = self._scope.kind != "class"
            definition = self._definition(alias, block, statement) if removable else None
            self._bind(name, None, definition, fixed=True)
            self._bound.add(name)

    # ---- scopes ----------------------------------------------------------------------------

    def _annotation(self, node: ast.AST, name: str, annotation: ast.expr | None, **of: Any) -> None:
        if annotation is None:
            return
        reads = Definition(ast.Pass(), [], self._owner, self._scope.kind, ast.Pass())
        outer, self._owner = self._owner, reads
        self._visit(annotation)
        self._owner = outer
        self.annotations.append(Annotation(node, name, self._scope.kind, reads, **of))

    def _function(self, node: Function, block: Block) -> None:
        definition = self._of_module(node, block)
        outer = self._owner
        self._all(node.decorator_list)
        self._bind(node.name, None, definition, fixed=True)
        self._bound.add(node.name)
        self._owner = definition or outer
        for argument in parameters(node.args):
            self._annotation(argument, "annotation", argument.annotation, function=node)
        self._annotation(node, "returns", node.returns, function=node)
        self._callable(node)
        self._owner = outer

    def _of_module(self, node: Any, block: Block) -> Definition | None:
        """The definition of a function or class, if it is the module's."""
        self.odd |= bool(getattr(node, "type_params", None))
        return self._definition(node, block, node) if self._scope.kind == "module" else None

    def _callable(self, node: Any) -> None:
        """The defaults, then the body with its parameters in a scope of its own."""
        self._all([*node.args.defaults, *node.args.kw_defaults])
        names = {argument.arg for argument in parameters(node.args)}
        with self._in("function", names):
            for name in names:
                self._bind(name, fixed=True)
            if isinstance(node.body, list):
                self._block(node.body)
            else:
                self._visit(node.body)

    @contextmanager
    def _in(self, kind: Kind, bound: set[str], comprehension: bool = False) -> Iterator[None]:
        before = self._scope, self._bound, self._module_bound
        if self._scope.kind == "module":
            self._module_bound = frozenset(self._bound)
        self._scope, self._bound = Scope(kind, self._scope, comprehension), bound
        yield
        self._scope, self._bound, self._module_bound = before

    def _comprehension(self, node: Any) -> None:
        first = node.generators[0]
        self._visit(first.iter)
        with self._in("function", self._bound, comprehension=True):
            for generator in node.generators:
                self._visit(generator.target)
                self._all([generator.iter] if generator is not first else [])
                self._all(generator.ifs)
            self._all([getattr(node, name, None) for name in ("key", "value", "elt")])

    def _class(self, node: ast.ClassDef, block: Block) -> None:
        definition = self._of_module(node, block)
        outer = self._owner
        self._owner = definition or outer
        self._all([*node.decorator_list, *node.bases, *node.keywords])
        self._bind(node.name, None, definition, fixed=True)
        with self._in("class", set()):
            self._block(node.body)
        self._bound.add(node.name)
        self._owner = outer

    def _walrus(self, node: ast.NamedExpr) -> None:
        self._visit(node.value)
        inner = self._scope
        while self._scope.comprehension and self._scope.parent:
            self._scope = self._scope.parent
        self._visit(node.target)
        self._scope = inner

    def _augmented(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._reads.append((node.target, self._scope, self._owner))
        self._visit(node.target)
        self._visit(node.value)

    def _global(self, node: ast.Global) -> None:
        for name in node.names:
            if self._scope.kind != "module":
                self._scope.outer[name] = "global"
            self.module.variable(name).fixed = True

    def _outer(self, node: ast.Nonlocal) -> None:
        self._scope.outer.update(dict.fromkeys(node.names, "nonlocal"))

    def _captured(self, node: Any) -> None:
        """`except … as name` and the captures of `match`, whose names are no nodes."""
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self._bind(name, fixed=True, deleted=True)
        self._children(node)

    def _attribute(self, node: ast.Attribute) -> None:
        self.words.add(node.attr)
        self.odd |= node.attr == "modules" and ast.unparse(node.value) == "sys"
        self._visit(node.value)

    def _call(self, node: ast.Call) -> None:
        """`import_module("torch._dynamo")` is an import; with a computed name it may be any."""
        if last_name(node.func) == "import_module":
            match node:
                case ast.Call(args=[ast.Constant(str(name))], keywords=[]):
                    self.imported.add(name.split(".")[0])
                case _:
                    self.odd = True
        self._children(node)

    def _constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.strings.append(node.value)


_HANDLERS: dict[type[ast.AST], Any] = {
    **dict.fromkeys(
        (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp), Scopes._comprehension
    ),
    **dict.fromkeys(
        (ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping), Scopes._captured
    ),
    ast.Name: Scopes._name,
    ast.Attribute: Scopes._attribute,
    ast.Call: Scopes._call,
    ast.Constant: Scopes._constant,
    ast.Lambda: Scopes._callable,
    ast.NamedExpr: Scopes._walrus,
    ast.AugAssign: Scopes._augmented,
    ast.Global: Scopes._global,
    ast.Nonlocal: Scopes._outer,
}
