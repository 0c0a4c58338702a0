"""The tools of a built-in agent, on a real worktree; and the draft that they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from toy_swarm import Story

from swarm.agents.draft import Draft
from swarm.agents.models.chat import Call
from swarm.agents.session import Session
from swarm.agents.toolbox import LONGEST_READ, TOOLS, Toolbox
from swarm.config import Desk
from swarm.errors import Refused
from swarm.mailbox import Mailbox

TEXT = "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\nf = 6\n"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path / "a repo")


@pytest.fixture
def box(story: Story) -> Toolbox:
    folder = story.paths.worktree("cpu0")
    Mailbox(folder).create(Desk(str(story.paths.root), story.paths.tag, "cpu0"))
    return Toolbox(Session(folder), lambda: None)


def call(box: Toolbox, name: str, **arguments: Any) -> tuple[str, bool]:
    result = box.run(Call("1", name, arguments))
    return result.text, result.is_error


def test_reading_shows_the_draft_and_parts_of_it(box: Toolbox) -> None:
    assert call(box, "read") == (toy.TRAIN.rstrip("\n"), False)
    text, wrong = call(box, "read", first=1, last=2)
    assert not wrong
    assert text.splitlines() == ["[lines 1 to 2 of 32]", *toy.TRAIN.splitlines()[:2]]
    assert call(box, "read", first="1", last=2)[0] == text  # models quote numbers
    assert call(box, "read", first=99)[1]


def test_an_edit_changes_the_draft_and_nothing_else(box: Toolbox, story: Story) -> None:
    assert call(box, "edit", old="LR = 0.04", new="LR = 0.08") == ("changed; it compiles", False)
    text, _ = call(box, "diff")
    assert "-LR = 0.04  #" in text
    assert "+LR = 0.08  #" in text
    assert (story.paths.worktree("cpu0") / "train.py").read_text() == toy.TRAIN
    assert call(box, "reset")[1] is False
    assert call(box, "diff")[0] == "your draft changes nothing yet"


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("edit", {"old": "nonsense", "new": "x"}, "occurs 0 times"),
        ("edit", {"old": "score", "new": "x"}, "times, not once"),
        ("edit", {"old": "", "new": "x"}, "is empty"),
        ("edit", {"old": "LR = 0.04", "new": "LR = 0.04"}, "what was there already"),
        ("edit", {"old": "LR = 0.04", "new": "LR = = 4"}, "no Python program now: line 7"),
        ("edit", {"old": "x"}, "wrong arguments for edit"),
        ("edit", {"old": 3, "new": [1]}, "wrong arguments for edit"),
        ("rewrite", {"source": "  \n"}, "would empty train.py"),
        ("rewrite", {"source": "x = \0"}, "no Python program"),
        ("rewrite", {"source": "x = " + "+".join("1" * 30_000)}, "no Python program"),
        ("delete", {}, "there is no tool 'delete'"),
        ("show", {"experiment": "e99"}, "no experiment 'e99'"),
        ("read", {"path": "/etc/passwd"}, "wrong arguments for read"),
    ],
)
def test_what_is_wrong_is_told_to_the_model(
    box: Toolbox, name: str, arguments: dict[str, Any], told: str
) -> None:
    text, wrong = call(box, name, **arguments)
    assert wrong
    assert told in text
    assert box.errors == 1
    assert call(box, "read")[1] is False
    assert box.errors == 0


def test_broken_arguments_are_answered(box: Toolbox) -> None:
    result = box.run(Call("1", "edit", {}, "the arguments are not valid JSON"))
    assert result.is_error
    assert "not valid JSON" in result.text


def test_a_draft_that_is_no_program_is_not_submitted(box: Toolbox) -> None:
    call(box, "edit", old="LR = 0.04", new="LR = (")
    text, wrong = call(box, "submit", description="x")
    assert wrong
    assert "no Python program" in text
    assert not list((box.session.worktree / ".swarm" / "requests").iterdir())


def test_the_board_and_experiments_can_be_looked_at(box: Toolbox, story: Story) -> None:
    good, bad = story.experiment("cpu1", 0.9), story.experiment("cpu2", None)
    assert call(box, "board")[0].startswith(good)
    assert "val_bpb of its trials: 0.900000" in call(box, "show", experiment=good)[0]
    assert "crash" in call(box, "show", experiment=bad)[0]
    assert call(box, "log", experiment=bad)[0] == "it has no log yet"
    log = story.paths.trial(story.board.entry(bad).trials[0].id)
    log.mkdir(parents=True)
    (log / "run.log").write_text("".join(f"line {i}\n" for i in range(9999)))
    shown = call(box, "log", experiment=bad)[0]
    assert shown.endswith("line 9998")
    assert len(shown) < 9000


def test_a_huge_file_is_clipped(box: Toolbox) -> None:
    call(box, "rewrite", source="x = 1\n" * 100_000)
    assert len(call(box, "read")[0]) < LONGEST_READ + 100


def test_every_tool_has_a_schema_that_says_what_it_takes() -> None:
    assert len(TOOLS) == 10
    for tool in TOOLS:
        assert tool.description
        assert tool.parameters["type"] == "object"
        assert set(tool.parameters["required"]) <= tool.parameters["properties"].keys()
    msgspec.json.encode([tool.parameters for tool in TOOLS])


def test_a_draft_follows_its_base() -> None:
    draft = Draft("c1", TEXT, TEXT)
    draft.edit("b = 2", "b = 20")
    draft.rebase("c2", TEXT.replace("f = 6", "f = 60"))
    assert draft.text == TEXT.replace("b = 2", "b = 20").replace("f = 6", "f = 60")
    with pytest.raises(Refused, match="the same lines"):
        draft.rebase("c3", TEXT.replace("b = 2", "b = 3"))
    assert draft.commit == "c2"
    untouched = Draft("c1", TEXT, TEXT)
    untouched.rebase("c2", "x = 1\n")
    assert untouched.text == "x = 1\n"


def test_lines_that_end_as_on_windows_can_be_edited() -> None:
    draft = Draft("c", TEXT.replace("\n", "\r\n"), TEXT.replace("\n", "\r\n"))
    draft.edit("b = 2\nc = 3\n", "b = 2\nc = 4\n")
    assert draft.text == TEXT.replace("c = 3", "c = 4").replace("\n", "\r\n")


@given(old=st.text(max_size=8), new=st.text(max_size=8), text=st.text(max_size=60))
def test_an_edit_replaces_one_place_or_nothing(old: str, new: str, text: str) -> None:
    draft = Draft("c", text, text)
    try:
        draft.edit(old, new)
    except Refused:
        assert draft.text == text
    else:
        before, _, after = text.partition(old)
        assert draft.text == before + new + after
