"""What a train.py really does, as a hash: two sources with one fingerprint train alike.

`folding` simplifies what needs no names, `scopes` finds out which variable each name is,
`definitions` takes out what nothing reads, and `seeds` what only chooses the random numbers.
Where any of them is not sure, the sources differ.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from swarm.errors import Refused
from swarm.fingerprint import first, seeds
from swarm.fingerprint.definitions import without_dead
from swarm.fingerprint.folding import Folding
from swarm.fingerprint.reflection import Reflection
from swarm.fingerprint.scopes import Scopes
from swarm.fingerprint.variables import Variable

_DIGITS = 24
"""Version 0.1 wrote 20: the two are never taken for each other."""

# What the grammar records but no program can notice.
_IGNORED_FIELDS = frozenset({"kind", "type_comment", "type_ignores", "ctx", "simple"})


@dataclass(frozen=True)
class Prints:
    """The `fingerprint` of a source, and the one that is blind to its random seeds, too."""

    fingerprint: str
    seedless: str


def fingerprint(source: str) -> str:
    """Hash a `train.py` by what it does, not by how it is written.

    Comments, formatting, spelling of constants, names of variables, annotations, and what is never
    read or executed do not count. Nothing is executed. Raises `Refused` when the source does not
    compile.
    """
    return _hashed(source, lambda tree: _text(tree, *without_dead(tree)))


def prints(source: str) -> Prints:
    """Both hashes of a `train.py`; raises `Refused` when it does not compile."""
    blind = ""

    def write(tree: ast.Module) -> str:
        nonlocal blind
        names = without_dead(tree)
        text = _text(tree, *names)
        seeds.blind(tree, names[0])
        blind = _digest(_text(tree, *without_dead(tree)))
        return text

    return Prints(_hashed(source, write), blind)


def first_fingerprint(source: str) -> str:
    """The hash that version 0.1 wrote into journals: blind to comments and spellings alone."""
    return _hashed(source, first.written, fold=False)[: first.DIGITS]


def _hashed(source: str, write: Callable[[ast.Module], str], fold: bool = True) -> str:
    tree = _parsed(source)
    try:
        if fold:
            Folding(keep_docstrings="__doc__" in source).visit(tree)
        return _digest(write(tree))
    except RecursionError as error:
        raise _refused("it is nested too deeply") from error


def _digest(text: str) -> str:
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


def _text(tree: ast.Module, scopes: Scopes, reflection: Reflection) -> str:
    """Write a tree down, the same in every version of Python (`ast.dump` changes its form).

    Variables that may have any name are numbered in the order in which they occur.
    """
    parts: list[str] = []
    numbers: dict[Variable, str] = {}

    def write(value: object) -> None:
        if isinstance(value, ast.Name):
            parts.append(f"Name({named(value)})")
        elif isinstance(value, ast.AST):
            parts.append(f"{type(value).__name__}(")
            for name in value._fields:
                if name in _IGNORED_FIELDS:
                    continue
                field = getattr(value, name, None)
                if field is not None and field != []:
                    parts.append(f"{name}=")
                    write(field)
            parts.append(")")
        elif isinstance(value, list):
            parts.append("[")
            for each in value:
                write(each)
            parts.append("]")
        else:
            # Decimal has a limit of digits.
            parts.append(f"{hex(value) if type(value) is int else repr(value)},")

    def named(node: ast.Name) -> str:
        variable = scopes.of.get(node)
        if variable is None:
            return node.id
        if variable not in numbers:
            free = reflection.may_rename(variable)
            numbers[variable] = f"%{len(numbers)}" if free else variable.name
        return numbers[variable]

    write(tree)
    return "".join(parts)
