"""Where text comes from: folders of text and Parquet files, or what ships with Python."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.harness.settings import PrepareError, Scale

TEXT_SUFFIXES = (
    ".c .cc .cfg .cpp .css .csv .cu .go .h .hpp .html .ini .java .jl .js .json .jsonl .kt .lua .md"
    " .org .php .pl .py .r .rb .rs .rst .scala .sh .sql .swift .tex .toml .ts .txt .xml .yaml"
    " .yml .parquet"
)
SECTION = 50_000  # characters of a text that stay together in one split
HELD_SHARE = 0.05  # of a folder's bytes, for each of the two splits that are not trained on
HELD_PASSES = 4  # of a huge folder: no more text for each than this many evaluations read
MAX_HELD_SHARE = 0.4  # where both together need more than this, a folder is too small


@dataclass(frozen=True)
class Corpus:
    """The documents of a source with their splits, in an order that is always the same."""

    read: Callable[[], Iterator[tuple[str, str]]]  # (split, text); reads them anew at each call
    count: int  # documents, at most


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
    one split, by the hash of its content, so copies of a section never lie in two.
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

    def documents(self, sizes: Scale) -> Corpus:
        """The sections' documents: those with the smallest hashes for validation, then held out.

        Each of the two gets 5 % of the bytes, but at least what one evaluation needs. Raises
        PrepareError where that would be too much of the whole.
        """
        lengths: dict[int, int] = {}
        count = 0
        for key, section in self.sections():
            lengths[key] = len(section.encode())
            count += sum(1 for _ in split_text(section, 3 * sizes.seq_len))
        total = sum(lengths.values())
        least = sizes.min_eval_tokens * sizes.token_bytes
        if 2 * least > MAX_HELD_SHARE * total:
            raise PrepareError(
                f"{self.name} holds {total / 1e6:.2f} MB of different text: too little for"
                " training, one validation pass and one held-out pass",
                f"give at least {2 * least / MAX_HELD_SHARE / 1e6:.2f} MB of text",
            )
        most = HELD_PASSES * sizes.eval_tokens * sizes.token_bytes
        wanted = max(least, min(most, HELD_SHARE * total))
        held: dict[int, str] = {}
        keys = iter(sorted(lengths))
        for split in ("val", "heldout"):
            size = 0
            while size < wanted:
                key = next(keys)
                held[key] = split
                size += lengths[key]

        def read() -> Iterator[tuple[str, str]]:
            for key, section in self.sections():
                for text in split_text(section, 3 * sizes.seq_len):
                    yield held.get(key, "train"), text

        return Corpus(read, count)


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


@contextlib.contextmanager
def parquet(path: Path) -> Iterator[Any]:
    """A Parquet file with a text column `text`, opened; whatever is wrong with it is one error."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            kinds = {field.name: str(field.type) for field in file.schema_arrow}
            if "string" not in kinds.get("text", ""):
                raise PrepareError(f"{path} has no column `text` of strings", "rename its column")
            yield file
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise PrepareError(
            f"cannot read {path}: {reason}", "delete the file and run prepare.py again"
        ) from None


def parquet_texts(path: Path) -> Iterator[str]:
    """The column `text` of a Parquet file, row group by row group."""
    with parquet(path) as file:
        for batch in file.iter_batches(batch_size=1024, columns=["text"]):
            yield from (text for text in batch.column(0).to_pylist() if text)


def parquet_rows(path: Path) -> int:
    with parquet(path) as file:
        return int(file.metadata.num_rows)
