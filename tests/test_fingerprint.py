"""The fingerprint: blind to how a train.py is written, sharp for what it does."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import Refused
from swarm.fingerprint import fingerprint

TRAIN = '''"""A trainer."""

import torch  # the library

TOTAL_BATCH_SIZE = 2**19  # tokens
LR = 0.04
BETAS = (0.8, 0.95)
PATTERN = "SSSL"
USE_BIAS = False
SHIFT = -1


class Model(torch.nn.Module):
    """The model."""

    def forward(self, x, scale=1.25):
        """Return logits."""
        if USE_BIAS:
            x = x + 1
        else:
            pass
        return 15 * torch.tanh(x / 15.0) * scale


def lr_at(progress):
    "a docstring"
    return LR * (1 - progress) if progress > 0.5 else LR


for step in range(10):
    print(f"step {step:05d} {lr_at(step / 10):.3f}", TOTAL_BATCH_SIZE, BETAS, PATTERN, SHIFT, Model)
'''
FUTURE = "from __future__ import annotations"
# A class body that binds a name finds it in the module, not in the function around it.
IN_A_CLASS = "i = 1\ndef f(p):\n  i = p\n  class C:\n    i = i\n    b(i)"
READ = "\nuse(a, b, f, x, A)"
# Not the widths in format specifications: there is only one way to write those.
SITES = list(re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", TRAIN))
SPELLINGS: list[Callable[[float], str]] = [
    repr,
    lambda value: f"({value!r})",
    lambda value: f"-(-{value!r})",
    lambda value: f"(+{value!r})",
    lambda value: f"({value!r} * 1)",
    lambda value: f"({value!r} + 0)",
    lambda value: f"{value!r}e0" if isinstance(value, float) else hex(value),
]


def replaced(site: re.Match[str], text: str) -> str:
    return TRAIN[: site.start()] + text + TRAIN[site.end() :]


def test_it_is_some_hexadecimal_digits() -> None:
    assert re.fullmatch("[0-9a-f]{16,}", fingerprint(TRAIN))
    assert fingerprint(TRAIN) == fingerprint(TRAIN)
    assert fingerprint("") != fingerprint(TRAIN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 2**17", "x = 131072"),
        ("x = 1 << 17", "x = 0x2_0000"),
        ("x = 0.10", "x = .1"),
        ("x = 1e-3", "x = 0.001"),
        ("x = 1 / 1000", "x = 0.001"),
        ("x = -(-3)", "x = 3"),
        ("x = -True", "x = -1"),
        ("x = 7 // 2 + 7 % 4 - ~5 ^ 1 & 3 | 8 >> 1", "x = 13"),
        ("x = (1 - 0.25) * 4", "x = 3.0"),
        ("x = 64 * 12", "x=768;"),
        ("f(a, b)", "f(  a,\n   b,\n)  # call"),
        ("x = 'a' 'b'", 'x = "ab"'),
        ("x = u'a'", "x = 'a'"),
        ("def f():\n  'doc'\n  return 1", "def f(): return 1"),
        ("def f():\n  'doc'", "def f(): ..."),
        ("class A: 'doc'", "class A:\n\n    pass"),
        ("if a:\n  b()\nelse:\n  pass", "if a: b()"),
        ("a = 1\n'a comment'\nb = 2", "a = 1\nb = 2\n"),
        ("\ufeffa = 1\r\nb = 2\r\n", "a = 1\nb = 2"),
        ("a = (\\\n1)", "a = 1"),
        # What nothing reads
        ("UNUSED = 3", ""),
        ("DEAD = 1\nALSO = DEAD * 2 - DEAD", ""),
        (f"{FUTURE}\nDEAD: int = 1", FUTURE),
        ("d = e = (1, [2], {'k': None})", ""),
        ("def unused(x, y=2): return unused(x)", ""),
        ("def one(): two()\ndef two(): one()", ""),
        ("class Unused:\n  k = 1\n  def m(self): return K\nK = 2", ""),
        ("import math, os", ""),
        ("from math import sqrt", ""),
        ("x = 1\nx = 2", "x = 2"),
        ("x = 1\ny = 4\nx = 2", "x = 2"),
        ("x = 1\nx = x", "x = 1"),
        ("def f():\n  d = 1\n  e = d + d\n  return 2", "def f(): return 2"),
        ("def f():\n  d: int = 1\n  return 2", "def f(): return 2"),
        # What is never executed
        ("if False: a()\nelse: b()", "b()"),
        ("if 0:\n  a()\nelif 1 < 2:\n  b()\nelse:\n  c()", "b()"),
        ("while 0: a()", ""),
        ("assert True, a()", ""),
        ("def f():\n  return b\n  b()\n  d = 1", "def f(): return b"),
        ("def f():\n  if a: return 1\n  else: return 2", "def f():\n  if a: return 1\n  return 2"),
        ("for x in a:\n  continue\n  b()", "for x in a: continue"),
        ("def f():\n  b()\n  return None", "def f(): b()"),
        ("x = a if 1 else b", "x = a"),
        ("x = not 0 and a", "x = a"),
        ("x = f'a' 'b'", "x = 'ab'"),
        ("x = 'a' + 'b'", "x = 'ab'"),
        # Names that may be any
        ("def f(p):\n  y = p + 1\n  return y", "def f(p):\n  z = p + 1\n  return z"),
        ("def f(): return [i for i in a]", "def f(): return [j for j in a]"),
        ("LR = f()\ndef g(): return LR\ng()", "RATE = f()\ndef g(): return RATE\ng()"),
        ("def f(p):\n  y: int = p\n  return y", "def f(p):\n  y = p\n  return y"),
        (f"{FUTURE}\ndef f(p: int) -> str: return p", f"{FUTURE}\ndef f(p): return p"),
    ],
)
def test_what_does_the_same_is_the_same(one: str, other: str) -> None:
    assert fingerprint(one + READ) == fingerprint(other + READ)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 3", "x = -3"),
        ("x = 3", "x = 3.0"),
        ("x = 0.0", "x = -0.0"),
        ("x = 1", "x = True"),
        ("x = None", "x = ()"),
        ("x = 1", "x = '0x1'"),
        ("x = True", "x = 'True'"),
        ("x = 'a'", "x = b'a'"),
        ("f(None)", "f()"),
        ("f(a=1)", "f(b=1)"),
        ("f(*a)", "f(a)"),
        ("a - b - c", "a - (b - c)"),
        ("x = a", "x += a"),
        ("x: int = 1", "x: int"),
        ("def f(a, /): ...", "def f(a): ..."),
        ("def f(a=1, b=2): ...", "def f(a, b=2): ..."),
        ("a = 1\nb = 2", "b = 2\na = 1"),
        ("if a: b()\nc()", "if a:\n  b()\n  c()"),
        ("f'{a}'", "f'{a!r}'"),
        ("f'{a:3}'", "f'{a:4}'"),
        ("x = 'docstring'", "'docstring'"),
        ("import a", "import a as b"),
        ("x = 1 / 0", "x = 2 / 0"),
        ("x = 9**9**9", "x = 9**9**8"),
        ("x[1:]", "x[:1]"),
        # What may be read after all
        ("K = 1\nglobals()['K']", "K = 2\nglobals()['K']"),
        ("K = 1\nprint(eval('K'))", "K = 2\nprint(eval('K'))"),
        ("K = 1\nimport train\ntrain.K", "K = 2\nimport train\ntrain.K"),
        ("K = 1\nimport sys\nsys.modules[n]", "K = 2\nimport sys\nsys.modules[n]"),
        ("K = 1\nm = import_module(x)", "K = 2\nm = import_module(x)"),
        ("K = 1\ngetattr(m, 'K')", "K = 2\ngetattr(m, 'K')"),
        ("__all__ = 1", "__all__ = 2"),
        ("def build_model(): return 1", "def build_model(): return 2"),
        ("class A(Base): pass", ""),
        ("@register\ndef unused(): pass", ""),
        ("def unused(x=f()): pass", ""),
        ("import numpy", ""),
        ("from math import no_such_name", ""),
        (IN_A_CLASS, IN_A_CLASS.replace("i = 1", "i = 2")),
        # What may fail, or end the life of something
        ("DEAD = 1 / 0", ""),
        ("DEAD = undefined", ""),
        ("DEAD = 10**400 * 1.0", ""),
        ("d = f()\nd = None", "d = f()"),
        ("x = x", ""),
        ("x = 1\nif b: x = 2", "x = 3\nif b: x = 2"),
        ("if b: x = 1\nelse: x = 2", "if b: x = 3\nelse: x = 2"),
        ("x = 1\nf()\nx = 2", "x = 2\nf()\nx = 2"),
        ("DEAD: g() = 1", ""),
        # What decides by being there
        ("def f():\n  return 1\n  yield 2", "def f(): return 1"),
        ("def f():\n  a()\n  if 0: a = 1", "def f(): a()"),
        ("def f():\n  class C:\n    if 0: x = 1\n    b(x)", "def f():\n  class C: b(x)"),
        # Names that are not any
        ("def f(p): return p", "def f(q): return q"),
        ("def f(p, q): return p", "def f(p, q): return q"),
        ("import a, b\nx = a", "import a, b\nx = b"),
        ("x = max(a)\nmax = 1", "x = low(a)\nlow = 1"),
        ("def f():\n  y = 1\n  return locals()", "def f():\n  z = 1\n  return locals()"),
        ("class C:\n  y: int = 1\nb(C)", "class C:\n  z: int = 1\nb(C)"),
        ("class C:\n  y: int\nb(C)", "class C:\n  y: str\nb(C)"),
        ("def f(p: int): return p", "def f(p): return p"),
        (f"{FUTURE}\n@jit.script\ndef f(p: int): a(p)", f"{FUTURE}\n@jit.script\ndef f(p): a(p)"),
        (f"{FUTURE}\nimport triton\ndef f(p: b): a(p)", f"{FUTURE}\nimport triton\ndef f(p): a(p)"),
        ("f.__doc__\ndef f(): 'doc'", "f.__doc__\ndef f(): ..."),
    ],
)
def test_what_does_another_thing_differs(one: str, other: str) -> None:
    assert fingerprint(one + READ) != fingerprint(other + READ)


@given(site=st.sampled_from(SITES), spell=st.sampled_from(SPELLINGS))
def test_any_spelling_of_a_constant_keeps_it(
    site: re.Match[str], spell: Callable[[float], str]
) -> None:
    text = f"({spell(ast.literal_eval(site.group()))})"
    assert fingerprint(replaced(site, text)) == fingerprint(TRAIN)


@given(site=st.sampled_from(SITES), value=st.one_of(st.integers(0, 10**9), st.floats(0, 1e9)))
def test_any_change_of_a_constant_alters_it(site: re.Match[str], value: float) -> None:
    old = ast.literal_eval(site.group())
    same = type(old) is type(value) and repr(old) == repr(value)
    assert (fingerprint(replaced(site, repr(value))) == fingerprint(TRAIN)) == same


@given(
    comment=st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20),
    blank=st.integers(0, 3),
    data=st.data(),
)
def test_comments_and_blank_lines_keep_it(comment: str, blank: int, data: st.DataObject) -> None:
    lines = TRAIN.splitlines()
    where = data.draw(st.integers(0, len(lines) - 1))
    lines[where] += f"{' ' * blank}  # {comment}" + "\n" * blank
    assert fingerprint("\n".join(lines)) == fingerprint(TRAIN)


def test_formatting_keeps_it() -> None:
    assert fingerprint(ast.unparse(ast.parse(TRAIN))) == fingerprint(TRAIN)
    assert fingerprint(TRAIN.replace("    ", "\t")) == fingerprint(TRAIN)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_any_text_is_hashed_or_refused(source: str) -> None:
    try:
        assert fingerprint(source)
    except Refused as error:
        assert str(error).startswith("train.py does not compile: ")
        assert error.hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1\nb = (", "line 2: '(' was never closed"),
        ("a = 1\n  b = 2", "line 2: unexpected indent"),
        ("return 1", "line 1: 'return' outside function"),
        ("a = 1\nb = '\0'", "line 2: source code string cannot contain null bytes"),
        ("a = 1\nb = '\ud800'", "line 2: it is not valid UTF-8"),
        ("(" * 300 + ")" * 300, "line 1: too many nested parentheses"),
        ("-" * 20000 + "1", "it is nested too deeply"),
        ("+".join("1" * 20000), "it is nested too deeply"),
        ("+".join("a" * 700), "it is nested too deeply"),
    ],
)
def test_what_does_not_compile_is_refused_with_its_line(source: str, message: str) -> None:
    with pytest.raises(Refused) as error:
        fingerprint(source)
    assert str(error.value) == f"train.py does not compile: {message}"


def test_nothing_is_executed(tmp_path: Path) -> None:
    fingerprint(f"open({str(tmp_path / 'made')!r}, 'w')")
    assert list(tmp_path.iterdir()) == []


def test_giant_numbers_are_not_computed() -> None:
    for giant in ("9**9**9", "1 << 10**12", "10**4000 * 10**4000 * 10**4000", "2.0**99999"):
        assert fingerprint(f"use({giant})") != fingerprint("use(1)")
    assert fingerprint(f"use(0x{'f' * 9000})") != fingerprint("use(1)")
