"""Data, tokenizer, loader, evaluation and device helpers: the fixed half of an experiment.

`python prepare.py` builds a dataset once (download or collect text, train a tokenizer, tokenize,
pack into rows) and prints what is there; `train.py` imports this file. Agents may not edit it:
what a trial is scored by is `evaluate_bpb` below.

Environment, read when this module is imported or used:
    SWARM_CACHE          where datasets, downloads and locks live (default ~/.cache/swarm)
    SWARM_SCALE          full | small (default: full where an accelerator is, else small)
    SWARM_DATASET        directory of a prepared dataset (default: the last one prepared)
    SWARM_SECONDS        training budget in seconds of wall-clock time (default 300)
    SWARM_SEED           seed of weights and row order (default 42)
    SWARM_ATTEST         file in which evaluate_bpb leaves its result as JSON (default: none)
    SWARM_DEVICE_LOCKED  1: the caller of train.py holds the device lock already
    SWARM_DATA_URL       where the climbmix shards are fetched from (default: the Hugging Face hub)
"""

from __future__ import annotations

import argparse
import base64
import bisect
import collections
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import random
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    import numpy as np
    import tiktoken
    import torch

# ==================================================================================================
# Settings: what every trial of a device class shares
# ==================================================================================================


class PrepareError(Exception):
    """A failure the user can act on: what happened, what to do about it, the exit code."""

    def __init__(self, message: str, hint: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


@dataclass(frozen=True)
class Scale:
    """Sizes that datasets and trials of one scale share.

    `eval_tokens` is what one validation pass scores; a validation set must hold `min_val_tokens`.
    """

    seq_len: int
    vocab_size: int
    eval_tokens: int
    min_val_tokens: int


SCALES = {
    "full": Scale(2048, 8192, eval_tokens=40 * 524288, min_val_tokens=65536),
    "small": Scale(256, 1024, eval_tokens=65536, min_val_tokens=65536),
}


def default_scale() -> str:
    """`full` where a CUDA or ROCm device node is visible, else `small` (no torch needed)."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "small"
    dev = Path("/dev")
    wsl = (dev / "dxg").exists() and shutil.which("nvidia-smi") is not None
    seen = wsl or (dev / "kfd").exists() or any(dev.glob("nvidia[0-9]*"))
    return "full" if seen else "small"


def env_number(name: str, default: float) -> float:
    """A number from the environment; NaN where it is none (see check_environment)."""
    try:
        return float(os.environ.get(name) or default)
    except ValueError:
        return math.nan


SCALE = os.environ.get("SWARM_SCALE") or default_scale()
_SIZES = SCALES.get(SCALE, SCALES["small"])  # check_environment refuses others
MAX_SEQ_LEN = _SIZES.seq_len
VOCAB_SIZE = _SIZES.vocab_size  # at most; a tiny corpus may give fewer tokens
EVAL_TOKENS = _SIZES.eval_tokens
TIME_BUDGET = env_number("SWARM_SECONDS", 300)  # seconds
SEED = env_number("SWARM_SEED", 42)

FORMAT = 1  # of a dataset directory
DOC_LIMIT = 10_000  # characters of a document that are used, as upstream
TOKENIZER_CHARS = 1_000_000_000  # text the tokenizer is trained on, as upstream
PACK_BUFFER = 1000  # documents that best-fit packing chooses from, as upstream
SPECIALS = tuple(f"<|reserved_{i}|>" for i in range(4))  # the first begins every document
# The split pattern of tiktoken's cl100k_base (GPT-4), but at most two digits per number.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def check_environment() -> None:
    """Raise PrepareError (usage) for settings that make no sense."""
    if SCALE not in SCALES:
        raise PrepareError(f"SWARM_SCALE is {SCALE!r}", "set it to full or small", 2)
    if not 0 < TIME_BUDGET < math.inf:
        raise PrepareError("SWARM_SECONDS is no positive number", "set it to seconds, as in 300", 2)
    if not (SEED >= 0 and SEED.is_integer()):
        raise PrepareError("SWARM_SEED is no whole number from 0", "set it to one, as in 42", 2)


def cache_dir() -> Path:
    return Path(os.environ.get("SWARM_CACHE") or Path.home() / ".cache" / "swarm").absolute()


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def fail(error: PrepareError) -> int:
    """Print the two lines every failure has; return the exit code."""
    log(f"error: {error}\nhint: {error.hint}")
    return error.exit_code


def write_atomic(path: Path, text: str) -> None:
    """Readers see the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def build_lock(cache: Path) -> Iterator[None]:
    """One build at a time per cache; the kernel frees the lock of a dead process."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "prepare.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("another prepare.py is at work in this cache: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ==================================================================================================
# Sources: where text comes from
# ==================================================================================================

TEXT_SUFFIXES = (
    ".c .cc .cfg .cpp .css .csv .cu .go .h .hpp .html .ini .java .jl .js .json .jsonl .kt .lua .md"
    " .org .php .pl .py .r .rb .rs .rst .scala .sh .sql .swift .tex .toml .ts .txt .xml .yaml"
    " .yml .parquet"
)
Documents = Callable[[], Iterator[str]]  # reads its documents anew at each call
SECTION = 50_000  # characters of a text that stay together in one split
VAL_SHARE = 0.05  # of a folder's bytes
MAX_VAL_SHARE = 1 / 3  # above this a folder is too small to be split
VAL_BYTES_PER_TOKEN = 5  # bytes set aside per validation token: more than tokens have on average


def split_text(text: str, limit: int) -> Iterator[str]:
    """Cut a long text into documents of at most `limit` characters, at a blank line or line end."""
    start = 0
    while start < len(text):
        end = start + limit
        if end < len(text):
            for mark in ("\n\n", "\n"):
                cut = text.rfind(mark, start + limit // 2, end)
                if cut >= 0:
                    end = cut + len(mark)
                    break
        if text[start:end].strip():
            yield text[start:end]
        start = end


class Folder:
    """Text files and Parquet files (column `text`) below a directory, in path order.

    A section (a file, a Parquet row, or 50,000 characters of a longer one) belongs as a whole to
    the training or the validation split, by the hash of its content, so copies of a section never
    lie on both sides.
    """

    def __init__(self, root: Path, skip: frozenset[str] = frozenset()) -> None:
        self.root, self.name = root, str(root)
        self.files = []
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(s for s in subfolders if s not in skip and s[0] != ".")
            for file in sorted(names):
                path = Path(folder, file)
                if path.suffix.lower() in TEXT_SUFFIXES.split() and path.is_file():
                    self.files.append(path)
        if not self.files:
            raise PrepareError(
                f"no text in {root}", "give a folder with .txt, .md, .py, … or .parquet files"
            )

    def signature(self) -> str:
        """Changes when a file is added, removed or written."""
        stats = ((str(p.relative_to(self.root)), p.stat()) for p in self.files)
        lines = (f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}" for name, stat in stats)
        return hashlib.sha256("\n".join([str(self.root), *lines]).encode()).hexdigest()

    def texts(self) -> Iterator[str]:
        """Whole texts: files and Parquet rows."""
        for path in self.files:
            if path.suffix.lower() == ".parquet":
                yield from parquet_texts(path)
                continue
            try:
                yield path.read_bytes().decode("utf-8")
            except UnicodeDecodeError as error:
                raise PrepareError(
                    f"{path} is not UTF-8 text (byte {error.start})",
                    "convert the file to UTF-8 or move it out of the folder",
                ) from None

    def sections(self) -> Iterator[tuple[int, str]]:
        """(hash, text) of every section."""
        for text in self.texts():
            for section in split_text(text, SECTION):
                digest = hashlib.sha256(section.encode()).digest()
                yield int.from_bytes(digest[:8], "big"), section

    def documents(self, sizes: Scale) -> tuple[Documents, Documents]:
        """The documents for training and for validation.

        The sections with the smallest hashes are for validation: 5 % of the bytes, or as many as
        one validation pass needs. Raises PrepareError where that is too much of the whole.
        """
        lengths = [(key, len(section.encode())) for key, section in self.sections()]
        total = sum(length for _, length in lengths)
        floor = sizes.min_val_tokens * VAL_BYTES_PER_TOKEN
        held, validation = 0, set()
        for key, length in sorted(set(lengths)):
            if held < max(VAL_SHARE * total, floor) and held + length <= MAX_VAL_SHARE * total:
                held += length
                validation.add(key)
        if held < floor:
            raise PrepareError(
                f"{self.name} holds {total / 1e6:.2f} MB of text: too little for training and one"
                " validation pass",
                f"give at least {floor / MAX_VAL_SHARE / 1e6:.1f} MB of text",
            )

        def part(chosen: bool) -> Iterator[str]:
            for key, section in self.sections():
                if (key in validation) == chosen:
                    yield from split_text(section, 3 * sizes.seq_len)

        return lambda: part(False), lambda: part(True)


class Builtin(Folder):
    """The text and source shipped with the running Python: works without network and data."""

    def __init__(self) -> None:
        skip = frozenset(("site-packages", "dist-packages", "__pycache__", "pydoc_data"))
        super().__init__(Path(os.__file__).parent, skip)
        self.name = "builtin"

    def texts(self) -> Iterator[str]:
        from pydoc_data.topics import topics  # the language reference, one string per topic

        yield from (topics[name] for name in sorted(topics))
        for path in self.files:
            with contextlib.suppress(UnicodeDecodeError):  # some tests are badly encoded on purpose
                yield path.read_bytes().decode("utf-8")


class Climbmix:
    """karpathy/climbmix-400b-shuffle: numbered Parquet shards; the last is for validation."""

    URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
    VAL_SHARD = 6542
    name = "climbmix"

    def __init__(self, shards: int) -> None:
        self.names = [f"shard_{i:05d}.parquet" for i in [*range(shards), self.VAL_SHARD]]

    def signature(self) -> str:
        return f"climbmix {len(self.names) - 1}"

    def documents(self, sizes: Scale) -> tuple[Documents, Documents]:
        url = os.environ.get("SWARM_DATA_URL") or self.URL
        folder = cache_dir() / "shards"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in self.names]
        stop = threading.Event()
        with progress_bar("downloading", "B") as bar, ThreadPoolExecutor(8) as pool:

            def report(size: int) -> None:
                if stop.is_set():
                    raise PrepareError("the download was stopped", "run prepare.py again")
                bar.update(size)

            def fetch(path: Path) -> Path:
                report(0)
                return download(f"{url}/{path.name}", path, report)

            fetched = {pool.submit(fetch, path): path for path in paths}
            try:
                for done, future in enumerate(as_completed(fetched), 1):
                    future.result()
                    log(f"{fetched[future].name} is here ({done} of {len(paths)})")
            finally:  # a failure or Ctrl-C: the pool waits for threads, so they must end
                stop.set()

        def part(chosen: list[Path]) -> Iterator[str]:
            for path in chosen:
                yield from (text[:DOC_LIMIT] for text in parquet_texts(path))

        return lambda: part(paths[:-1]), lambda: part(paths[-1:])


def parquet_texts(path: Path) -> Iterator[str]:
    """The column `text` of a Parquet file, row group by row group."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise PrepareError(f"{path} has no column `text`", "rename its text column")
            for batch in file.iter_batches(batch_size=1024, columns=["text"]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise PrepareError(
            f"cannot read {path}: {reason}", "delete the file and run prepare.py again"
        ) from None


def progress_bar(label: str, unit: str) -> Any:
    """A tqdm bar on stderr, silent where that is no terminal."""
    import tqdm

    return tqdm.tqdm(desc=label, unit=unit, unit_scale=True, disable=None, leave=False)


def download(url: str, path: Path, report: Callable[[int], Any], attempts: int = 6) -> Path:
    """Fetch `url` to `path` unless it is there; a `.part` file is continued, its size checked.

    `report` gets the number of bytes of every chunk that arrives.

    Retries with doubling pauses from 0.5 s. Raises PrepareError when the attempts are used up or
    the server says that there is no such file.
    """
    if path.exists():
        return path
    import requests

    part = path.with_name(path.name + ".part")
    reason = ""
    for attempt in range(attempts):
        if attempt:
            log(f"{path.name}: {reason}; trying again")
            report(0)
            time.sleep(0.5 * 2 ** (attempt - 1))
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as response:
                if response.status_code == 416:  # the part is longer than the file: begin anew
                    part.unlink(missing_ok=True)
                    reason = "the partial file did not fit"
                    continue
                if response.status_code in (401, 403, 404, 410):
                    break_hint = "check the network, SWARM_DATA_URL and --shards"
                    raise PrepareError(f"{url}: HTTP status {response.status_code}", break_hint)
                response.raise_for_status()
                resumed = response.status_code == 206
                length = response.headers.get("Content-Length")
                size = int(length) + have * resumed if length else None
                with part.open("ab" if resumed else "wb") as file:
                    for chunk in response.iter_content(1 << 16):
                        file.write(chunk)
                        report(len(chunk))
            if size is None or part.stat().st_size == size:
                part.replace(path)
                return path
            reason = f"got {part.stat().st_size} of {size} bytes"
        except requests.RequestException as error:
            reason = f"{type(error).__name__} {getattr(error.response, 'status_code', '')}".strip()
    raise PrepareError(
        f"{url}: {reason}, {attempts} times", "check the network; what was fetched is continued"
    )


# ==================================================================================================
# Tokenizer: byte-pair encoding, stored as data
# ==================================================================================================


class Tokenizer:
    """The tokens' bytes by id, the split pattern, and the special tokens after the others."""

    def __init__(self, pattern: str, tokens: list[bytes]) -> None:
        self.pattern, self.tokens = pattern, tokens
        self.bos = len(tokens)  # <|reserved_0|>
        self.vocab_size = len(tokens) + len(SPECIALS)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn merges from `texts`; a tiny corpus may yield fewer than `vocab_size` tokens."""
        import rustbpe

        def capped() -> Iterator[str]:
            left = TOKENIZER_CHARS
            for text in texts:
                yield text
                left -= len(text)
                if left <= 0:
                    return

        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(capped(), vocab_size - len(SPECIALS), pattern=SPLIT_PATTERN)
        ranks = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
        return cls(SPLIT_PATTERN, [bytes(token) for token, _ in ranks])

    def to_json(self) -> str:
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        return json.dumps({"pattern": self.pattern, "tokens": tokens, "specials": SPECIALS})

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        data = json.loads(text)
        return cls(data["pattern"], [base64.b64decode(token) for token in data["tokens"]])

    def encoding(self) -> tiktoken.Encoding:
        import tiktoken

        return tiktoken.Encoding(
            "swarm",
            pat_str=self.pattern,
            mergeable_ranks={token: rank for rank, token in enumerate(self.tokens)},
            special_tokens={name: self.bos + i for i, name in enumerate(SPECIALS)},
        )

    def token_bytes(self) -> list[int]:
        """True length in bytes by token id; special tokens stand for no text: 0."""
        return [len(token) for token in self.tokens] + [0] * len(SPECIALS)


def encode_documents(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Documents as uint16 arrays that begin with BOS, in order, encoded on all cores."""
    import numpy as np

    encoding = tokenizer.encoding()

    def encode(text: str) -> np.ndarray:
        tokens = encoding.encode_to_numpy(text, disallowed_special=())
        return np.concatenate(([tokenizer.bos], tokens)).astype(np.uint16)

    with ThreadPoolExecutor(len(cpu_cores())) as pool:  # tiktoken releases the interpreter lock
        pending: collections.deque[Any] = collections.deque()
        for text in texts:
            pending.append(pool.submit(encode, text))
            if len(pending) >= 4096:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def cpu_cores() -> list[int]:
    """Core numbers this process may use; [0] where the system has no affinity (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


# ==================================================================================================
# Packing: rows of T + 1 tokens, each beginning with BOS, without padding
# ==================================================================================================


def pack_rows(
    documents: Iterable[np.ndarray], row_tokens: int, buffer_size: int = PACK_BUFFER
) -> Iterator[np.ndarray]:
    """Fill rows of `row_tokens` tokens from a buffer of documents, best fit first.

    The longest document that fits goes next; where none fits, the shortest is cropped to fill the
    row and its rest is lost. A last row that cannot be filled is dropped. Deterministic.
    """
    import numpy as np

    source = iter(documents)
    buffer: list[tuple[int, int]] = []  # (length, arrival), sorted
    waiting: dict[int, np.ndarray] = {}
    arrivals = 0
    while True:
        row = np.empty(row_tokens, dtype=np.uint16)
        filled = 0
        while filled < row_tokens:
            while len(buffer) < buffer_size and (document := next(source, None)) is not None:
                bisect.insort(buffer, (len(document), arrivals))
                waiting[arrivals] = document
                arrivals += 1
            if not buffer:
                return
            room = row_tokens - filled
            fitting = bisect.bisect_left(buffer, (room + 1, -1))
            length, key = buffer.pop(fitting - 1 if fitting else 0)
            taken = min(length, room)
            row[filled : filled + taken] = waiting.pop(key)[:taken]
            filled += taken
        yield row


# ==================================================================================================
# Dataset: a directory with meta.json, tokenizer.json, train.bin, val.bin
# ==================================================================================================

REBUILD = "rebuild it with `python prepare.py --force`"


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, opened: its facts, and its rows as memory maps of shape (rows, T + 1)."""

    path: Path
    scale: str
    source: str
    fingerprint: str  # 16 hex digits of what the tokens, tokenizer and settings are
    seq_len: int
    vocab_size: int
    bos: int
    rows: dict[str, int]  # split → number of rows
    checksums: dict[str, str]  # file → SHA-256

    @classmethod
    def open(cls, path: Path | None = None, scale: str = SCALE) -> Dataset:
        """Read and cheaply verify (metadata, file sizes) a dataset; default: the configured one."""
        check_environment()
        path = path or configured_dataset(scale)
        try:
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            sizes = {name: (path / name).stat().st_size for name in meta["files"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PrepareError(f"{path} is not a whole dataset: {error}", REBUILD) from None
        for name, fact in meta["files"].items():
            if sizes[name] != fact["bytes"]:
                message = f"{path / name} has {sizes[name]} bytes, not {fact['bytes']}"
                raise PrepareError(message, REBUILD)
        if meta["format"] != FORMAT:
            raise PrepareError(f"{path} has format {meta['format']}, not {FORMAT}", REBUILD)
        if meta["scale"] != scale:
            message = f"{path} is a dataset of the {meta['scale']} scale, not {scale}"
            raise PrepareError(message, f"set SWARM_SCALE={meta['scale']} or prepare another")
        checksums = {name: fact["sha256"] for name, fact in meta["files"].items()}
        facts = ("scale", "source", "fingerprint", "seq_len", "vocab_size", "bos", "rows")
        return cls(path, checksums=checksums, **{name: meta[name] for name in facts})

    def tokens(self, split: str) -> int:
        """Tokens to predict in a split."""
        return self.rows[split] * self.seq_len

    def memory_map(self, split: str) -> np.ndarray:
        """The rows of `train` or `val`: uint16, shape (rows, T + 1)."""
        import numpy as np

        shape = (self.rows[split], self.seq_len + 1)
        return np.memmap(self.path / f"{split}.bin", dtype=np.uint16, mode="r", shape=shape)

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_json((self.path / "tokenizer.json").read_text(encoding="utf-8"))

    def check(self, name: str) -> None:
        """Raise PrepareError unless the file's content is what was written."""
        if sha256(self.path / name) != self.checksums[name]:
            raise PrepareError(f"{self.path / name} is corrupt", REBUILD)

    def summary(self) -> str:
        return (
            f"---\ndataset: {self.path}\nfingerprint: {self.fingerprint}\nscale: {self.scale}\n"
            f"source: {self.source}\nvocab_size: {self.vocab_size}\n"
            f"train_tokens: {self.tokens('train')}\nval_tokens: {self.tokens('val')}"
        )


def pointer(scale: str) -> Path:
    """Says which dataset was prepared last for a scale: its directory's name and its source."""
    return cache_dir() / "datasets" / f"{scale}.current.json"


def read_pointer(scale: str) -> dict[str, Any] | None:
    """`{"directory", "dataset", "shards"}`, or None where nothing was prepared."""
    try:
        found = json.loads(pointer(scale).read_text(encoding="utf-8"))
        return {name: found[name] for name in ("directory", "dataset", "shards")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        message = f"{pointer(scale)} is damaged"
        raise PrepareError(message, "delete it and run prepare.py again") from None


def configured_dataset(scale: str) -> Path:
    """SWARM_DATASET, else the dataset prepared last for `scale`."""
    if chosen := os.environ.get("SWARM_DATASET"):
        return Path(chosen)
    if current := read_pointer(scale):
        return pointer(scale).with_name(current["directory"])
    message = f"no dataset is prepared for the {scale} scale"
    raise PrepareError(message, f"run `python prepare.py --scale {scale}`")


def build(source: Folder | Climbmix, scale: str, path: Path) -> None:
    """Build a dataset in a directory beside `path`, then rename it: it is whole or not there."""
    started = time.monotonic()
    for stale in path.parent.glob("building-*"):  # of a killed build: we hold the lock
        shutil.rmtree(stale)
    draft = path.with_name(f"building-{path.name}")
    draft.mkdir(parents=True)
    try:
        fill(draft, source, scale)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    draft.rename(path)
    log(f"built {path.name} in {time.monotonic() - started:.1f} s")


def fill(draft: Path, source: Folder | Climbmix, scale: str) -> None:
    """Write the files of a dataset into an empty directory, meta.json last."""
    sizes = SCALES[scale]
    log(f"collecting {source.name}")
    train, val = source.documents(sizes)
    log(f"training a tokenizer of {sizes.vocab_size} tokens")
    tokenizer = Tokenizer.train(train(), sizes.vocab_size)
    (draft / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    rows = {}
    for split, documents in (("train", train), ("val", val)):
        packed = pack_rows(encode_documents(tokenizer, documents()), sizes.seq_len + 1)
        if split == "val":
            packed = shuffled(packed, 2 * sizes.eval_tokens // sizes.seq_len)
        rows[split] = write_rows(draft / f"{split}.bin", packed)
    if rows["val"] * sizes.seq_len < sizes.min_val_tokens or not rows["train"]:
        message = f"{source.name} gives {rows['train']} training and {rows['val']} validation rows"
        raise PrepareError(message, "one validation pass needs more text: give a larger source")
    meta: dict[str, Any] = {
        "format": FORMAT,
        "scale": scale,
        "source": source.name,
        "seq_len": sizes.seq_len,
        "vocab_size": tokenizer.vocab_size,
        "bos": tokenizer.bos,
        "rows": rows,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(draft.iterdir())
        },
    }
    content = {key: meta[key] for key in meta if key != "source"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    meta["fingerprint"] = digest[:16]
    write_atomic(draft / "meta.json", json.dumps(meta, indent=1))


def shuffled(rows: Iterable[np.ndarray], limit: int) -> Iterator[np.ndarray]:
    """At most `limit` rows in a fixed random order: any first part of them samples the whole."""
    import numpy as np

    whole = list(rows)
    yield from (whole[i] for i in np.random.default_rng(0).permutation(len(whole))[:limit])


def write_rows(path: Path, packed: Iterable[np.ndarray]) -> int:
    """Write rows to a file, as they come; return how many."""
    rows = tokens = 0
    with path.open("wb") as file, progress_bar(f"packing {path.name}", "tok") as bar:
        for row in packed:
            file.write(row.tobytes())
            rows, tokens = rows + 1, tokens + len(row) - 1
            bar.update(len(row) - 1)
        file.flush()
        os.fsync(file.fileno())
    log(f"packed {path.name}: {tokens / 1e6:.1f} M tokens")
    return rows


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ==================================================================================================
# Loader: batches for training
# ==================================================================================================


class Loader:
    """Endless batches (x, y) of shape (batch_size, T), int64, on the device; y is x one token on.

    Every epoch visits every row once, in an order that the seed and the epoch decide; a batch may
    span two epochs. `epoch` counts from 1 and is that of the last batch's last row.
    """

    def __init__(self, dataset: Dataset, batch_size: int, device: Device, seed: int) -> None:
        self.data = dataset.memory_map("train")
        self.batch_size, self.device, self.seed = batch_size, device, seed
        self.epoch = 0
        self._order: Any = []
        self._next = 0

    def _rows(self) -> np.ndarray:
        import numpy as np

        chosen: list[Any] = []
        missing = self.batch_size
        while missing:
            if self._next == len(self._order):
                self.epoch += 1
                generator = np.random.default_rng([self.seed, self.epoch])
                self._order, self._next = generator.permutation(len(self.data)), 0
            taken = self._order[self._next : self._next + missing]
            chosen.append(taken)
            self._next += len(taken)
            missing -= len(taken)
        return np.concatenate(chosen)

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        batch = torch.from_numpy(self.data[self._rows()].astype("int64"))
        if self.device.kind == "cuda":
            batch = batch.pin_memory().to(self.device.torch_device, non_blocking=True)
        else:
            batch = batch.to(self.device.torch_device)
        return batch[:, :-1], batch[:, 1:]


# ==================================================================================================
# Evaluation: the score of a trial
# ==================================================================================================


class EvaluationError(PrepareError):
    """The model cannot be scored: it looks ahead, or its logits are not finite or misshapen."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "the model must map tokens (B, T) to causal logits (B, T, V)")


def evaluate_bpb(
    model: Any, batch_size: int, device: Device, dataset: Dataset | None = None
) -> float:
    """Validation bits per byte: total nats of the targets / (ln 2 × total bytes of the targets).

    `model(x)` takes int64 tokens of shape (batch_size, T) and must give logits (batch_size, T, V)
    with V ≥ the vocabulary size. They are normalised here in float32 and summed in float64, so
    neither the targets nor the sum pass through the model. Special tokens have no bytes and are
    not scored. The first EVAL_TOKENS tokens of the validation rows are used, or all there are.
    Raises EvaluationError. Writes SWARM_ATTEST when that is set.
    """
    import numpy as np
    import torch

    dataset = dataset or Dataset.open()
    dataset.check("val.bin")
    dataset.check("tokenizer.json")
    wanted = SCALES[dataset.scale].eval_tokens // dataset.seq_len
    rows = dataset.memory_map("val")[:wanted]
    token_bytes = torch.tensor(dataset.tokenizer().token_bytes(), device=device.torch_device)
    starts = range(0, len(rows), batch_size)
    probes = min(len(starts), max(3, round(len(starts) / 8)))
    probed = set(random.SystemRandom().sample(starts, probes))  # no score depends on the choice
    nats, size, tokens = 0.0, 0, 0
    training = bool(getattr(model, "training", False))
    if training:
        model.eval()
    with torch.no_grad():
        for start in starts:
            # The last batch is filled up with repeated rows: one shape, one compilation.
            chosen = np.arange(start, start + batch_size) % len(rows)
            batch = torch.from_numpy(rows[chosen].astype("int64")).to(device.torch_device)
            x, y = batch[:, :-1].contiguous(), batch[:, 1:]
            logits = checked_logits(model, x, dataset.vocab_size)
            real = min(batch_size, len(rows) - start)
            scored = token_bytes[y[:real]]
            # A few rows at a time: the float32 log-probabilities of a whole batch are huge.
            few = max(1, 2**26 // logits[0].numel())
            losses = []
            for part in range(0, real, few):
                chunk = slice(part, min(part + few, real))
                log_probs = torch.log_softmax(logits[chunk].float(), dim=-1)
                found = -log_probs.gather(2, y[chunk].unsqueeze(2)).squeeze(2)
                losses.append(torch.where(scored[chunk] > 0, found, 0.0))
            row_nats = torch.cat(losses).cpu().double().sum(dim=1)
            nats += math.fsum(row_nats.tolist())
            size += int(scored.sum())
            tokens += int((scored > 0).sum())
            if not math.isfinite(nats):
                raise EvaluationError("the model's logits are not finite")
            if start in probed:
                check_causal(model, x, logits, dataset.vocab_size)
    if training:
        model.train()
    val_bpb = nats / (math.log(2) * size)
    if attest := os.environ.get("SWARM_ATTEST"):
        result = {"val_bpb": val_bpb, "tokens": tokens, "bytes": size, "causal": True}
        write_atomic(Path(attest), json.dumps(result) + "\n")
    return val_bpb


def checked_logits(model: Any, x: torch.Tensor, vocab_size: int) -> torch.Tensor:
    logits = model(x)
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 3 or shape[:2] != tuple(x.shape) or shape[2] < vocab_size:
        raise EvaluationError(f"the model gave shape {shape} for tokens of shape {tuple(x.shape)}")
    return cast("torch.Tensor", logits)


MAX_NOISE = 0.13  # between equal calls: two steps of bfloat16 from 8 to 16


def check_causal(model: Any, x: torch.Tensor, logits: torch.Tensor, vocab_size: int) -> None:
    """Change the tokens from a random position on: no logit before it may move.

    The position cannot be guessed by the model, and no score depends on it. Where the arithmetic
    differs between equal calls, twice that difference is allowed, but that must be small too.
    """
    import torch

    cut = random.SystemRandom().randrange(1, x.shape[1])
    before = logits[:8, :cut].float().clone()  # a model may reuse the memory of its logits
    shift = torch.randint_like(x[:, cut:], 1, vocab_size)  # never 0: every later token changes
    changed = torch.cat((x[:, :cut], (x[:, cut:] + shift) % vocab_size), dim=1)

    def moved(tokens: torch.Tensor) -> float:
        after = checked_logits(model, tokens, vocab_size)[:8, :cut].float()
        # Equal infinities are equal, though their difference is NaN.
        return float(torch.where(after == before, 0.0, after - before).abs().max())

    if not (ahead := moved(changed)) <= 1e-3:  # also when it is NaN
        if not (noise := moved(x)) <= MAX_NOISE:  # also when it is NaN
            raise EvaluationError(f"the model gives other logits ({noise:.3g}) for the same tokens")
        if not ahead <= 1e-3 + 2 * noise:
            raise EvaluationError(
                f"the model looks ahead: other tokens from position {cut} on moved earlier logits"
                f" by {ahead:.3g}"
            )


# ==================================================================================================
# Devices: what a trial runs on, and the lock on it
# ==================================================================================================

# Dense bf16 TFLOP/s with float32 accumulation, from NVIDIA's data sheets and architecture
# whitepapers (half of a figure given "with sparsity"). The first name that matches counts.
PEAK_TFLOPS = {
    "B300": 2250, "GB200": 2500, "B200": 2250,
    "GH200": 989.5, "H200 NVL": 835.5, "H200": 989.5,
    "H100 NVL": 835.5, "H100 PCIe": 756.5, "H100": 989.5, "H800": 989.5, "H20": 148,
    "A100": 312, "A800": 312, "A40": 149.7, "A30": 165, "A10G": 70, "A10": 125,
    "RTX 6000 Ada": 364.2, "L40S": 362.05, "L40": 181.05, "L4": 121, "RTX A6000": 154.8,
    "RTX 5090": 209.5, "RTX 4090": 165.2, "RTX 4080": 97.5, "RTX 3090 Ti": 80, "RTX 3090": 71,
}  # fmt: skip


@dataclass(frozen=True)
class Device:
    """The device of this process and how to compute on it."""

    kind: str  # cuda | mps | cpu
    name: str
    torch_device: str
    dtype: str  # of matrix products: a torch dtype's name
    compile: bool  # whether torch.compile pays and works
    peak_flops: float | None  # dense, for `dtype`; None: unknown
    lock_keys: tuple[str, ...]
    capability: tuple[int, int] | None = None  # CUDA compute capability

    def synchronize(self) -> None:
        import torch

        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()

    def peak_memory_mb(self) -> float:
        """Most memory used: allocated on the accelerator, or this process's resident set (CPU)."""
        import torch

        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        if self.kind == "mps":
            return torch.mps.driver_allocated_memory() / 2**20
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_flops(name: str) -> float | None:
    """Peak dense bf16 FLOP/s of an NVIDIA part by its marketing name; None where unknown."""
    words = re.sub(r"[^\w]+", " ", name)
    found = (tflops for part, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", words))
    return next((1e12 * tflops for tflops in found), None)


def amd_key(environ: Mapping[str, str]) -> str:
    """The lock key of the first visible AMD GPU: by index, as a swarm's workers name it."""
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        first = environ.get(name, "").split(",")[0].strip()
        if first.isdigit():
            return f"rocm-{first}"
    return "rocm-0"


def pick_device() -> Device:
    """The first visible CUDA device, else Apple's GPU, else the CPU with the cores it may use."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        capability = torch.cuda.get_device_capability(0)
        bf16 = capability >= (8, 0)
        return Device(
            kind="cuda",
            name=properties.name,
            torch_device="cuda:0",
            dtype="bfloat16" if bf16 else "float32",
            compile=capability >= (7, 0) and importlib.util.find_spec("triton") is not None,
            peak_flops=peak_flops(properties.name) if bf16 else None,
            lock_keys=(amd_key(os.environ) if torch.version.hip else f"GPU-{properties.uuid}",),
            capability=capability,
        )
    if torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", "mps", "float32", False, None, ("mps-0",))
    torch.set_num_threads(min(torch.get_num_threads(), len(cpu_cores())))
    keys = tuple(f"cpu-{core}" for core in cpu_cores())
    name = f"CPU, {len(keys)} core{'s' if len(keys) > 1 else ''}"
    return Device("cpu", name, "cpu", "float32", False, None, keys)


def lock_device(device: Device) -> list[TextIO]:
    """Take the device for this process until it exits (keep the result alive).

    Raises PrepareError with exit code 3 when another training holds it.
    """
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    held: list[TextIO] = []
    for key in device.lock_keys:
        file = (folder / f"{key}.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.readline().strip() or "an unnamed process"
            for other in (*held, file):
                other.close()
            message = f"device {key} is already training: {holder}"
            hint = "wait for it, stop it, or choose another device (CUDA_VISIBLE_DEVICES, taskset)"
            raise PrepareError(message, hint, 3) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} in {Path.cwd()}\n")
        file.flush()
        held.append(file)
    return held


# ==================================================================================================
# Command line
# ==================================================================================================


def make_source(dataset: str, shards: int) -> Folder | Climbmix:
    if dataset == "climbmix":
        return Climbmix(shards)
    if dataset == "builtin":
        return Builtin()
    if not Path(dataset).is_dir():
        raise PrepareError(f"no folder {dataset}", "--dataset takes climbmix, builtin or a folder")
    return Folder(Path(dataset).resolve())


def prepare(dataset: str | None, shards: int, scale: str, force: bool) -> Dataset:
    """Build the dataset unless it is there, make it the scale's current one, return it."""
    current = read_pointer(scale)
    if dataset is None and current is not None:
        if not force:
            return Dataset.open(pointer(scale).with_name(current["directory"]), scale)
        dataset, shards = current["dataset"], current["shards"]
    source = make_source(dataset or "builtin", shards)
    settings = [FORMAT, scale, *vars(SCALES[scale]).values(), source.signature()]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    label = "folder" if type(source) is Folder else source.name
    path = pointer(scale).with_name(f"{label}-{scale}-{key}")
    if force or not path.exists():
        with build_lock(cache_dir()):
            if force or not path.exists():  # another may have built it while we waited
                build(source, scale, path)
    ready = Dataset.open(path, scale)
    current = {"directory": path.name, "dataset": source.name, "shards": shards}
    write_atomic(pointer(scale), json.dumps(current) + "\n")
    return ready


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Build a dataset once; print what is there.",
        epilog="example: python prepare.py --dataset climbmix --shards 10",
    )
    parser.add_argument(
        "--dataset", metavar="climbmix|builtin|FOLDER", help="where the text is from"
    )
    parser.add_argument("--shards", type=int, default=10, help="climbmix training shards (10)")
    parser.add_argument("--scale", choices=SCALES, default=SCALE, help=f"(default: {SCALE})")
    parser.add_argument("--force", action="store_true", help="build again what is there")
    options = parser.parse_args(arguments)
    if not 1 <= options.shards <= Climbmix.VAL_SHARD:
        parser.error(f"--shards must be 1 to {Climbmix.VAL_SHARD}")
    try:
        check_environment()
        ready = prepare(options.dataset, options.shards, options.scale, options.force)
        if ready.scale == "full" and ready.source == "builtin":
            tokens = ready.rows["train"] * ready.seq_len / 1e6
            log(
                f"note: the builtin text is small ({tokens:.0f} M tokens);"
                " `--dataset climbmix` is the real thing"
            )
        print(ready.summary())
    except PrepareError as error:
        return fail(error)
    except OSError as error:
        message = f"{error.strerror or error} ({error.filename or cache_dir()})"
        return fail(PrepareError(message, "check the disk's free space and the rights there"))
    except KeyboardInterrupt:
        log("error: interrupted\nhint: run it again; what was downloaded is kept")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
