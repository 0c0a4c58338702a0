"""prepare.py: sources, tokenizer, packing, dataset, loader, evaluation, device lock."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import http.server
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_fixtures import (
    ROOT,
    environment,
    prepare,
    prepared,
    run_python,
    run_warm,
    stdlib_texts,
    summary,
    write_corpus,
)

from swarm.harness import (
    building,
    climbmix,
    evaluation,
    loader,
    packing,
    parts,
    sources,
)
from swarm.harness import settings as harness_settings
from swarm.harness.progress import Progress
from swarm.harness.tokenizer import Tokenizer, encode_documents

__all__ = ["prepared"]

Prepared = tuple[Path, Any]
Undisturbed = tuple[Path, dict[str, str]]
BOS = 9


def failed(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Assert the shape that every failure has; return what it says."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return f"{error} {hint}"


# Sources ------------------------------------------------------------------------------------------


@given(st.text(alphabet="ab \n", max_size=300), st.integers(2, 40))
def test_split_text_loses_nothing_but_blank_pieces(text: str, limit: int) -> None:
    pieces = list(sources.split_text(text, limit))
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert re.sub(r"\s", "", "".join(pieces)) == re.sub(r"\s", "", text)


def by_split(corpus: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {split: [] for split in harness_settings.SPLITS}
    for split, text in corpus.read():
        found[split].append(text)
    assert sum(map(len, found.values())) == corpus.count
    return found


def test_a_section_is_in_one_split_and_copies_are_together(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "a 'corpus'")
    for path in sorted(folder.iterdir())[:20]:
        shutil.copy(path, folder / f"copy of {path.name}")
    sizes = harness_settings.SCALES["small"]
    found = by_split(sources.Folder(folder).documents(sizes))
    long = {split: {text for text in texts if len(text) > 200} for split, texts in found.items()}
    for one, other in itertools.combinations(harness_settings.SPLITS, 2):
        assert not long[one] & long[other]
    size = {split: sum(len(text.encode()) for text in set(found[split])) for split in found}
    for split in ("val", "heldout"):
        assert size[split] >= sizes.min_eval_tokens * sizes.token_bytes * 0.99
    assert size["train"] > 0.5 * sum(size.values())
    assert by_split(sources.Folder(folder).documents(sizes)) == found


def test_a_huge_folder_sets_no_more_aside_than_evaluations_read(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    small = harness_settings.SCALES["small"]
    sizes = dataclasses.replace(small, eval_tokens=200, min_eval_tokens=100)
    found = by_split(sources.Folder(folder).documents(sizes))
    for split in ("val", "heldout"):  # four passes of 200 × 4 bytes, to the end of a section
        assert 3_200 <= sum(map(len, found[split])) < 3_200 + sources.SECTION


def test_folder_errors(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run = functools.partial(run_python, "prepare.py", cache=cache)
    assert "no folder" in failed(run("--dataset", "no such folder"))
    empty = tmp_path / "it's empty"
    (empty / "x").mkdir(parents=True)
    (empty / "picture.png").write_bytes(b"\x89PNG")
    assert "no text in" in failed(run("--dataset", empty))
    small = write_corpus(tmp_path / "small", 300_000)
    assert re.search(r"too little .* give at least 1\.31 MB", failed(run("--dataset", small)))
    bad = write_corpus(tmp_path / "bad")
    (bad / "broken file.txt").write_bytes(b"good until here \xff\xfe")
    assert "broken file.txt is not UTF-8 text (byte 16)" in failed(run("--dataset", bad))
    table = tmp_path / "table"
    table.mkdir()
    for columns in ({"words": ["a"]}, {"text": [1], "a string": ["a"]}):
        pyarrow.parquet.write_table(pyarrow.table(columns), table / "t.parquet")
        assert "no column `text` of strings" in failed(run("--dataset", table))
    (table / "t.parquet").write_bytes(b"PAR1 is not enough")
    assert "cannot read" in failed(run("--dataset", table))
    assert not list(cache.glob("datasets/*"))


def test_text_of_few_tokens_is_too_little(tmp_path: Path) -> None:
    folder = tmp_path / "spaces"
    folder.mkdir()
    for number in range(40):  # long runs make tokens of many bytes
        (folder / f"{number}.txt").write_text((f"{number:03d} " + " " * 700 + "\n") * 60)
    done = run_python("prepare.py", "--dataset", folder, cache=tmp_path / "cache")
    assert "val and heldout need 256 each" in failed(done)


@pytest.mark.parametrize("arguments", [("--shards", "0"), ("--scale", "huge"), ("--what",)])
def test_usage_errors(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run_python("prepare.py", *arguments, cache=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("name", "value"), [("SWARM_SECONDS", "soon"), ("SWARM_SEED", "1.5"), ("SWARM_SCALE", "tiny")]
)
def test_senseless_environment(prepared: Prepared, name: str, value: str) -> None:
    done = run_python("prepare.py", cache=prepared[0], **{name: value})
    assert name in failed(done, 2)


# Tokenizer ----------------------------------------------------------------------------------------


@functools.cache
def tokenizer() -> Any:
    trained = Tokenizer.train(iter(stdlib_texts(200_000)), 600)
    return Tokenizer.from_json(trained.to_json())


@functools.cache
def encoding() -> Any:
    return tokenizer().encoding()


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_tokenizer_round_trip_and_true_bytes(text: str) -> None:
    tokens = encoding().encode_ordinary(text)
    assert encoding().decode(tokens) == text
    lengths = tokenizer().token_bytes()
    assert sum(lengths[token] for token in tokens) == len(text.encode())


def test_specials_have_no_bytes_and_are_never_read_from_text() -> None:
    assert tokenizer().vocab_size == 600
    assert tokenizer().token_bytes()[596:] == [0, 0, 0, 0]
    assert min(tokenizer().token_bytes()[:596]) == 1
    assert tokenizer().encoding().encode_single_token("<|reserved_0|>") == tokenizer().bos == 596
    (document,) = encode_documents(tokenizer(), ["<|reserved_0|>"])
    assert document[0] == 596
    assert (document[1:] < 596).all()


def test_numbers_are_split_in_two_digits_at_most() -> None:
    trained = Tokenizer.train(iter(["1234567 " * 1000]), 300)
    assert len([token for token in trained.tokens if token.isdigit() and len(token) == 2]) > 2
    assert not [token for token in trained.tokens if token.isdigit() and len(token) > 2]


# Packing ------------------------------------------------------------------------------------------


def numbered_documents(lengths: list[int]) -> list[np.ndarray]:
    """Documents of the given lengths: BOS, then tokens that name the document and the place."""
    return [
        np.array([BOS, *(100 * (number + 1) + place for place in range(length - 1))], np.uint16)
        for number, length in enumerate(lengths)
    ]


def pieces(rows: list[np.ndarray]) -> list[list[int]]:
    """What lies between one BOS and the next, in order."""
    found: list[list[int]] = []
    for row in rows:
        assert row[0] == BOS
        starts = [*np.flatnonzero(row == BOS).tolist(), len(row)]
        found += [row[a + 1 : b].tolist() for a, b in itertools.pairwise(starts)]
    return found


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(2, 25), st.integers(1, 12))
@settings(deadline=None, max_examples=150)
def test_packing_loses_and_doubles_no_token(lengths: list[int], row: int, buffer: int) -> None:
    rows = list(packing.pack_rows(numbered_documents(lengths), row, buffer))
    assert all(len(packed) == row for packed in rows[:-1])
    assert not rows or 0 < len(rows[-1]) <= row
    found: dict[int, list[int]] = {number: [] for number in range(len(lengths))}
    for piece in pieces(rows):
        numbers = {token // 100 - 1 for token in piece}
        assert len(numbers) <= 1  # a BOS stands wherever another document or a rest begins
        if piece:
            assert piece == list(range(piece[0], piece[0] + len(piece)))
            found[numbers.pop()] += piece
    # Put together in the order in which they were packed, the pieces are the documents.
    assert list(found.values()) == [d[1:].tolist() for d in numbered_documents(lengths)]
    again = list(packing.pack_rows(iter(numbered_documents(lengths)), row, buffer))
    assert [packed.tobytes() for packed in again] == [packed.tobytes() for packed in rows]


def test_packing_takes_the_best_fit_and_puts_rests_back() -> None:
    rows = list(packing.pack_rows(numbered_documents([4, 7, 5, 9, 8]), 10, 1000))
    # 9, then 4 cropped to its BOS; 8, then that same 4 cropped to 2, which leaves 3; 7 and 3; 5.
    found = [[len(piece) + 1 for piece in pieces([row])] for row in rows]
    assert found == [[9, 1], [8, 2], [7, 3], [5]]
    assert rows[1][8:].tolist() == [BOS, 100]
    assert rows[2][7:].tolist() == [BOS, 101, 102]
    rows = list(packing.pack_rows(numbered_documents([6, 3, 4]), 10, 1000))
    assert [len(piece) + 1 for piece in pieces(rows)] == [6, 4, 3]  # 4 is the exact fit


TEXTS = st.lists(st.text("ab cd", max_size=30), min_size=1, max_size=30)


@given(TEXTS, st.integers(1, 200), st.integers(2, 20))
@settings(deadline=None, max_examples=25)
def test_parts_and_their_leftovers_hold_every_token(
    texts: list[str], part_chars: int, row: int
) -> None:
    texts = [f"{number} {text}" for number, text in enumerate(texts)]
    bos = tokenizer().bos
    with tempfile.TemporaryDirectory() as folder:
        paths, tokens = [], 0
        for _, part, full in parts.cut_parts((("train", text) for text in texts), part_chars):
            assert full == (sum(map(len, part)) >= part_chars)
            paths.append(Path(folder, f"{len(paths)}.part"))
            made = parts.make_part(tokenizer(), part, row, paths[-1])
            assert made == len(parts.read_part(paths[-1]))
            tokens += made
        joined = np.concatenate([np.empty((0, row), np.uint16), *parts.join_parts(paths, row)])
        held = [parts.read_part(path).tolist() for path in paths]
    lost = sorted(t for text in texts for t in encoding().encode_ordinary(text))
    assert sorted(t for part in held for t in part if t != bos) == lost
    for token in joined.ravel().tolist():
        if token != bos:
            lost.remove(token)  # fails for one that was not there, or twice
    assert len(lost) < row
    assert not len(joined) or (joined[:, 0] == bos).all()


def test_a_part_that_is_not_what_was_written_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a 'part'"
    assert parts.read_part(path) is None
    parts.make_part(tokenizer(), stdlib_texts(20_000), 257, path)
    whole = path.read_bytes()
    assert len(parts.read_part(path)) == (len(whole) - 32) / 2
    flipped = bytes([whole[0] ^ 1]) + whole[1:]
    for damaged in (b"", whole[:-1], whole[2:], whole[: len(whole) // 2], whole + b"x", flipped):
        path.write_bytes(damaged)
        assert parts.read_part(path) is None
    with pytest.raises(prepare.PrepareError, match="is damaged"):
        list(parts.join_parts([path], 257))


def test_a_part_of_the_validation_rows_samples_the_whole() -> None:
    blocks = [np.arange(start, start + 100).reshape(-1, 1) for start in range(0, 1000, 100)]
    (found,) = building.sample_rows(iter(blocks), 100)
    assert len(set(found.ravel().tolist())) == len(found) == 100
    assert 350 < found.mean() < 650
    (again,) = building.sample_rows(blocks, 100)
    assert np.array_equal(found, again)
    (whole,) = building.sample_rows(blocks, 5000)
    assert sorted(whole.ravel()) == list(range(1000))


# Dataset ------------------------------------------------------------------------------------------


def test_prepare_twice_builds_once_and_imports_nothing_heavy(prepared: Prepared) -> None:
    cache, dataset = prepared
    before = {path: path.stat().st_mtime_ns for path in dataset.path.iterdir()}
    program = (
        "import sys, prepare; code = prepare.main([]);"
        "heavy = {'torch', 'numpy', 'pyarrow', 'tiktoken', 'rustbpe', 'requests', 'tqdm'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = run_python("-c", program, cache=cache)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert {path: path.stat().st_mtime_ns for path in dataset.path.iterdir()} == before
    keys = "dataset fingerprint scale source vocab_size train_tokens val_tokens heldout_tokens"
    facts = summary(done.stdout)
    assert list(facts) == keys.split()
    assert re.fullmatch("[0-9a-f]{16}", facts["fingerprint"])
    assert (
        int(facts["val_tokens"])
        == int(facts["heldout_tokens"])
        == harness_settings.SCALES["small"].eval_tokens
    )
    assert done.stdout.startswith("---\n")


def test_what_is_built_is_what_was_given(prepared: Prepared) -> None:
    _, dataset = prepared
    rows = dataset.memory_map("train")
    assert rows.shape == (dataset.rows["train"], 257)
    assert (rows[:, 0] == dataset.bos).all()
    assert rows.max() < dataset.vocab_size <= prepare.VOCAB_SIZE
    corpus = "".join(
        path.read_text(encoding="utf-8") for path in Path(dataset.source).glob("*.txt")
    )
    encoding = dataset.tokenizer().encoding()
    for row in rows[::50].tolist():
        end = next((i for i, token in enumerate(row) if token == dataset.bos and i), len(row))
        assert encoding.decode_bytes(row[1 : min(end, 200)]).decode(errors="ignore")[:-1] in corpus


def copy_of(dataset: Any, to: Path) -> Path:
    shutil.copytree(dataset.path, to)
    return to


def test_damaged_datasets_are_errors(prepared: Prepared, tmp_path: Path) -> None:
    _, dataset = prepared
    truncated = copy_of(dataset, tmp_path / "trunc'd")
    with (truncated / "train.bin").open("r+b") as file:
        file.truncate(1001)
    with pytest.raises(prepare.PrepareError, match=r"train\.bin has 1001 bytes, not") as caught:
        prepare.Dataset.open(truncated, "small")
    assert "prepare.py --force" in caught.value.hint
    torn = copy_of(dataset, tmp_path / "torn")
    (torn / "meta.json").write_text((torn / "meta.json").read_text()[:50])
    with pytest.raises(prepare.PrepareError, match="not a whole dataset"):
        prepare.Dataset.open(torn, "small")
    flipped = copy_of(dataset, tmp_path / "flipped")
    data = bytearray((flipped / "val.bin").read_bytes())
    data[1000] ^= 1
    (flipped / "val.bin").write_bytes(data)
    opened = prepare.Dataset.open(flipped, "small")
    model = Bigram(opened.vocab_size)
    with pytest.raises(prepare.PrepareError, match=r"val\.bin is corrupt"):
        prepare.evaluate_bpb(model, 8, cpu(), opened)
    shutil.move(flipped / "val.bin", flipped / "heldout.bin")
    with pytest.raises(prepare.PrepareError, match=r"heldout\.bin is corrupt"):
        prepare.evaluate_bpb(model, 8, cpu(), opened, "heldout")
    with pytest.raises(prepare.PrepareError, match="small scale, not full"):
        prepare.Dataset.open(dataset.path, "full")


def test_nothing_prepared_yet(tmp_path: Path) -> None:
    said = failed(run_warm("train.py", cache=tmp_path / "none"))
    assert "no dataset is prepared for the small scale" in said
    assert "python prepare.py --scale small" in said


def test_force_builds_the_same_again_and_mends_damage(tmp_path: Path) -> None:
    cache, corpus = tmp_path / "c", write_corpus(tmp_path / "corp'us")
    first = run_python("prepare.py", "--dataset", corpus, cache=cache)
    (Path(summary(first.stdout)["dataset"]) / "meta.json").write_text("{")
    assert "not a whole dataset" in failed(run_python("prepare.py", cache=cache))
    again = run_python("prepare.py", "--force", cache=cache)
    assert again.stdout == first.stdout != ""
    (corpus / "one more.md").write_text("more " * 1000)
    more = run_python("prepare.py", "--dataset", corpus, cache=cache)
    assert summary(more.stdout)["fingerprint"] != summary(first.stdout)["fingerprint"]


def test_parallel_prepare(tmp_path: Path) -> None:
    corpus, cache = write_corpus(tmp_path / "corpus"), tmp_path / 'the "cache"'
    command = [sys.executable, "prepare.py", "--dataset", str(corpus)]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment(cache), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    ended = [(*child.communicate(timeout=100), child.returncode) for child in started]
    assert [code for _, _, code in ended] == [0, 0, 0], ended
    assert len({output for output, _, _ in ended}) == 1
    assert sum("built folder-small" in errors for _, errors, _ in ended) == 1
    assert len([path for path in (cache / "datasets").iterdir() if path.is_dir()]) == 1


def test_verify_reads_every_file(prepared: Prepared, tmp_path: Path) -> None:
    cache, dataset = prepared
    files = ["heldout.bin", "tokenizer.json", "train.bin", "val.bin"]
    whole = run_python("prepare.py", "--verify", cache=cache)
    assert whole.stdout.splitlines() == [f"{dataset.path / name}: ok" for name in files]
    assert whole.returncode == 0
    bad = copy_of(dataset, tmp_path / "it's bad")
    for name in ("train.bin", "heldout.bin"):
        data = bytearray((bad / name).read_bytes())
        data[-1] ^= 1
        (bad / name).write_bytes(data)
    done = run_python("prepare.py", "--verify", cache=cache, SWARM_DATASET=str(bad))
    assert [line.rsplit(": ", 1)[1] for line in done.stdout.splitlines()] == [
        "corrupt", "ok", "corrupt", "ok",
    ]  # fmt: skip
    assert re.search(r"heldout\.bin, train\.bin corrupt .*--force", failed(done))


# Builds in parts ----------------------------------------------------------------------------------

# prepare.py with parts of 8,000 characters: the tiny corpus has some hundred and fifty of them.
IN_PARTS = """
import dataclasses, os, resource, sys
import prepare
from swarm.harness import settings
if __name__ == "__main__":
    small = settings.SCALES["small"]
    settings.SCALES["small"] = dataclasses.replace(small, part_chars=8_000)
    exec(os.environ.get("FIRST", ""))
    sys.exit(prepare.main(["--dataset", sys.argv[1]]))
"""


def start_in_parts(place: Path, cache: Path) -> subprocess.Popen[str]:
    """A build of the corpus in `place`, in a process group of its own."""
    script = place / "in parts.py"
    script.write_text(IN_PARTS)
    return subprocess.Popen(
        [sys.executable, script, place / "corpus"], env=environment(cache), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def run_in_parts(place: Path, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    (place / "in parts.py").write_text(IN_PARTS)
    return run_python(place / "in parts.py", place / "corpus", cache=cache, **more)


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def alive(group: int) -> list[psutil.Process]:
    """The processes of a group, without those that are dead and not yet reaped."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def parts_in(cache: Path) -> list[Path]:
    return list(cache.glob("datasets/building-*/*.part"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A place with a corpus, and the summary of its build in parts on one core."""
    place = tmp_path_factory.mktemp('build "in" parts')
    write_corpus(place / "corpus")
    one_core = (
        "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, settings.cpu_cores()[:1])"
    )
    done = run_in_parts(place, place / "one", FIRST=one_core)
    assert done.returncode == 0, done.stderr
    return place, summary(done.stdout)


def test_the_result_is_the_same_on_any_number_of_cores(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    place, facts = undisturbed
    done = run_in_parts(place, tmp_path / "all")
    assert summary(done.stdout)["fingerprint"] == facts["fingerprint"], done.stderr
    assert "already" not in done.stderr


def test_a_killed_build_goes_on_where_it_was(undisturbed: Undisturbed, tmp_path: Path) -> None:
    place, facts = undisturbed
    cache = tmp_path / "the 'cache'"
    child = start_in_parts(place, cache)
    wait_for(lambda: len(parts_in(cache)) > 20 or child.poll() is not None)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    wait_for(lambda: not alive(child.pid), 5)
    found = len(parts_in(cache))
    assert found > 20
    torn, *_ = sorted(parts_in(cache))
    torn.write_bytes(torn.read_bytes()[:1000])
    torn.with_name(f"{torn.name}.1.tmp").write_bytes(b"unfinished")
    stale = cache / "datasets" / "building-other"
    stale.mkdir()
    done = run_in_parts(place, cache)
    assert summary(done.stdout)["fingerprint"] == facts["fingerprint"], done.stderr
    (said,) = re.findall(r"(\d+) of (\d+) parts were there already", done.stderr)
    assert int(said[0]) == found - 1 < int(said[1])
    assert not list(cache.glob("datasets/building-*"))
    one, other = Path(facts["dataset"]), Path(summary(done.stdout)["dataset"])
    assert {p.name for p in one.iterdir()} == {p.name for p in other.iterdir()}
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


# While the workers are started, while they import, while they work:
@pytest.mark.parametrize(("parts", "pause"), [(0, 0.0), (0, 0.15), (20, 0.0)])
def test_ctrl_c_is_one_line_and_keeps_the_parts(
    undisturbed: Undisturbed, tmp_path: Path, parts: int, pause: float
) -> None:
    place, _ = undisturbed
    cache = tmp_path / "cache"
    child = start_in_parts(place, cache)
    with_tracker = 2  # multiprocessing's own helper
    wait_for(
        lambda: parts_in(cache) or len(alive(child.pid)) > with_tracker or child.poll() is not None
    )
    wait_for(lambda: len(parts_in(cache)) >= parts or child.poll() is not None)
    time.sleep(pause)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the workers, too
    _, errors = child.communicate(timeout=10)
    assert child.returncode == 130, errors
    assert "Traceback" not in errors
    error, hint = errors.splitlines()[-2:]
    assert error == "error: interrupted"
    assert "finished parts" in hint
    wait_for(lambda: not alive(child.pid), 5)
    assert len(parts_in(cache)) >= parts


def test_a_killed_worker_is_one_error(undisturbed: Undisturbed, tmp_path: Path) -> None:
    place, _ = undisturbed
    cache = tmp_path / "cache"
    child = start_in_parts(place, cache)
    wait_for(lambda: len(parts_in(cache)) > 20 or child.poll() is not None)
    workers = [p for p in psutil.Process(child.pid).children() if "spawn_main" in str(p.cmdline())]
    if len(harness_settings.cpu_cores()) == 1:
        pytest.skip("one core: there are no workers")
    workers[0].kill()
    output, errors = child.communicate(timeout=10)
    done = subprocess.CompletedProcess([], child.returncode, output, errors)
    assert "a worker process was killed" in failed(done)


def test_a_full_disk_is_one_error_and_keeps_the_parts(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    place, facts = undisturbed
    limit = "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]; "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))"
    done = run_in_parts(place, tmp_path / "cache", FIRST=limit)
    assert "too large" in failed(done)  # all parts fit, train.bin does not
    done = run_in_parts(place, tmp_path / "cache")
    ((kept, of),) = re.findall(r"(\d+) of (\d+) parts were there already", done.stderr)
    assert kept == of
    assert summary(done.stdout)["fingerprint"] == facts["fingerprint"]


def test_progress_without_a_terminal_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("packing", " documents", 200) as progress:
        progress.update(50, "1 M tokens")
        assert capsys.readouterr().err == ""  # too soon
        progress.said -= 10
        progress.update(36, "2 M tokens")
        assert capsys.readouterr().err == "packing: 2 M tokens, 43 %\n"
    with Progress("downloading", "B") as progress:
        progress.said -= 10
        progress.update(30_000_000)
    assert capsys.readouterr().err == "downloading: 30 MB\n"


# Downloads ----------------------------------------------------------------------------------------


class Shards(http.server.BaseHTTPRequestHandler):
    """Serves files with ranges; can be told to be busy, or to hang up half-way, once per file."""

    files: ClassVar[dict[str, bytes]] = {}
    busy: ClassVar[set[str]] = set()
    cut: ClassVar[set[str]] = set()
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        begin = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.asked.append((name, begin))
        if name in self.busy:
            self.busy.remove(name)
            self.send_error(503)
            return
        if name not in self.files:
            self.send_error(404)
            return
        whole = self.files[name]
        if begin > len(whole):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(whole) - begin))
        self.end_headers()
        if name in self.cut:
            self.cut.remove(name)
            self.wfile.write(whole[begin : len(whole) // 2])
            self.close_connection = True
            return
        self.wfile.write(whole[begin:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    texts = [piece for text in stdlib_texts(1_500_000) for piece in sources.split_text(text, 700)]
    parts = {"shard_00000": texts[::3], "shard_00001": texts[1::3], "shard_06542": texts[2::3]}
    for name, part in parts.items():
        file = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": part}), file)
        Shards.files[file.name] = file.read_bytes()
    Shards.busy, Shards.cut, Shards.asked = set(), set(), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shards) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}/data set"
        http_server.shutdown()


def test_download_survives_a_busy_server_and_a_cut_connection(server: str, tmp_path: Path) -> None:
    Shards.busy.add("shard_00000.parquet")
    Shards.cut.add("shard_00001.parquet")
    cache = tmp_path / "ca'che"
    (cache / "shards").mkdir(parents=True)
    held = Shards.files["shard_06542.parquet"]
    (cache / "shards" / "shard_06542.parquet.part").write_bytes(held[:5000])
    arguments = ("prepare.py", "--dataset", "climbmix", "--shards", "2")
    done = run_python(*arguments, cache=cache, SWARM_DATA_URL=server)
    assert done.returncode == 0, done.stderr
    for name, content in Shards.files.items():
        assert (cache / "shards" / name).read_bytes() == content
    asked = sorted(Shards.asked)
    assert asked[:3] == [*[("shard_00000.parquet", 0)] * 2, ("shard_00001.parquet", 0)]
    assert asked[3][0] == "shard_00001.parquet"
    assert 0 < asked[3][1] <= len(Shards.files["shard_00001.parquet"]) // 2
    assert asked[4:] == [("shard_06542.parquet", 5000)]
    assert "503" in done.stderr
    assert summary(done.stdout)["source"] == "climbmix"
    assert run_python("prepare.py", cache=cache).stdout == done.stdout
    assert len(Shards.asked) == len(asked)


def test_a_shard_of_garbage_is_named(server: str, tmp_path: Path) -> None:
    whole = Shards.files["shard_00000.parquet"]
    middle = bytearray(whole)
    middle[len(whole) // 4 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 4)
    arguments = ("prepare.py", "--dataset", "climbmix", "--shards", "2")
    for garbage in (bytes(len(whole)), bytes(middle)):
        Shards.files["shard_00000.parquet"] = garbage
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        said = failed(run_python(*arguments, cache=tmp_path / "c", SWARM_DATA_URL=server))
        assert re.search(r"cannot read .*shard_00000\.parquet: .*delete the file", said)
    Shards.files["shard_00000.parquet"] = whole
    (tmp_path / "c" / "shards" / "shard_00000.parquet").unlink()
    done = run_python(*arguments, cache=tmp_path / "c", SWARM_DATA_URL=server)
    assert done.returncode == 0, done.stderr


def test_climbmix_splits_the_last_shard_by_documents(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path))
    monkeypatch.setenv("SWARM_DATA_URL", server)
    found = by_split(climbmix.Climbmix(2).documents(harness_settings.SCALES["small"]))
    last = list(sources.parquet_texts(tmp_path / "shards" / "shard_06542.parquet"))
    assert found["val"] == last[::2]
    assert found["heldout"] == last[1::2]
    first = list(sources.parquet_texts(tmp_path / "shards" / "shard_00000.parquet"))
    assert found["train"][: len(first)] == first


def test_download_gives_up_where_there_is_no_file(server: str, tmp_path: Path) -> None:
    arguments = ("prepare.py", "--dataset", "climbmix", "--shards", "3")
    done = run_python(*arguments, cache=tmp_path / "c", SWARM_DATA_URL=server)
    assert "shard_00002.parquet: HTTP status 404" in failed(done)


def test_one_failing_shard_stops_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Shards):
        def do_GET(self) -> None:
            if "shard_00000" in self.path:
                time.sleep(0.3)
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(200 << 16))
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(200):  # 10 s
                    self.wfile.write(bytes(1 << 16))
                    time.sleep(0.05)

    monkeypatch.setenv("SWARM_CACHE", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as http_server:
        http_server.daemon_threads = True
        http_server.block_on_close = False
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SWARM_DATA_URL", f"http://127.0.0.1:{http_server.server_port}")
        started = time.monotonic()
        with pytest.raises(prepare.PrepareError, match="404"):
            climbmix.Climbmix(1).documents(harness_settings.SCALES["small"])
        assert time.monotonic() - started < 4
        http_server.shutdown()
    (part,) = (tmp_path / "shards").iterdir()
    assert part.name == "shard_06542.parquet.part"
    assert part.stat().st_size > 0


def test_download_begins_anew_when_the_part_is_too_long(server: str, tmp_path: Path) -> None:
    whole = Shards.files["shard_00000.parquet"]
    (tmp_path / "x.part").write_bytes(whole + b"and more")
    climbmix.download(f"{server}/shard_00000.parquet", tmp_path / "x", lambda received, size: None)
    assert (tmp_path / "x").read_bytes() == whole


# Loader -------------------------------------------------------------------------------------------


def cpu() -> Any:
    return prepare.pick_device()


def test_loader_visits_every_row_once_an_epoch(prepared: Prepared) -> None:
    _, dataset = prepared
    rows = dataset.memory_map("train")
    loader = prepare.Loader(dataset, 7, cpu(), seed=3)
    batches, seen = [], 0
    while seen < len(rows):
        x, y = next(loader)
        assert x.dtype == y.dtype == torch.int64
        assert x.shape == y.shape == (7, 256)
        assert torch.equal(x[:, 1:], y[:, :-1])
        batches.append(torch.cat((x, y[:, -1:]), dim=1))
        seen += 7
    assert loader.epoch == (1 if seen == len(rows) else 2)
    visited = torch.cat(batches)[: len(rows)].numpy().astype(np.uint16)
    assert sorted(map(bytes, visited)) == sorted(map(bytes, np.asarray(rows)))
    assert not np.array_equal(visited, rows)
    again = prepare.Loader(dataset, 7, cpu(), seed=3)
    assert all(torch.equal(next(again)[0], batch[:, :-1]) for batch in batches[:5])
    other = prepare.Loader(dataset, 7, cpu(), seed=4)
    assert not torch.equal(next(other)[0], batches[0][:, :-1])


def test_tokens_that_travel_as_int16_arrive() -> None:
    rows = np.arange(2**15, dtype=np.uint16).reshape(128, 256)
    for kind in ("cpu", "mps"):  # the latter's way, here on the CPU
        found = loader.to_device(rows, dataclasses.replace(cpu(), kind=kind))
        assert found.dtype == torch.int64
        assert found.ravel().tolist() == list(range(2**15))
    with pytest.raises(AssertionError):
        dataclasses.replace(harness_settings.SCALES["full"], vocab_size=2**15 + 1)


# Evaluation ---------------------------------------------------------------------------------------


class Bigram(torch.nn.Module):
    """Logits that depend on the token and its predecessor; `peek` adds something of the next."""

    def __init__(self, vocab_size: int, peek: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = torch.nn.Parameter(torch.randn(vocab_size, vocab_size, generator=generator))
        self.peek = peek

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.table[x] + 0.5 * self.table[x.roll(1, dims=1)].flip(-1)
        logits[:, 0] = self.table[x[:, 0]]
        if self.peek:
            logits = logits.scatter_add(
                2, x.roll(-1, dims=1).unsqueeze(2), torch.full((*x.shape, 1), self.peek)
            )
        return logits


@pytest.fixture
def few_rows(prepared: Prepared) -> Any:
    """The tiny dataset with its first 40 validation and 8 held-out rows."""
    dataset = prepared[1]
    return dataclasses.replace(dataset, rows=dataset.rows | {"val": 40, "heldout": 8})


def reference_bpb(model: Any, dataset: Any, split: str) -> tuple[float, int, int]:
    """(bpb, tokens, bytes) with everything in float64, one row after the other."""
    lengths = np.array(dataset.tokenizer().token_bytes())
    nats, size, tokens = 0.0, 0, 0
    for row in dataset.memory_map(split).astype("int64"):
        with torch.no_grad():
            logits = model(torch.from_numpy(row[None, :-1])).double()[0]
        (places,) = np.nonzero(row[1:] != dataset.bos)
        text = row[1:][places]
        nats += float((torch.logsumexp(logits, 1)[places] - logits[places, text]).sum())
        size += int(lengths[text].sum())
        tokens += len(text)
    return nats / math.log(2) / size, tokens, size


def test_bpb_is_the_float64_reference_for_every_batch_size(
    few_rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Bigram(few_rows.vocab_size)
    expected, tokens, size = reference_bpb(model, few_rows, "val")
    attest = tmp_path / "the 'result'.json"
    monkeypatch.setenv("SWARM_ATTEST", str(attest))
    scores = {}
    for batch_size in (7, 32, 33, 128):
        scores[batch_size] = prepare.evaluate_bpb(model, batch_size, cpu(), few_rows)
        assert scores[batch_size] == pytest.approx(expected, rel=1e-7)
        written = json.loads(attest.read_text())
        score = {"val_bpb": scores[batch_size], "tokens": tokens, "bytes": size, "causal": True}
        assert written.pop("training_seconds") > 0  # no batch was handed out: since the start
        assert written.pop("batches") >= 0
        nats = np.frombuffer(base64.b64decode(written.pop("row_nats")), "<f4").astype(np.float64)
        assert len(nats) == few_rows.rows["val"]
        assert nats.sum() == pytest.approx(expected * math.log(2) * size, rel=1e-6)
        assert written.pop("weights") == ""  # nobody asked for them
        assert written == score
        assert list(tmp_path.iterdir()) == [attest]
    assert scores[32] == scores[33] == scores[128]  # bit for bit
    assert model.training
    attest.unlink()
    found = prepare.evaluate_bpb(model, 32, cpu(), few_rows, "heldout")
    assert found == pytest.approx(reference_bpb(model, few_rows, "heldout")[0], rel=1e-7)
    assert found != pytest.approx(expected, rel=1e-4)
    assert not attest.exists()


def test_the_model_is_called_with_the_scales_rows_at_most(few_rows: Any) -> None:
    model = Bigram(few_rows.vocab_size)
    seen = set()

    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.add(tuple(x.shape))
        return model(x)

    for batch_size, rows in ((100, 32), (32, 32), (5, 5)):
        seen.clear()
        prepare.evaluate_bpb(watched, batch_size, cpu(), few_rows)
        assert seen == {(rows, 256)}


@pytest.mark.parametrize("peek", [20.0, 0.05])
def test_a_model_that_looks_ahead_is_refused(
    few_rows: Any, peek: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_ATTEST", str(tmp_path / "a.json"))
    with pytest.raises(prepare.EvaluationError, match="looks ahead"):
        prepare.evaluate_bpb(Bigram(few_rows.vocab_size, peek), 16, cpu(), few_rows)
    assert not list(tmp_path.iterdir())


def test_a_model_that_reuses_its_memory_cannot_hide(few_rows: Any) -> None:
    model, memory = Bigram(few_rows.vocab_size, 20.0), torch.empty(0)

    def forward(x: torch.Tensor) -> torch.Tensor:
        nonlocal memory
        memory = model(x) if memory.shape[:2] != x.shape else memory.copy_(model(x))
        return memory

    with pytest.raises(prepare.EvaluationError, match="looks ahead"):
        prepare.evaluate_bpb(forward, 16, cpu(), few_rows)


def test_a_noisy_model_is_refused(few_rows: Any) -> None:
    model = Bigram(few_rows.vocab_size)
    calls = itertools.count()
    with pytest.raises(prepare.EvaluationError, match="for the same tokens"):
        prepare.evaluate_bpb(lambda x: model(x) + next(calls), 16, cpu(), few_rows)


def test_masked_logits_and_a_little_noise_are_scored(few_rows: Any) -> None:
    model = Bigram(few_rows.vocab_size + 1)
    expected = prepare.evaluate_bpb(lambda x: model(x)[..., :-1], 4, cpu(), few_rows)

    def masked(x: torch.Tensor) -> torch.Tensor:
        return model(x).index_fill(2, torch.tensor([few_rows.vocab_size]), -math.inf)

    for _ in range(3):  # other batches are probed each time
        assert prepare.evaluate_bpb(masked, 4, cpu(), few_rows) == pytest.approx(expected)
    x = torch.zeros(2, 256, dtype=torch.int64)
    logits = model(x).detach()
    evaluation.check_causal(lambda x: logits + 0.1, x, logits, few_rows.vocab_size)
    for noise in (0.2, math.nan):
        with pytest.raises(prepare.EvaluationError, match="for the same tokens"):
            evaluation.check_causal(lambda x, n=noise: logits + n, x, logits, few_rows.vocab_size)


def test_misshapen_and_infinite_logits_are_refused(few_rows: Any) -> None:
    model = Bigram(few_rows.vocab_size)
    with torch.no_grad():
        model.table[few_rows.bos] = math.nan
    with pytest.raises(prepare.EvaluationError, match="not finite"):
        prepare.evaluate_bpb(model, 16, cpu(), few_rows)
    with pytest.raises(prepare.EvaluationError, match="shape"):
        prepare.evaluate_bpb(lambda x: torch.zeros(*x.shape, 5), 16, cpu(), few_rows)
