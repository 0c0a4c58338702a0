"""prepare.py: sources, tokenizer, packing, dataset, loader, evaluation, device lock."""

from __future__ import annotations

import contextlib
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
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
    stdlib_texts,
    summary,
    write_corpus,
)

__all__ = ["prepared"]

Prepared = tuple[Path, Any]
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
    pieces = list(prepare.split_text(text, limit))
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert re.sub(r"\s", "", "".join(pieces)) == re.sub(r"\s", "", text)


def test_a_section_is_in_one_split_and_copies_are_together(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "a 'corpus'")
    for path in sorted(folder.iterdir())[:20]:
        shutil.copy(path, folder / f"copy of {path.name}")
    train, val = prepare.Folder(folder).documents(prepare.SCALES["small"])
    train_texts, val_texts = list(train()), list(val())
    assert not {t for t in train_texts if len(t) > 200} & {v for v in val_texts if len(v) > 200}
    size = sum(len(text.encode()) for text in val_texts)
    assert size >= prepare.SCALES["small"].min_val_tokens * prepare.VAL_BYTES_PER_TOKEN * 0.99
    again = prepare.Folder(folder).documents(prepare.SCALES["small"])
    assert (list(again[0]()), list(again[1]())) == (train_texts, val_texts)


def test_folder_errors(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run = functools.partial(run_python, "prepare.py", cache=cache)
    assert "no folder" in failed(run("--dataset", "no such folder"))
    empty = tmp_path / "it's empty"
    (empty / "x").mkdir(parents=True)
    (empty / "picture.png").write_bytes(b"\x89PNG")
    assert "no text in" in failed(run("--dataset", empty))
    small = write_corpus(tmp_path / "small", 300_000)
    assert "too little" in failed(run("--dataset", small))
    bad = write_corpus(tmp_path / "bad")
    (bad / "broken file.txt").write_bytes(b"good until here \xff\xfe")
    assert "broken file.txt is not UTF-8 text (byte 16)" in failed(run("--dataset", bad))
    table = tmp_path / "table"
    table.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"words": ["a"]}), table / "t.parquet")
    assert "no column `text`" in failed(run("--dataset", table))
    (table / "t.parquet").write_bytes(b"PAR1 is not enough")
    assert "cannot read" in failed(run("--dataset", table))
    assert not list(cache.glob("datasets/*"))


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
    trained = prepare.Tokenizer.train(iter(stdlib_texts(200_000)), 600)
    return prepare.Tokenizer.from_json(trained.to_json())


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_tokenizer_round_trip_and_true_bytes(text: str) -> None:
    tokens = tokenizer().encoding().encode_ordinary(text)
    assert tokenizer().encoding().decode(tokens) == text
    lengths = tokenizer().token_bytes()
    assert sum(lengths[token] for token in tokens) == len(text.encode())


def test_specials_have_no_bytes_and_are_never_read_from_text() -> None:
    assert tokenizer().vocab_size == 600
    assert tokenizer().token_bytes()[596:] == [0, 0, 0, 0]
    assert min(tokenizer().token_bytes()[:596]) == 1
    assert tokenizer().encoding().encode_single_token("<|reserved_0|>") == tokenizer().bos == 596
    (document,) = prepare.encode_documents(tokenizer(), ["<|reserved_0|>"])
    assert document[0] == 596
    assert (document[1:] < 596).all()


def test_numbers_are_split_in_two_digits_at_most() -> None:
    trained = prepare.Tokenizer.train(iter(["1234567 " * 1000]), 300)
    assert len([token for token in trained.tokens if token.isdigit() and len(token) == 2]) > 2
    assert not [token for token in trained.tokens if token.isdigit() and len(token) > 2]


# Packing ------------------------------------------------------------------------------------------


def numbered_documents(lengths: list[int]) -> list[np.ndarray]:
    """Documents of the given lengths: BOS, then tokens that name the document and the place."""
    return [
        np.array([BOS, *(100 * (number + 1) + place for place in range(length - 1))], np.uint16)
        for number, length in enumerate(lengths)
    ]


@given(st.lists(st.integers(2, 40), max_size=60), st.integers(2, 25), st.integers(1, 12))
@settings(deadline=None)
def test_packing_loses_only_what_it_crops(lengths: list[int], row: int, buffer: int) -> None:
    documents = numbered_documents(lengths)
    rows = list(prepare.pack_rows(iter(documents), row, buffer))
    whole = {document.tobytes() for document in documents}
    seen: list[bytes] = []
    for packed in rows:
        assert len(packed) == row
        assert packed[0] == BOS
        starts = [*np.flatnonzero(packed == BOS), row]
        pieces = [packed[a:b] for a, b in itertools.pairwise(starts)]
        for piece in pieces[:-1]:
            assert piece.tobytes() in whole
        last = pieces[-1].tobytes()
        assert any(document.startswith(last) for document in whole)
        seen += [piece.tobytes() for piece in pieces]
    assert len(seen) <= len(documents)
    named = [piece[2:4] for piece in seen if len(piece) > 2]  # cropped to BOS alone: no name left
    assert len(set(named)) == len(named)
    unseen = [document for document in documents if document[1:2].tobytes() not in named]
    unseen.sort(key=len, reverse=True)
    nameless = len(seen) - len(named)
    # Only the documents of a last row that could not be filled are dropped.
    assert sum(len(document) for document in unseen[nameless:]) < row
    again = list(prepare.pack_rows(iter(documents), row, buffer))
    assert [packed.tobytes() for packed in again] == [packed.tobytes() for packed in rows]


def test_packing_takes_the_best_fit_and_crops_the_shortest() -> None:
    rows = list(prepare.pack_rows(iter(numbered_documents([4, 7, 5, 9, 8])), 10, 1000))
    lengths = [np.diff([*np.flatnonzero(row == BOS), 10]).tolist() for row in rows]
    assert lengths == [[9, 1], [8, 2]]  # 9, then 4 cropped to 1; 8, then 5 cropped to 2
    assert rows[1][9] == 300
    (row,) = prepare.pack_rows(iter(numbered_documents([6, 3, 4])), 10, 1000)
    assert np.flatnonzero(row == BOS).tolist() == [0, 6]  # 6, then the exact fit


def test_a_part_of_the_validation_rows_samples_the_whole() -> None:
    rows = [np.array([number], np.uint16) for number in range(1000)]
    found = [int(row[0]) for row in prepare.shuffled(iter(rows), 100)]
    assert len(set(found)) == 100
    assert 350 < sum(found) / 100 < 650
    assert found == [int(row[0]) for row in prepare.shuffled(rows, 100)]
    assert sorted(int(row[0]) for row in prepare.shuffled(rows, 5000)) == list(range(1000))


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
    keys = "dataset fingerprint scale source vocab_size train_tokens val_tokens"
    facts = summary(done.stdout)
    assert list(facts) == keys.split()
    assert re.fullmatch("[0-9a-f]{16}", facts["fingerprint"])
    assert int(facts["val_tokens"]) >= prepare.EVAL_TOKENS
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
    with pytest.raises(prepare.PrepareError, match=r"val\.bin is corrupt"):
        prepare.evaluate_bpb(Bigram(opened.vocab_size), 8, cpu(), opened)
    with pytest.raises(prepare.PrepareError, match="small scale, not full"):
        prepare.Dataset.open(dataset.path, "full")


def test_nothing_prepared_yet(tmp_path: Path) -> None:
    said = failed(run_python("train.py", cache=tmp_path / "none"))
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


def test_a_killed_build_leaves_nothing_half_done(tmp_path: Path) -> None:
    corpus, cache = write_corpus(tmp_path / "corpus"), tmp_path / "cache"
    command = [sys.executable, "prepare.py", "--dataset", str(corpus)]
    child = subprocess.Popen(command, cwd=ROOT, env=environment(cache), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(cache.glob("datasets/building-*/tokenizer.json")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    (draft,) = cache.glob("datasets/*")
    assert draft.name.startswith("building-")
    done = run_python("prepare.py", "--dataset", corpus, cache=cache)
    assert done.returncode == 0, done.stderr
    assert not list(cache.glob("datasets/building-*"))


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
    texts = [piece for text in stdlib_texts(1_500_000) for piece in prepare.split_text(text, 700)]
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
            prepare.Climbmix(1).documents(prepare.SCALES["small"])
        assert time.monotonic() - started < 4
        http_server.shutdown()
    (part,) = (tmp_path / "shards").iterdir()
    assert part.name == "shard_06542.parquet.part"
    assert part.stat().st_size > 0


def test_download_begins_anew_when_the_part_is_too_long(server: str, tmp_path: Path) -> None:
    whole = Shards.files["shard_00000.parquet"]
    (tmp_path / "x.part").write_bytes(whole + b"and more")
    prepare.download(f"{server}/shard_00000.parquet", tmp_path / "x", lambda size: None)
    assert (tmp_path / "x").read_bytes() == whole


# Loader -------------------------------------------------------------------------------------------


def cpu() -> Any:
    return prepare.Device("cpu", "CPU", "cpu", "float32", False, None, ("cpu-0",))


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
def few_rows(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny dataset with a validation pass of 40 rows."""
    scale = prepare.SCALES["small"]
    short = prepare.Scale(scale.seq_len, scale.vocab_size, 40 * 256, scale.min_val_tokens)
    monkeypatch.setitem(prepare.SCALES, "small", short)
    return prepared[1]


def reference_bpb(model: Any, dataset: Any) -> tuple[float, int, int]:
    """(bpb, tokens, bytes) with everything in float64, one row after the other."""
    lengths = dataset.tokenizer().token_bytes()
    nats, size, tokens = 0.0, 0, 0
    for row in dataset.memory_map("val")[:40].astype("int64"):
        with torch.no_grad():
            logits = model(torch.from_numpy(row[None, :-1])).double()[0]
        for place, token in enumerate(row[1:].tolist()):
            if token == dataset.bos:
                continue
            nats += float(torch.logsumexp(logits[place], 0) - logits[place, token])
            size += lengths[token]
            tokens += 1
    return nats / math.log(2) / size, tokens, size


def test_bpb_is_the_float64_reference_for_every_batch_size(
    few_rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Bigram(few_rows.vocab_size)
    expected, tokens, size = reference_bpb(model, few_rows)
    attest = tmp_path / "the 'result'.json"
    monkeypatch.setenv("SWARM_ATTEST", str(attest))
    for batch_size in (1, 7, 16, 40, 64):
        found = prepare.evaluate_bpb(model, batch_size, cpu(), few_rows)
        assert found == pytest.approx(expected, rel=1e-7)
        written = json.loads(attest.read_text())
        assert written == {"val_bpb": found, "tokens": tokens, "bytes": size, "causal": True}
        assert list(tmp_path.iterdir()) == [attest]
    assert model.training


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
    prepare.check_causal(lambda x: logits + 0.1, x, logits, few_rows.vocab_size)
    for noise in (0.2, math.nan):
        with pytest.raises(prepare.EvaluationError, match="for the same tokens"):
            prepare.check_causal(lambda x, n=noise: logits + n, x, logits, few_rows.vocab_size)


def test_misshapen_and_infinite_logits_are_refused(few_rows: Any) -> None:
    model = Bigram(few_rows.vocab_size)
    with torch.no_grad():
        model.table[few_rows.bos] = math.nan
    with pytest.raises(prepare.EvaluationError, match="not finite"):
        prepare.evaluate_bpb(model, 16, cpu(), few_rows)
    with pytest.raises(prepare.EvaluationError, match="shape"):
        prepare.evaluate_bpb(lambda x: torch.zeros(*x.shape, 5), 16, cpu(), few_rows)


# Devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
    ],
)
def test_peak_flops(name: str, tflops: float) -> None:
    assert prepare.peak_flops(name) == pytest.approx(tflops * 1e12)


def test_unknown_parts_have_no_peak() -> None:
    assert prepare.peak_flops("NVIDIA A4000") is None
    assert prepare.peak_flops("NVIDIA GeForce GTX 1080") is None


def test_lock_is_refused_while_held_and_names_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "a 'cache'"
    monkeypatch.setenv("SWARM_CACHE", str(cache))
    device = prepare.Device("cpu", "CPU", "cpu", "float32", False, None, ("cpu-0", "cpu-1"))
    program = (
        "import prepare, sys, time;"
        "d = prepare.Device('cpu', 'CPU', 'cpu', 'float32', False, None, ('cpu-1',));"
        "held = prepare.lock_device(d); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=environment(cache), stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(prepare.PrepareError, match=f"pid {child.pid} in ") as caught:
            prepare.lock_device(device)
        assert caught.value.exit_code == 3
    finally:
        child.kill()
        child.wait()
    held = prepare.lock_device(device)  # freed by the kernel, and nothing kept by the refusal
    assert (cache / "locks" / "cpu-1.lock").read_text() == f"pid {os.getpid()} in {Path.cwd()}\n"
    for file in held:
        file.close()


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({}, "rocm-0"),
        ({"HIP_VISIBLE_DEVICES": "2,3"}, "rocm-2"),
        ({"ROCR_VISIBLE_DEVICES": "5", "HIP_VISIBLE_DEVICES": "0"}, "rocm-5"),
    ],
)
def test_an_amd_gpu_has_the_workers_lock_key(environ: dict[str, str], key: str) -> None:
    assert prepare.amd_key(environ) == key
