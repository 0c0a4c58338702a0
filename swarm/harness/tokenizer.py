"""Byte-pair encoding, stored as data: nothing is unpickled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from swarm.harness.progress import Progress, Waiting

if TYPE_CHECKING:
    import numpy as np
    import tiktoken

TOKENIZER_CHARS = 1_000_000_000  # text the tokenizer is trained on, as upstream
SPECIALS = tuple(f"<|reserved_{i}|>" for i in range(4))  # the first begins every document
# The split pattern of tiktoken's cl100k_base (GPT-4), but at most two digits per number.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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

        with ExitStack() as learning:

            def capped() -> Iterator[str]:
                used = 0
                with Progress("reading text for the tokenizer", " characters") as progress:
                    for text in texts:
                        yield text
                        used += len(text)
                        progress.update(len(text))
                        if used >= TOKENIZER_CHARS:
                            break
                learning.enter_context(Waiting("learning tokens"))

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
    """Documents as uint16 arrays that begin with BOS, in order."""
    import numpy as np

    encoding = tokenizer.encoding()
    for text in texts:
        tokens = encoding.encode_to_numpy(text, disallowed_special=())
        document = np.empty(len(tokens) + 1, np.uint16)
        document[0] = tokenizer.bos
        document[1:] = tokens
        yield document
