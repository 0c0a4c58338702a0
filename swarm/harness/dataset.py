"""A dataset: a directory with meta.json, tokenizer.json, train.bin, val.bin and heldout.bin."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.harness import budget
from swarm.harness.settings import SCALE, SPLITS, PrepareError, cache_dir, check_environment
from swarm.harness.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

FORMAT = 2  # of a dataset directory
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
        """The rows of a split: uint16, shape (rows, T + 1). Who asks for them begins to train."""
        return self.rows_of(split)

    def rows_of(self, split: str) -> np.ndarray:
        """The same."""
        budget.rows_asked_for()
        return self.uncounted(split)

    def uncounted(self, split: str) -> np.ndarray:
        """The same for the harness itself, which does not train on them."""
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
            + "\n".join(f"{split}_tokens: {self.tokens(split)}" for split in SPLITS)
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


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
