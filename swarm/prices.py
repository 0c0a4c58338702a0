"""What tokens cost: the prices that come with swarm, and the user's own before them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm.errors import SwarmError

_BUILT_IN = Path(__file__).with_name("prices.toml")
_ROUTE = re.compile(r"^(?:(?:openrouter/)?(?:anthropic|openai|google|gemini)|models)/")
_DATE = re.compile(r"[-@]20\d\d-?[01]\d-?[0-3]\d$")
_LONG_CONTEXT = "[1m]"  # how Claude Code marks a model with the long context


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens of one model. Raises `ValueError` for what is no price."""

    input: float
    output: float
    cached: float | None = None
    written: float | None = None
    hour: float | None = None

    def __post_init__(self) -> None:
        for value in (self.input, self.output, self.cached, self.written, self.hour):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{value} is no price")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: dict[str, Price] = {}


@dataclass(frozen=True)
class Prices:
    """The prices of models; one that is not listed has none, rather than a guessed one."""

    own: Mapping[str, Price]
    built_in: Mapping[str, Price]

    @classmethod
    def load(cls, user_file: Path | None) -> Prices:
        """Read the prices that come with swarm and `user_file`, which may be missing.

        Raises `SwarmError` naming the file that is damaged.
        """
        own = _read(user_file) if user_file is not None and user_file.exists() else {}
        return cls(own, _read(_BUILT_IN))

    def usd(
        self,
        model: str,
        input_tokens: int,
        cached_tokens: int,
        written_tokens: int,
        output_tokens: int,
        hour_tokens: int = 0,
    ) -> float | None:
        """What tokens of `model` cost, or `None` where its price is not known.

        `input_tokens` are those neither read from a cache nor written to one; `hour_tokens` of the
        `written_tokens` are kept for an hour.
        """
        price = self.of(model)
        if price is None:
            return None
        cached = price.input if price.cached is None else price.cached
        written = price.input if price.written is None else price.written
        hour = written if price.hour is None else price.hour
        total = input_tokens * price.input + cached_tokens * cached + output_tokens * price.output
        return (total + (written_tokens - hour_tokens) * written + hour_tokens * hour) / 1e6

    def of(self, model: str) -> Price | None:
        """The price of a model: the user's before ours, the longest name before shorter ones."""
        for table in (self.own, self.built_in):
            for name in _names(model):
                if name in table:
                    return table[name]
                starts = [k for k in table if k.endswith("*") and name.startswith(k[:-1])]
                if starts:
                    return table[max(starts, key=len)]
        return None


def _names(model: str) -> Iterator[str]:
    """What a model is called, from what was said to the name of its family.

    `openrouter/anthropic/claude-sonnet-4.5` and `claude-sonnet-4-5-20250929` are of one family;
    `azure/…` and `…:free` stay what they are: they cost something else.
    """
    yield model
    plain = _ROUTE.sub("", model.lower()).removesuffix(_LONG_CONTEXT)
    if plain.startswith("claude-"):
        plain = plain.replace(".", "-")
    yield plain
    yield _DATE.sub("", plain)


def _read(path: Path) -> dict[str, Price]:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File).models
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OSError) as error:
        hint = '[models] "my-model*" = { input = 1.0, output = 2.0 }, in USD per million tokens'
        raise SwarmError(f"{path} is damaged: {error}", hint) from error
