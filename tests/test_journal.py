"""The journal: durable, ordered, exactly once, whatever is killed when."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import DiskFull, JournalError
from swarm.journal import Cursor, Journal
from swarm.records import Note, TrialFinished

WRITER = """
import sys
from pathlib import Path
from swarm.journal import Journal
from swarm.records import Note
journal, name = Journal(Path(sys.argv[1])), sys.argv[2]
for i in range(10**9):
    record = journal.append(Note(worker=name, text=f"{i} " + "x" * (i * 37 % 900)))
    sys.stdout.write(f"{record.seq} {i}\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def read_all(path: Path) -> list[Note]:
    return Journal(path).read(Cursor())  # type: ignore[return-value]


def storm(path: Path, writers: int, kills: int, seed: int) -> dict[str, list[tuple[int, int]]]:
    """Let writers append while they are SIGKILLed at random and replaced; return what each was
    acknowledged: (seq, counter) by writer name."""
    rng = random.Random(seed)
    running: dict[str, subprocess.Popen[str]] = {}
    outputs: dict[str, str] = {}
    started = 0

    def start() -> None:
        nonlocal started
        name = f"w{started}"
        started += 1
        running[name] = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE, text=True
        )

    def kill(name: str) -> None:
        process = running.pop(name)
        process.send_signal(signal.SIGKILL)
        outputs[name] = process.communicate()[0]

    try:
        for _ in range(writers):
            start()
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(kills):
            time.sleep(rng.uniform(0, 0.06))
            kill(rng.choice(list(running)))
            start()
    finally:
        for name in list(running):
            kill(name)
    acknowledged = {}
    for name, text in outputs.items():
        whole = text[: text.rfind("\n") + 1].split()
        acknowledged[name] = list(zip(map(int, whole[::2]), map(int, whole[1::2]), strict=False))
    return acknowledged


def check_storm(path: Path, acknowledged: dict[str, list[tuple[int, int]]]) -> int:
    Journal(path).append(Note(worker="last", text="cuts a torn tail"))
    lines = read_all(path)
    there = {(line.seq, line.worker, int(line.text.split()[0])) for line in lines[:-1]}
    assert len(there) == len(lines) - 1, "a line stands twice"
    promised = {(seq, name, i) for name, pairs in acknowledged.items() for seq, i in pairs}
    assert promised <= there, f"acknowledged but lost: {sorted(promised - there)[:3]}"
    by_writer: dict[str, list[int]] = {}
    for line in lines[:-1]:
        by_writer.setdefault(line.worker, []).append(int(line.text.split()[0]))
    for counters in by_writer.values():
        assert counters == list(range(len(counters))), "a writer's lines are not in its order"
    return len(promised)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_sixteen_writers_and_kills_lose_and_double_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("a storm") / "journal.jsonl"
    assert check_storm(path, storm(path, writers=16, kills=25, seed=seed)) > 0


@pytest.mark.soak
def test_a_long_storm(path: Path) -> None:
    assert check_storm(path, storm(path, writers=16, kills=1500, seed=1)) > 1000


@given(texts=st.lists(st.text(max_size=300), min_size=1, max_size=8), torn=st.binary(max_size=600))
@settings(deadline=None, max_examples=60)
def test_what_was_appended_is_read_and_a_torn_tail_is_cut(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal, cursor = Journal(path), Cursor()
    for text in texts[:-1]:
        journal.append(Note(worker="gpu0", text=text))
    with open(path, "ab") as file:
        file.write(torn.replace(b"\n", b" "))
    if texts[:-1]:
        assert [note.text for note in journal.read(cursor)] == texts[:-1]
    journal.append(Note(worker="gpu0", text=texts[-1]))
    assert [note.text for note in journal.read(cursor)] == texts[-1:]
    assert [note.seq for note in read_all(path)] == list(range(1, len(texts) + 1))


def test_a_torn_tail_longer_than_a_block_is_cut(path: Path) -> None:
    journal = Journal(path)
    journal.append(Note(worker="gpu0", text="y" * 100_000))
    with open(path, "ab") as file:
        file.write(b'{"kind":"note","text":"' + b"z" * 50_000)
    assert journal.append(Note(worker="gpu0", text="after")).seq == 2
    assert [note.seq for note in read_all(path)] == [1, 2]


@pytest.mark.parametrize(
    "broken",
    [b"{}", b"garbage", b"", b'{"kind":"note","seq":2,"time":"2026-01-01T00:00:00Z"}',
     b'{"kind":"note","seq":7,"time":"2026-01-01T00:00:00Z","worker":"a","text":"b"}'],
)  # fmt: skip
def test_a_broken_middle_line_is_an_error_that_names_it(path: Path, broken: bytes) -> None:
    journal = Journal(path)
    for text in "abc":
        journal.append(Note(worker="gpu0", text=text))
    lines = path.read_bytes().split(b"\n")
    lines[1] = broken
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"journal\.jsonl, line 2 is damaged"):
        read_all(path)
    assert path.read_bytes() == before


def test_a_broken_last_line_refuses_appends(path: Path) -> None:
    Journal(path).append(Note(worker="gpu0", text="a"))
    path.write_bytes(path.read_bytes() + b"garbage\n")
    with pytest.raises(JournalError, match="last line is damaged"):
        Journal(path).append(Note(worker="gpu0", text="b"))


def test_reading_is_incremental(path: Path) -> None:
    journal, cursor = Journal(path), Cursor()
    journal.append(Note(worker="gpu0", text="a"))
    assert len(journal.read(cursor)) == 1
    assert journal.read(cursor) == []
    journal.append(Note(worker="gpu0", text="b"))
    assert [note.seq for note in journal.read(cursor)] == [2]
    assert (cursor.lines, cursor.offset) == (2, path.stat().st_size)


def test_a_journal_that_shrank_is_an_error(path: Path) -> None:
    journal, cursor = Journal(path), Cursor()
    journal.append(Note(worker="gpu0", text="a"))
    journal.read(cursor)
    path.write_bytes(b"")
    with pytest.raises(JournalError, match="shorter"):
        journal.read(cursor)


FULL_DISK = """
import resource, sys
from pathlib import Path
from swarm.errors import DiskFull
from swarm.journal import Journal
from swarm.records import Note
path = Path(sys.argv[1])
journal = Journal(path)
journal.append(Note(worker="gpu0", text="before"))
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 200, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        journal.append(Note(worker="gpu0", text="x" * 1000))
    except DiskFull as error:
        print("full:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
journal.append(Note(worker="gpu0", text="after"))
"""


def test_a_full_disk_keeps_the_journal_valid(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("full: no space left") == 2
    assert [note.text for note in read_all(path)] == ["before", "after"]


def test_a_full_filesystem_keeps_the_journal_valid(tmp_path: Path) -> None:
    """A real tmpfs, where the machine lets us mount one."""
    mount = tmp_path / "small disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount; the size-limit test covers the code")
    try:
        journal = Journal(mount / "journal.jsonl")
        with pytest.raises(DiskFull):
            for _ in range(200):
                journal.append(Note(worker="gpu0", text="x" * 2000))
        count = len(read_all(journal.path))
        assert count > 5
        with pytest.raises(DiskFull):
            journal.append(Note(worker="gpu0", text="x" * 2000))
        assert len(read_all(journal.path)) == count
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_score_that_is_no_number_never_enters() -> None:
    for value in (float("nan"), float("inf"), None):
        with pytest.raises(ValueError, match="cannot have val_bpb"):
            TrialFinished(trial="t1", outcome="ok", seconds=1.0, val_bpb=value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(
            b'{"kind":"result","trial":"t1","outcome":"ok","seconds":1,"val_bpb":null}',
            type=TrialFinished,
        )
