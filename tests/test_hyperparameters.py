"""The hyperparameter block: what is read and searched, and that an edit touches no more."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import SwarmError
from swarm.hyperparameters import edit, parse, skeleton

HEAD = '"""A trainer."""\nimport os\n\nDEPTH = 3  # before the block [1, 9]\n'
RULE = "# " + "-" * 60 + "\n"


def program(block: str) -> str:
    tail = "# ----- Model -----\nWIDTH = 64  # behind the block [32, 128]\n"
    return HEAD + "# ----- Hyperparameters -----\n" + block + tail


def only(block: str, scale: str = "full"):  # type: ignore[no-untyped-def]
    (constant,) = parse(program(block), scale).values()
    return constant


def test_a_stated_range_is_searched_in_the_logarithm_when_wide() -> None:
    wide = only("LR = 4e-2  # learning rate [0.004, 0.4]\n")
    assert (wide.value, wide.low, wide.high, wide.log) == (0.04, 0.004, 0.4, True)
    assert not only("BETA = 0.9  # decay [0.5, 0.99]\n").log
    assert not only("DECAY = 0.0  # decay [0.0, 1.0]\n").log


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A = 0.1", (0.025, 0.4)),
        ("A = 0.5", (0.125, 0.875)),  # what is below 1 stays below it
        ("A = 15.0", (3.75, 60.0)),
        ("A = 2**17", (2**15, 2**19)),
        ("A = 1", (1, 4)),
        ("A = 9", (5, 13)),
        ("A = 3", (2, 4)),
        ("A = 64  # above what is stated [8, 32]", (8, 64)),
    ],
)
def test_a_range_is_derived_where_none_fits(line: str, expected: tuple[float, float]) -> None:
    constant = only(line + "\n")
    assert (constant.low, constant.high) == expected


def test_powers_of_two_and_integers_and_choices() -> None:
    assert only("BATCH = 2**19  # tokens [2**15, 2**20]\n").powers_of_two
    assert not only("DEPTH = 8  # blocks [4, 14]\n").powers_of_two
    assert only("DEPTH = 8  # blocks [4, 14]\n").integer
    assert not only("WARMUP = 0  # share [0.0, 0.5]\n").integer
    pattern = only('PATTERN = "SSSL"  # spans {SSSL, "SL", L}\n')
    assert pattern.choices == ("SSSL", "SL", "L")
    assert only("HEAD = 128  # channels {32, 64}\n").choices == (32, 64, 128)
    assert only("NORM = True  # {True, False}\n").choices == (True, False)


@pytest.mark.parametrize(
    "line",
    [
        "BETAS = (0.8, 0.95)  # [0, 1]",
        'NAME = "SSSL"  # no choices',
        "ON = True",
        "OFFSET = -0.5",
        "NOTHING = 0.0",
        "WIDTH = DEPTH * 64  # [1, 9]",
        "SEED = 42  # choosing a seed selects noise [0, 99]",
        "HUGE = 9**9**9**9",
        "A = B = 3  # two names [1, 9]",
        "for A in (1, 2):\n    B = 3",
        "A = 3  # [1, 9]\nif os.name:\n    A = 4  # nobody knows which holds [1, 9]",
        "A = 3  # [1, 9]\nA += 1",
        "A = 3  # not to be tuned [3, 3]",
    ],
)
def test_what_cannot_be_tuned_is_left_alone(line: str) -> None:
    assert parse(program(line + "\n"), "full") == {}


def test_negative_values_can_be_tuned_when_a_range_says_how() -> None:
    assert only("OFFSET = -0.5  # [-1.0, 1.0]\n").value == -0.5


SCALED = """LR = 0.1  # learning rate [0.01, 1.0]
DEPTH = 8  # blocks [2, 24]
BATCH = 2**19  # tokens [2**15, 2**20]
if SCALE == "small":
    DEPTH = 3  # blocks at the small scale
    BATCH = 2**12
elif SCALE == "tiny":
    DEPTH = 1
"""


def test_the_assignment_that_holds_at_a_scale_is_read_and_edited() -> None:
    source = program(SCALED)
    assert {n: c.value for n, c in parse(source, "full").items()} == {
        "LR": 0.1, "DEPTH": 8, "BATCH": 2**19,
    }  # fmt: skip
    small = parse(source, "small")
    assert (small["DEPTH"].value, small["DEPTH"].high) == (3, 24)  # the range is inherited
    assert (small["BATCH"].low, small["BATCH"].high) == (2**10, 2**14)  # or derived, if it misfits
    assert parse(source, "tiny")["DEPTH"].value == 1
    edited = edit(source, {"DEPTH": 5, "BATCH": 2**13}, "small")
    assert edited == source.replace("DEPTH = 3 ", "DEPTH = 5 ", 2).replace(
        "DEPTH = 5  # before", "DEPTH = 3  # before"
    ).replace("2**12", "2**13")


def test_values_are_written_in_the_manner_of_the_file() -> None:
    block = "A = 2**17  # [2**15, 2**20]\nB = 65536  # [2**15, 2**20]\nC = 2**9  # [2, 2**11]\n"
    block += (
        "D = 1_000  # [1, 5000]\nE = 0.04  # [0.001, 1]\nF = \"L\"  # {L, SL}\nG = 'L'  # {L, S}\n"
    )
    changes = {"A": 2**18, "B": 2**18, "C": 2**8, "D": 2000, "E": 0.0281828, "F": "SL", "G": "S"}
    edited = edit(program(block), changes, "full")
    for text in ("A = 2**18 ", "B = 262144 ", "C = 256 ", "D = 2_000 ", "E = 0.0282 "):
        assert text in edited
    assert 'F = "SL" ' in edited
    assert "G = 'S' " in edited


def test_two_constants_share_a_line_behind_a_foreign_letter() -> None:
    source = program('PATTERN = "ß"; WIDTH = 2  # {2, 3}\n')
    assert edit(source, {"WIDTH": 3}, "full") == source.replace("WIDTH = 2 ", "WIDTH = 3 ")


@pytest.mark.parametrize(
    "banner", [RULE + "# Hyperparameters\n" + RULE, "# ==== HYPERPARAMETERS ====\n"]
)
def test_both_kinds_of_banner_hold(banner: str) -> None:
    source = HEAD + banner + "# Model\nLR = 0.1\n\n" + RULE + "# Rest\n" + RULE + "BETA = 0.9\n"
    assert list(parse(source, "full")) == ["LR"]
    assert list(parse(source.split(RULE + "# Rest")[0], "full")) == ["LR"]


def test_no_block_and_no_python_are_errors_that_say_where() -> None:
    with pytest.raises(SwarmError, match="no hyperparameter block"):
        parse("LR = 0.1  # hyperparameters\n", "full")
    with pytest.raises(SwarmError, match="line 7: "):
        parse(program("LR = 0.1\nLR = = 2\n"), "full")
    with pytest.raises(KeyError):
        edit(program("LR = 0.1\n"), {"WIDTH": 32}, "full")


def test_the_skeleton_sees_structure_and_not_values() -> None:
    source = program(SCALED)
    same = skeleton(source, "small")
    assert skeleton(edit(source, {"DEPTH": 5, "LR": 0.3}, "small"), "small") == same
    assert skeleton(source.replace("DEPTH = 8 ", "DEPTH = 9 "), "small") == same  # has no effect
    assert skeleton(source.replace("# blocks", "# layers"), "small") == same
    assert skeleton("\ufeff" + source, "small") == same
    assert skeleton(source.replace("WIDTH = 64", "WIDTH = 32"), "small") != same
    assert skeleton(source.replace("LR =", "RATE ="), "small") != same


def test_the_real_trainer_follows_the_convention() -> None:
    source = (Path(__file__).parent.parent / "train.py").read_text()
    for scale in ("full", "small"):
        constants = parse(source, scale)
        assert {"MATRIX_LR", "DEPTH", "TOTAL_BATCH_SIZE", "WINDOW_PATTERN"} <= constants.keys()
        ast.parse(edit(source, {name: c.value for name, c in constants.items()}, scale))


names = st.from_regex(r"[A-Z][A-Z_]{0,5}[0-9]", fullmatch=True).filter(lambda n: "SEED" not in n)
notes = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="[]{}")
)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[str, dict[str, tuple[object, object]]]:
    """A block of constants, and for each its value and another one."""
    lines, values = [], {}
    for name in draw(st.lists(names, min_size=1, max_size=6, unique=True)):
        kind = draw(st.sampled_from(["float", "int", "power", "choice"]))
        note = "# é " + draw(notes)
        if kind == "float":
            old, new = (
                draw(st.integers(1, 999)) / draw(st.sampled_from([1, 10, 1e4])) for _ in "ab"
            )
            lines.append(f"{name} = ({old!r})  {note} [0.00001, 1000]")
        elif kind == "int":
            old, new = draw(st.integers(-50, 50)), draw(st.integers(-50, 50))
            lines.append(f"{name}: int = {old}  {note} [-51, 51]")
        elif kind == "power":
            low, high = draw(st.integers(0, 20)), draw(st.integers(0, 20))
            old, new = 2**low, 2**high
            lines.append(f"{name} = 2**{low}; pass  {note}")
            values[name] = (old, new)
            continue
        else:
            old, new = (draw(st.sampled_from(["ß", "SL", "it's"])) for _ in "ab")
            lines.append(f'{name} = "{old}"  {note} {{ß, SL, "it\'s"}}')
        values[name] = (old, new)
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return program("\n".join(lines) + "\n").replace("\n", ending), values


@given(blocks(), st.data())
def test_an_edit_gives_the_changes_and_nothing_else(
    drawn: tuple[str, dict[str, tuple[object, object]]], data: st.DataObject
) -> None:
    source, values = drawn
    constants = parse(source, "full")
    chosen = data.draw(st.sets(st.sampled_from(sorted(values))))
    changes = {name: values[name][1] for name in chosen}
    edited = edit(source, changes, "full")  # type: ignore[arg-type]
    expected = {name: new if name in chosen else old for name, (old, new) in values.items()}
    assert {name: c.value for name, c in parse(edited, "full").items()} == expected
    assert blanked(edited, "full") == blanked(source, "full")
    assert skeleton(edited, "full") == skeleton(source, "full")
    assert list(constants) == list(values)


def blanked(source: str, scale: str) -> str:
    """The file without the characters of its values."""
    for start, end in sorted((c.span for c in parse(source, scale).values()), reverse=True):
        source = source[:start] + source[end:]
    return source


@given(st.floats(0.001, 1000), st.floats(0.0001, 2000))
def test_the_nearest_value_is_in_range_and_has_three_digits(value: float, wanted: float) -> None:
    constant = only(f"A = {value!r}  # [{value / 2!r}, {value * 2!r}]\n")
    nearest = constant.nearest(wanted)
    assert constant.low <= nearest <= constant.high
    assert len(re.sub(r"e.*|\.|^0\.0*", "", repr(nearest)).strip("0")) <= 3
    assert constant.written(nearest) == repr(nearest)
