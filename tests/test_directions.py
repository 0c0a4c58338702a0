"""Directions of research: the list in program.md, and what the user orders of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import directions
from swarm.errors import UsageError

PROGRAM = """# A program

* no direction: before the heading

## Directions

Each worker follows one.

* **architecture**: attention, widths,
  depths
* `optimizer`: betas
- simplification

## What counts

* not: this
"""


def test_the_list_under_its_heading_is_what_there_is() -> None:
    found = directions.listed(PROGRAM)
    assert found == (
        "architecture: attention, widths, depths",
        "optimizer: betas",
        "simplification",
    )
    assert directions.choose(None, PROGRAM) == found
    assert directions.listed("# nothing of the kind\n* x") == ()


def test_a_user_chooses_by_name_or_in_words_of_his_own() -> None:
    found = directions.choose(" Optimizer, make it  faster", PROGRAM)
    assert found == ("optimizer: betas", "make it faster")
    assert directions.choose("none", PROGRAM) == ()
    with pytest.raises(UsageError, match="names none"):
        directions.choose(" , ", PROGRAM)


@given(st.text(max_size=400))
def test_any_text_is_a_program(text: str) -> None:
    found = directions.listed("# Directions\n" + text)
    assert len(found) <= directions.MOST
    assert all(0 < len(item) <= directions.LONGEST and "\n" not in item for item in found)
