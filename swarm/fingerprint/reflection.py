"""Programs that look at their own names or annotations: of those, nothing may be taken away."""

from __future__ import annotations

import ast
import builtins
import re
import sys

from swarm.fingerprint.scopes import Scopes
from swarm.fingerprint.variables import Annotation, Variable, last_name

CALLED_BY_OTHERS = frozenset({"build_model", "main", "train"})
"""What may be called from outside: weights are evaluated again by a process that imports it."""

_BUILTINS_THAT_SEE_NAMES = frozenset({
    "globals", "locals", "vars", "eval", "exec", "dir", "__import__", "breakpoint",
})  # fmt: skip
_SEES_NAMES = frozenset({
    "__dict__", "__globals__", "__code__", "__closure__", "__builtins__", "__file__", "__spec__",
    "__loader__", "__subclasses__", "f_globals", "f_locals", "f_back", "f_code", "_getframe",
    "get_objects", "get_referrers", "get_referents", "argv", "orig_argv", "currentframe",
    "getsource", "run_path", "run_module", "exec_module", "co_names", "co_varnames",
})  # fmt: skip
_MODULES_THAT_SEE_NAMES = frozenset({
    "train", "__main__", "inspect", "builtins", "runpy", "ast", "symtable", "code", "codeop", "pdb",
    "bdb", "timeit", "cProfile", "profile", "trace", "ctypes", "linecache", "tokenize", "dis",
})  # fmt: skip
_SEES_ANNOTATIONS = frozenset({
    "get_type_hints", "__annotations__", "get_annotations", "signature", "jit", "script", "triton",
    "tl", "library", "singledispatch", "singledispatchmethod", "custom_op", "__annotate__",
})  # fmt: skip
_MODULES_THAT_IGNORE_ANNOTATIONS = frozenset(
    {*sys.stdlib_module_names, "torch", "numpy", "prepare", "flash_attn_interface"}
)
_TRANSPARENT = frozenset({
    "property", "staticmethod", "classmethod", "setter", "cache", "lru_cache", "cached_property",
    "contextmanager", "no_grad", "inference_mode", "enable_grad", "override",
})  # fmt: skip
_BUILTINS = frozenset(dir(builtins))
_WORD = re.compile(r"\w+")


class Reflection:
    """What of a program may be read in ways that its names do not show."""

    def __init__(self, module: ast.Module, scopes: Scopes) -> None:
        self.text = {word for string in scopes.strings for word in _WORD.findall(string)}
        modules, words = scopes.imported, scopes.words | scopes.names
        self.sees_names = (
            scopes.odd
            or not scopes.names.isdisjoint(_BUILTINS_THAT_SEE_NAMES)
            or not (words | self.text).isdisjoint(_SEES_NAMES)
            or not modules.isdisjoint(_MODULES_THAT_SEE_NAMES)
        )
        self.sees_annotations = (
            self.sees_names
            or not (words | self.text).isdisjoint(_SEES_ANNOTATIONS)
            or not modules <= _MODULES_THAT_IGNORE_ANNOTATIONS
        )
        self._annotations_are_text = any(
            isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            and any(alias.name == "annotations" for alias in statement.names)
            for statement in module.body
        )  # fmt: skip

    def reads(self, variable: Variable) -> bool:
        """Whether somebody else may read it: by a string, from outside, or Python itself."""
        name = variable.name
        if variable.kind == "module" and (name in CALLED_BY_OTHERS or name in self.text):
            return True
        return name.startswith("_") and "__" in name  # also mangled: _Class__name

    def may_rename(self, variable: Variable) -> bool:
        """Whether no run could notice another name, used instead of this one everywhere."""
        if self.sees_names or variable.fixed or variable.kind == "class" or self.reads(variable):
            return False
        # Before it is assigned, a module's own `max` is the builtin.
        return variable.kind == "function" or variable.name not in _BUILTINS

    def ignores(self, annotation: Annotation) -> bool:
        """Whether no run could notice that this annotation is not there."""
        if self.sees_annotations:
            return False
        if annotation.function is None and annotation.kind == "function":
            return True  # of a local variable: never evaluated, kept nowhere
        decorators = annotation.function.decorator_list if annotation.function else []
        called = [d.func if isinstance(d, ast.Call) else d for d in decorators]
        return self._annotations_are_text and all(last_name(d) in _TRANSPARENT for d in called)
