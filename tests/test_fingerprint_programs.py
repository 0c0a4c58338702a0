"""The fingerprint against programs that are run: what counts as the same, does the same."""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.assignments import assignments
from swarm.fingerprint import fingerprint
from swarm.fingerprint.definitions import without_dead
from swarm.fingerprint.folding import Folding

TRAIN = (Path(__file__).parent.parent / "train.py").read_text()
MODULES = ("bisect", "copy", "heapq", "uuid")  # which train.py does not mention
CHANCE = st.integers(0, 2**32).map(random.Random)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # the random programs assert tuples and call numbers
        warnings.simplefilter("ignore", SyntaxWarning)
        yield


def a_program(chance: random.Random) -> str:
    while not programs.compiles(source := programs.Writer(chance).program()):
        pass
    return source


def rewritten(source: str) -> str:
    """The program as the fingerprint sees it, runnable."""
    tree = ast.parse(source)
    Folding().visit(tree)
    scopes, reflection = without_dead(tree)
    names: dict[object, str] = {}
    for node, variable in scopes.of.items():
        if reflection.may_rename(variable):
            node.id = names.setdefault(variable, f"v{len(names)}_")
    for each in ast.walk(tree):
        if getattr(each, "body", None) == [] and each is not tree:
            each.body = [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(ast.fix_missing_locations(tree))


@settings(deadline=None)
@given(CHANCE)
def test_a_program_prints_the_same_after_it_was_rewritten(chance: random.Random) -> None:
    source = a_program(chance)
    assert programs.output(rewritten(source)) == programs.output(source)


@settings(deadline=None)
@given(CHANCE)
def test_rewriting_comes_to_rest(chance: random.Random) -> None:
    """Mostly at once; what only dead code mentioned may go in the next round."""
    source = a_program(chance)
    for _ in range(4):
        source = rewritten(source)
    assert fingerprint(rewritten(source)) == fingerprint(source)


@settings(deadline=None)
@given(CHANCE)
def test_what_has_one_fingerprint_prints_the_same(chance: random.Random) -> None:
    source = a_program(chance)
    mark, printed = fingerprint(source), programs.output(source)
    for _ in range(4):
        other = programs.edited(source, chance)
        if programs.compiles(other) and fingerprint(other) == mark:
            assert programs.output(other) == printed


def disguised(source: str, chance: random.Random) -> str:
    """The source as it might come from someone who wants to seem to have changed it."""
    lines = source.split("\n")
    places = [
        number
        for number, line in enumerate(lines)
        if re.match(r"[A-Z_]+ = |def |class ", line) and not lines[number - 1].startswith("@")
    ]
    for number in sorted(chance.sample(places, 8), reverse=True):
        dead = f"UNUSED_{number}"
        added = [
            f"{dead} = {chance.random()}",
            f"{dead} = 3\n{dead}_TOO = {dead} * 2",
            f"def {dead}(x, y=1):\n    return x + SOFTCAP * y",
            f"class {dead}(nn.Module):\n    def forward(self, x):\n        return x",
            f"import {chance.choice(MODULES)}",
            f"if False:\n    {dead} = compute()",
            f"# {dead}",
            "",
        ]
        lines.insert(number, chance.choice(added))
    text = "\n".join(lines)
    for old, new in chance.sample(RENAMED, 4):
        text = re.sub(rf"\b{old}\b", new, text)
    return re.sub(r"= (\d+)(?=  #)", lambda found: f"= {spelt(int(found[1]), chance)}", text)


# Names that are variables wherever they stand in train.py, and no strings.
RENAMED = [
    ("QUERY_SCALE", "SHARPNESS"),
    ("MUON_BETA2", "MUON_SECOND"),
    ("POLAR_EXPRESS", "COEFFICIENTS"),
    ("LOST_LOSS", "HOPELESS"),
    ("lookahead", "ahead"),
    ("gram", "squared"),
    ("by_shape", "groups"),
    ("loss_mean", "smooth"),
]


def spelt(value: int, chance: random.Random) -> str:
    ways = [hex(value), f"{value:_}", f"({value})", f"-(-{value})", f"{value} * 1", f"+{value}"]
    return chance.choice(ways)


@settings(deadline=None, max_examples=8)
@given(CHANCE)
def test_the_real_trainer_in_disguise_is_the_real_trainer(chance: random.Random) -> None:
    text = disguised(TRAIN, chance)
    assert text != TRAIN
    assert fingerprint(text) == fingerprint(TRAIN)


def test_every_hyperparameter_of_the_real_trainer_counts() -> None:
    real = fingerprint(TRAIN)
    found = [a for scale in ("full", "small") for a in assignments(TRAIN, scale) if a.effective]
    assert len(found) > 40
    for assigned in random.Random().sample(found, 15):  # others each time: all of them take long
        assert assigned.span is not None
        start, end = assigned.span
        value = assigned.value
        other = f"{value}S" if isinstance(value, str) else value + 1 if value is not None else None
        assert fingerprint(f"{TRAIN[:start]}{other!r}{TRAIN[end:]}") != real, assigned.name


def test_almost_every_number_of_the_real_trainer_counts() -> None:
    """All that are no hyperparameters: in the model, the optimizer, the schedule, the loop."""
    real = fingerprint(TRAIN)
    tree = ast.parse(TRAIN)
    numbers = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    ]
    assert len(numbers) > 150
    for node in random.Random(0).sample(numbers, 15):
        value = node.value
        node.value = value + 1
        assert fingerprint(ast.unparse(tree)) != real, f"{value} in line {node.lineno}"
        node.value = value
