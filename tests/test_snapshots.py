"""Going on from a snapshot is folding the whole journal, and a bad one is as good as none."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import turmoil
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import records, snapshots
from swarm.commands import folded
from swarm.effects import Effects
from swarm.journal import Journal
from swarm.leaderboard import Leaderboard
from swarm.paths import Paths
from swarm.standings import Contest, DeviceClass, Entry
from swarm.views import documents
from swarm.workers import WorkerState, Workforce

UNORDERED = {"trials", "commits", "home"}


def observed(board: Leaderboard) -> dict[str, Any]:
    """Every field of a fold, its order, and what it would decide and show next."""
    fields = {name: value for name, value in vars(board).items() if name[0] != "_"}
    for name in ("journal", "resumed"):
        del fields[name]
    found = {name: plain(value, name not in UNORDERED) for name, value in fields.items()}
    found["next"] = [
        board.replicate(name, occasion) for name in board.workers for occasion in turmoil.OCCASIONS
    ]
    found["board"] = documents.board(Paths(Path(), "t"), board, None, None)
    return found


def plain(value: Any, ordered: bool = True) -> Any:
    """Without references: an entry is its name, but for where the device class has it."""
    if isinstance(value, DeviceClass):
        fields = [field.name for field in dataclasses.fields(value) if field.name != "entries"]
        reasons = [entry.reason for entry in value.entries.values()]
        entries = [
            [plain(getattr(entry, name)) for name in entry.__struct_fields__ if name != "why"]
            for entry in value.entries.values()
        ]
        return [entries, reasons, {name: plain(getattr(value, name)) for name in fields}]
    if isinstance(value, Entry):
        return value.experiment
    if isinstance(value, Contest):
        return [value.contender.experiment, value.look]
    if isinstance(value, (Workforce, Effects)):
        return {name: plain(each) for name, each in vars(value).items()}
    if isinstance(value, WorkerState):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        items = [(key, plain(each)) for key, each in value.items()]
        return items if ordered else dict(items)
    if type(value) in (list, tuple):
        return [plain(each) for each in value]
    return value


def read(paths: Paths) -> Leaderboard:
    board = Leaderboard(Journal(paths.journal))
    board.refresh()
    return board


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A swarm of three hundred lines with a snapshot of them, in a folder with a hostile name."""
    paths = Paths(tmp_path / 'a\'; echo "foo"', "t")
    paths.home.mkdir(parents=True)
    paths.journal.write_bytes(turmoil.journal_of(3, "probable", 300))
    snapshots.write(paths.snapshot, read(paths))
    return paths


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from(["probable", "probable", "greedy", "strict"]),
    lines=st.integers(10, 700),
    share=st.floats(0, 1),
)
def test_going_on_from_a_snapshot_is_folding_it_all(
    tmp_path_factory: pytest.TempPathFactory, seed: int, policy: str, lines: int, share: float
) -> None:
    paths = Paths(tmp_path_factory.mktemp("a night"), "t")
    paths.home.mkdir(parents=True)
    journal = turmoil.journal_of(seed, policy, lines)
    cut = journal.index(b"\n", int((len(journal) - 1) * share)) + 1
    paths.journal.write_bytes(journal[:cut])
    half = read(paths)
    snapshots.write(paths.snapshot, half)
    assert observed(snapshots.leaderboard(paths)) == observed(half)
    paths.journal.write_bytes(journal)
    board = snapshots.leaderboard(paths)
    assert board.resumed and board.cursor.offset == cut
    board.refresh()
    assert observed(board) == observed(read(paths))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def replaced(make: Callable[[Path], object]) -> Callable[[Paths], object]:
    def replace(paths: Paths) -> object:
        paths.snapshot.unlink()
        return make(paths.snapshot)

    return replace


def changed(change: Callable[[bytes], bytes]) -> Callable[[Paths], object]:
    return lambda paths: paths.snapshot.write_bytes(change(paths.snapshot.read_bytes()))


@pytest.mark.parametrize(
    "spoil",
    [
        replaced(lambda path: None),
        replaced(lambda path: path.write_bytes(b"")),
        replaced(lambda path: path.symlink_to("/dev/zero")),
        replaced(Path.mkdir),
        changed(lambda data: data[:-1]),
        changed(lambda data: data[: len(data) // 2]),
        changed(lambda data: flipped(data, len(data) // 2)),
        changed(lambda data: b"[" * 100_000 + b"\n" + data),
        changed(lambda data: data.replace(b'"code":"', b'"code":"0', 1)),
        lambda paths: paths.journal.write_bytes(flipped(paths.journal.read_bytes(), 290)),
        lambda paths: paths.journal.write_bytes(paths.journal.read_bytes().rpartition(b"{")[0]),
    ],
    ids=[
        "missing", "empty", "endless", "a folder", "cut", "half", "damaged", "no header",
        "other code", "the journal was edited", "the journal was cut",
    ],
)  # fmt: skip
def test_what_is_no_snapshot_of_this_journal_is_not_used(
    paths: Paths, spoil: Callable[[Paths], object]
) -> None:
    assert snapshots.leaderboard(paths).resumed
    spoil(paths)
    board = snapshots.leaderboard(paths)
    assert not board.resumed and board.cursor.lines == 0
    board.refresh()
    assert observed(board) == observed(read(paths))


def test_a_pipe_that_says_nothing_is_not_waited_for(paths: Paths) -> None:
    paths.snapshot.unlink()
    os.mkfifo(paths.snapshot)
    writer = os.open(paths.snapshot, os.O_RDWR)
    try:
        assert not snapshots.leaderboard(paths).resumed
    finally:
        os.close(writer)


ABSURD: list[Any] = [
    None, -1, 0, 2**63, 1e308, float("nan"), "", "e999", "gpu9", [], {}, [[]], {"e1": None},
    ["e1", "e1"], True, b"", [None] * 20, msgspec.msgpack.Ext(1, b"x"),
]  # fmt: skip


def test_a_forged_snapshot_is_used_or_not_but_never_fails(paths: Paths) -> None:
    header, _, body = paths.snapshot.read_bytes().partition(b"\n")
    said, chance = msgspec.json.decode(header), random.Random(0)
    ignored = 0
    for _ in range(250):
        forged = msgspec.msgpack.decode(body)
        place = forged
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = chance.choice(keys)
            if not (isinstance(place[key], (dict, list)) and place[key]) or chance.random() < 0.1:
                break
            place = place[key]
        place[key] = chance.choice(ABSURD)
        data = msgspec.msgpack.encode(forged)
        said["body_crc"] = zlib.crc32(data)
        paths.snapshot.write_bytes(msgspec.json.encode(said) + b"\n" + data)
        ignored += not snapshots.leaderboard(paths).resumed
    assert ignored > 100


def long_journal(paths: Paths, lines: int) -> None:
    """Append notes until there are so many lines."""
    before = paths.journal.read_bytes().count(b"\n")
    with open(paths.journal, "ab") as file:
        for seq in range(before + 1, lines + 1):
            file.write(msgspec.json.encode(records.Note(seq=seq, worker="", text="x")) + b"\n")


def test_commands_leave_a_snapshot_of_a_long_journal_and_read_it(paths: Paths) -> None:
    paths.snapshot.unlink()
    assert not folded(paths).resumed and not paths.snapshot.exists()
    long_journal(paths, snapshots.SPAN)
    first = folded(paths)
    assert not first.resumed
    second = folded(paths)
    assert second.resumed and observed(second) == observed(first)
    assert not folded(paths, from_start=True).resumed


def test_a_snapshot_is_written_by_who_knows_and_not_too_often(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "swarm.snapshots")
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    keeper = snapshots.Keeper(paths.snapshot, 0.1, clock)
    knows, inode = read(paths), paths.snapshot.stat().st_ino
    resumed = snapshots.leaderboard(paths)
    keeper.refresh(knows)
    long_journal(paths, snapshots.SPAN + 300)
    resumed.refresh()
    keeper.refresh(resumed)
    assert paths.snapshot.stat().st_ino == inode, "not for few lines, not from hearsay"
    knows.refresh()
    now = 100.0
    keeper.refresh(knows)
    assert paths.snapshot.stat().st_ino != inode
    paths.snapshot.unlink()
    for moment in (102.0, 110.0):
        now = moment
        keeper.refresh(knows)
        assert not paths.snapshot.exists(), "it took a second, so not again for ten"
    now = 111.0
    keeper.refresh(knows)
    assert paths.snapshot.exists()
    snapshots.Keeper(paths.home / "nowhere" / "fold.snapshot").refresh(knows)
    assert "no snapshot: cannot write" in caplog.text
