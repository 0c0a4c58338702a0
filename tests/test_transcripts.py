"""What other people's CLIs spend, read from session files as they were seen to write them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.agents.transcripts import Spent, Transcripts, watch
from swarm.errors import SwarmError

DATA = Path(__file__).with_name("data") / "transcripts"
START = datetime(2026, 11, 21, 12, tzinfo=UTC)
OPUS = Spent("claude-opus-4-8", 2, 4, 12500, 12800, 250, 12000)
HAIKU = Spent("claude-haiku-4-5-20251001", 1, 100, 0, 0, 50)
CODEX = [Spent("gpt-5.5", 1, 4000, 4000, 1000, 300), Spent("gpt-6-sol", 1, 500, 9500, 0, 100)]
OLDER = Spent("gpt-5-codex", 2, 6500, 4500, 0, 260)
GEMINI = Spent("gemini-2.5-pro", 2, 6010, 11000, 0, 190)
TOLD = {"claude": [OPUS], "codex": CODEX, "gemini": [GEMINI]}


@pytest.fixture
def worktree(tmp_path: Path) -> Path:
    folder = tmp_path / "a user's repo" / "worktrees" / 'my_tag.1 "é😀"' / "gpu0"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def text_of(name: str, worktree: Path) -> str:
    return (DATA / f"{name}.jsonl").read_text().replace("WORKTREE", json.dumps(str(worktree))[1:-1])


def place_of(kind: str, home: Path, worktree: Path, name: str = "one") -> Path:
    """Where a CLI of that kind would write a session."""
    if kind == "claude":
        escaped = "".join(
            c if c.isascii() and c.isalnum() else "-" * (1 + (ord(c) > 0xFFFF))
            for c in str(worktree)
        )
        return home / ".claude" / "projects" / escaped / f"{name}.jsonl"
    if kind == "codex":
        return home / ".codex" / "sessions" / "2026" / "11" / "21" / f"rollout-{name}.jsonl"
    project = home / ".gemini" / "tmp" / "gpu0-1"
    project.mkdir(parents=True, exist_ok=True)
    (project / ".project_root").write_text(str(worktree))
    return project / "chats" / f"session-{name}.jsonl"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def look(kind: str, home: Path, worktree: Path, since: datetime = START) -> Transcripts:
    found = watch(kind, worktree, {"HOME": str(home)}, since)
    assert found is not None
    return found


def total(spent: list[Spent]) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for each in spent:
        numbers = [
            each.calls,
            each.input_tokens,
            each.cached_tokens,
            each.written_tokens,
            each.output_tokens,
            each.hour_tokens,
        ]
        sums[each.model] = [
            a + b for a, b in zip(sums.get(each.model, [0] * 6), numbers, strict=True)
        ]
    return sums


@pytest.mark.parametrize("kind", TOLD)
def test_a_session_is_counted_once(kind: str, home: Path, worktree: Path) -> None:
    transcripts = look(kind, home, worktree)
    assert transcripts.news() == []
    path = write(place_of(kind, home, worktree), text_of(kind, worktree))
    assert transcripts.news() == TOLD[kind]
    assert transcripts.news() == []
    os.utime(path)
    assert transcripts.news() == []


@pytest.mark.parametrize("kind", TOLD)
def test_a_growing_file_is_read_from_where_it_was_left(
    kind: str, home: Path, worktree: Path
) -> None:
    transcripts, path = look(kind, home, worktree), place_of(kind, home, worktree)
    data, spent = text_of(kind, worktree).encode(), []
    for end in range(0, len(data) + 97, 97):  # mostly in the middle of a line
        write(path, data[:end])
        spent += transcripts.news()
    assert total(spent) == total(TOLD[kind])


@pytest.mark.parametrize("kind", TOLD)
def test_damaged_lines_are_passed_over(kind: str, home: Path, worktree: Path) -> None:
    damage = [
        b"not json",
        b"\xff\xfe\x00",
        b"",
        b"[]",
        b"null",
        b'{"type":"assistant","message":{"usage":"much"}}',
        b'{"type":"event_msg","payload":{"type":"token_count","info":{"total_token_usage":[]}}}',
        b'{"type":"event_msg","payload":"token_count"}',
        b'{"id":"g9","tokens":{"input":-5}}',
        b'{"timestamp":"yesterday","message":{"usage":{"input_tokens":1}},"tokens":{"input":1}}',
    ]
    lines = text_of(kind, worktree).encode().splitlines()
    mixed = [piece for line in lines for piece in (line, *damage)]
    write(place_of(kind, home, worktree), b"\n".join(mixed) + b"\n" + lines[-1][:20])
    assert look(kind, home, worktree).news() == TOLD[kind]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(TOLD)), noise=st.binary(max_size=200), where=st.integers(0, 12))
def test_no_bytes_break_it(kind: str, noise: bytes, where: int, home: Path, worktree: Path) -> None:
    lines = text_of(kind, worktree).encode().splitlines(keepends=True)
    at = min(max(where, 1), len(lines))
    mixed = b"".join([*lines[:at], noise.replace(b"\n", b" "), b"\n", *lines[at:]])
    write(place_of(kind, home, worktree), mixed)
    assert look(kind, home, worktree).news() == TOLD[kind]


@pytest.mark.parametrize("kind", TOLD)
def test_what_was_before_is_not_counted(kind: str, home: Path, worktree: Path) -> None:
    path = write(place_of(kind, home, worktree), text_of(kind, worktree))
    later = {
        "claude": [Spent("claude-opus-4-8", 1, 1, 12500, 300, 40)],
        "codex": CODEX[1:],
        "gemini": [Spent("gemini-2.5-pro", 1, 1000, 8000, 0, 50)],
    }
    since = START + timedelta(seconds=20)
    assert look(kind, home, worktree, since).news() == later[kind]
    assert look(kind, home, worktree, START + timedelta(minutes=5)).news() == []
    os.utime(path, (0, (START - timedelta(days=1)).timestamp()))
    assert look(kind, home, worktree).news() == []


@pytest.mark.parametrize("kind", TOLD)
def test_other_peoples_sessions_are_not_counted(kind: str, home: Path, worktree: Path) -> None:
    other = worktree.with_name("gpu01")
    other.mkdir()
    write(place_of(kind, home, other), text_of(kind, other))
    transcripts = look(kind, home, worktree)
    assert transcripts.news() == []
    if kind == "claude":  # another path with the same escaped name
        same = worktree.parent.with_name(worktree.parent.name.replace(".", "_")) / "gpu0"
        write(place_of(kind, home, same), text_of(kind, same))
    assert transcripts.news() == []


@pytest.mark.parametrize("kind", TOLD)
def test_a_link_to_the_worktree_is_the_worktree(
    kind: str, home: Path, worktree: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(worktree)
    write(place_of(kind, home, worktree), text_of(kind, worktree))
    assert look(kind, home, tmp_path / "link").news() == TOLD[kind]


@pytest.mark.parametrize(
    ("kind", "name", "folder"),
    [
        ("claude", "CLAUDE_CONFIG_DIR", ".claude"),
        ("codex", "CODEX_HOME", ".codex"),
        ("gemini", "GEMINI_CLI_HOME", "."),
    ],
)
def test_a_cli_may_keep_its_files_elsewhere(
    kind: str, name: str, folder: str, home: Path, worktree: Path
) -> None:
    write(place_of(kind, home, worktree), text_of(kind, worktree))
    told = {"HOME": str(worktree), name: str(home / folder)}
    found = watch(kind, worktree, told, START)
    assert found is not None
    assert found.news() == TOLD[kind]


def test_the_subagents_of_claude_are_counted(home: Path, worktree: Path) -> None:
    session = write(place_of("claude", home, worktree), text_of("claude", worktree))
    below = session.with_suffix("") / "subagents" / "agent-ab12cd3.jsonl"
    write(below, text_of("claude-subagent", worktree))
    assert look("claude", home, worktree).news() == [HAIKU, OPUS]


def test_a_copied_session_of_claude_is_counted_once(home: Path, worktree: Path) -> None:
    transcripts = look("claude", home, worktree)
    text = text_of("claude", worktree)
    write(place_of("claude", home, worktree), text)
    assert transcripts.news() == [OPUS]
    write(place_of("claude", home, worktree, "two"), text.replace("11111111", "99999999"))
    assert transcripts.news() == []


def test_the_last_usage_of_an_answer_wins(home: Path, worktree: Path) -> None:
    lines = text_of("claude", worktree).splitlines(keepends=True)
    transcripts, path = look("claude", home, worktree), place_of("claude", home, worktree)
    write(path, "".join(lines[:4]))
    assert transcripts.news() == [Spent("claude-opus-4-8", 1, 3, 0, 12500, 9, 12000)]
    write(path, "".join(lines[:5]))
    assert transcripts.news() == [Spent("claude-opus-4-8", 0, 0, 0, 0, 201)]


def test_a_long_path_is_found_by_its_beginning(home: Path, worktree: Path) -> None:
    deep = worktree / ("long" * 40) / "x"
    deep.mkdir(parents=True)
    whole = place_of("claude", home, deep)
    assert len(whole.parent.name) > 200
    cut = whole.parent.with_name(f"{whole.parent.name[:200]}-1x2y3z") / whole.name
    write(cut, text_of("claude", deep))
    assert look("claude", home, deep).news() == [OPUS]


def test_older_sessions_of_codex_tell_only_sums(home: Path, worktree: Path) -> None:
    write(place_of("codex", home, worktree), text_of("codex-older", worktree))
    transcripts = look("codex", home, worktree)
    assert transcripts.news() == [OLDER]
    later = look("codex", home, worktree, START + timedelta(seconds=10))
    assert later.news() == [Spent("gpt-5-codex", 1, 1500, 4500, 0, 60)]
    forked = place_of("codex", home, worktree, "two")
    write(forked, text_of("codex-older-forked", worktree))
    assert transcripts.news() == [Spent("gpt-5-mini", 1, 500, 6500, 0, 40)]


def test_a_forked_session_of_codex_is_not_counted_twice(home: Path, worktree: Path) -> None:
    write(place_of("codex", home, worktree), text_of("codex", worktree))
    transcripts = look("codex", home, worktree)
    assert transcripts.news() == CODEX
    write(place_of("codex", home, worktree, "two"), text_of("codex-forked", worktree))
    assert transcripts.news() == [Spent("gpt-5.5", 1, 200, 9900, 0, 20)]


def test_a_session_of_codex_may_begin_in_a_folder_of_the_worktree(
    home: Path, worktree: Path
) -> None:
    write(place_of("codex", home, worktree), text_of("codex", worktree / "below"))
    assert look("codex", home, worktree).news() == CODEX


@pytest.mark.parametrize("kind", TOLD)
def test_a_file_that_shrank_or_went_is_not_counted_again(
    kind: str, home: Path, worktree: Path
) -> None:
    lines = text_of(kind, worktree).splitlines(keepends=True)
    transcripts, path = look(kind, home, worktree), place_of(kind, home, worktree)
    last = max(n for n, line in enumerate(lines) if '"usage":{' in line or '"tokens":{' in line)
    write(path, "".join(lines[:last]) + lines[0] * 20)
    before = transcripts.news()
    write(path, "".join(lines[:last]))
    assert transcripts.news() == []
    write(path, "".join(lines))
    assert total(before + transcripts.news()) == total(TOLD[kind])
    path.unlink()
    path.symlink_to("gone")
    assert transcripts.news() == []


@pytest.mark.parametrize("kind", TOLD)
def test_an_unreadable_file_is_an_error_that_loses_nothing(
    kind: str, home: Path, worktree: Path
) -> None:
    transcripts = look(kind, home, worktree)
    write(place_of(kind, home, worktree), text_of(kind, worktree))
    broken = place_of(kind, home, worktree, "two")
    broken.mkdir()
    (broken.with_name("more")).mkdir()
    unreadable = broken.with_name("more") / "x.jsonl"
    unreadable.symlink_to(unreadable)  # a loop: even root cannot follow it
    with pytest.raises(SwarmError, match=r"x\.jsonl cannot be read"):
        transcripts.news()
    unreadable.unlink()
    assert transcripts.news() == TOLD[kind]


def test_of_other_clis_nothing_is_known(worktree: Path) -> None:
    for kind in ("aider", "opencode", "cmd", "tuner", ""):
        assert watch(kind, worktree, {}, START) is None


def test_nothing_unchanged_is_opened_again(
    home: Path, worktree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcripts = look("codex", home, worktree)
    write(place_of("codex", home, worktree), text_of("codex", worktree))
    write(place_of("codex", home, worktree, "two"), text_of("codex", worktree.with_name("other")))
    assert transcripts.news() == CODEX
    opened: list[str] = []
    real: Callable[..., object] = open
    monkeypatch.setattr(
        "builtins.open", lambda *a, **k: (opened.append(str(a[0])), real(*a, **k))[1]
    )
    assert transcripts.news() == []
    assert opened == []
