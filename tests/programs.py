"""Random small programs, random edits of them, and what they print."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import random
import re

NAMES = ("A", "B", "C", "x", "y", "i", "f", "g", "max")
LITERALS = (
    "0",
    "1",
    "2",
    "True",
    "None",
    "0.5",
    "'A'",
    "'x y'",
    "-1",
    "2**3",
    "()",
    "(1, 2)",
    "[]",
)


_UNSTABLE = re.compile(r"0x[0-9a-f]+|(?<=name )'\w+'|(?<=variable )'\w+'")


class Writer:
    """Writes programs of assignments, arithmetic, functions, branches, loops and prints."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.functions = 0

    def program(self) -> str:
        head = ["from __future__ import annotations"] if self.rng.random() < 0.5 else []
        lines = self.block(self.rng.randint(3, 8), "")
        return "\n".join([*head, *lines, *(f"print({name})" for name in ("A", "B"))])

    def block(self, length: int, indent: str, *inside: str) -> list[str]:
        lines: list[str] = []
        for _ in range(length):
            lines += self.statement(indent, *inside)
        return lines or [f"{indent}pass"]

    def statement(self, indent: str, *inside: str) -> list[str]:
        if len(indent) > 8 or self.rng.random() < 0.6:
            return [indent + self.simple(*inside)]
        return self.compound(indent, *inside)

    def simple(self, *inside: str) -> str:
        name, other = self.name(), self.name()
        kinds = [
            f"{name} = {self.literal()}",
            f"{name} = {self.literal()}",
            f"{name} = {self.expression()}",
            f"{name} = {other} = {self.literal()}",
            f"{name} = {name}",
            f"{name}: {self.expression()} = {self.literal()}",
            f"{name}: int",
            f"{name} += 1",
            f"print({self.expression()})",
            f"print(f'{{{name}}} {{{other}=}}')",
            "pass",
            "'a comment'",
            f"del {name}",
            f"assert {self.literal()}, ({name} := 1)",
            f"import math as {name}",
            "import re",
            f"{name}, {other} = 1, {self.literal()}",
            f"({name} := {self.literal()})",
        ]
        if "function" in inside:
            kinds += [f"return {self.expression()}", "return", "yield 1"]
        if "loop" in inside:
            kinds += ["break", "continue"]
        return self.rng.choice(kinds)

    def compound(self, indent: str, *inside: str) -> list[str]:
        deeper = indent + "  "
        body = self.block(self.rng.randint(1, 3), deeper, *inside)
        other = self.block(1, deeper, *inside)
        name = self.name()
        match self.rng.randrange(9):
            case 0 | 1:
                test = self.rng.choice(["0", "1", "False", "not 0", "2 > 1", self.expression()])
                return [f"{indent}if {test}:", *body, f"{indent}else:", *other]
            case 2:
                loop = self.block(2, deeper, *inside, "loop")
                return [f"{indent}for {name} in range(2):", *loop, f"{indent}else:", *other]
            case 3:
                return [f"{indent}while 0:", *body, f"{indent}else:", *other]
            case 4:
                return [
                    f"{indent}try:", *body, f"{indent}except Exception as {name}:", *other,
                ]  # fmt: skip
            case 5:
                return [f"{indent}class {name}:", *self.block(2, deeper)]
        return self.function(indent)

    def function(self, indent: str) -> list[str]:
        self.functions += 1
        deeper = indent + "  "
        name, parameter = self.rng.choice(("f", "g")), self.name()
        head = [f"{indent}def {name}({parameter}={self.literal()}):"]
        declared = self.name()
        if self.rng.random() < 0.3 and declared != parameter:
            head.append(f"{deeper}global {declared}")
        body = self.block(self.rng.randint(1, 4), deeper, "function")
        return [*head, *body, f"{indent}print({name}())"]

    def expression(self) -> str:
        name, other = self.name(), self.name()
        return self.rng.choice([
            name, other, self.literal(), f"{name} + {other}", f"{name} * 2", f"-{name}",
            f"[{name} for {name} in ({other}, 1)]", f"{self.literal()} if {name} else {other}",
            f"(lambda {name}: {other})(3)", f"{name}(1)", f"1 and {name}", f"0 or {name}",
            f"(lambda: {name})()", "1 / 0", "2 * 3", f"{name} == 1", f"not {name}",
            f"[{name} := 3, {other}]", f"0 and ({name} := 4)", "f'a' 'b'", f"(0 if 1 else {name})",
        ])  # fmt: skip

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def literal(self) -> str:
        return self.rng.choice(LITERALS)


def edited(source: str, rng: random.Random) -> str:
    """The program with one or two random edits, most of which change what it does."""
    tree = ast.parse(source)
    for _ in range(rng.randint(1, 2)):
        nodes = list(ast.walk(tree))
        blocks = [
            block
            for node in nodes
            for field in ("body", "orelse")
            if isinstance(block := getattr(node, field, None), list) and block
        ]
        block = rng.choice(blocks)
        place = rng.randrange(len(block))
        match rng.randrange(6):
            case 0:
                del block[place]
            case 1:
                block.insert(place, copy.deepcopy(rng.choice(rng.choice(blocks) or block)))
            case 2:
                block.insert(place, ast.parse(Writer(rng).simple()).body[0])
            case 3:
                old, new = rng.choice(NAMES), rng.choice((*NAMES, "new"))
                for node in nodes:
                    if isinstance(node, ast.Name) and node.id == old:
                        node.id = new
            case 4:
                names = [node for node in nodes if isinstance(node, ast.Name)]
                rng.choice(names).id = rng.choice(NAMES)
            case 5:
                at = rng.randrange(len(block))
                block[place], block[at] = block[at], block[place]
    return ast.unparse(tree)


def compiles(source: str) -> bool:
    try:
        compile(source, "program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def output(source: str) -> tuple[str, str]:
    """What a program prints and the error that ends it, but for addresses and names in errors."""
    out = io.StringIO()
    error = ""
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(source, "program", "exec", dont_inherit=True), {"__name__": "__main__"})
        except Exception as raised:
            error = type(raised).__name__
    return _UNSTABLE.sub("", out.getvalue()), error
