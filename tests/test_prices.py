"""Prices are looked up, never guessed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import prices
from swarm.errors import SwarmError
from swarm.prices import Price, Prices

ROOT = Path(__file__).resolve().parent.parent
BUILT_IN = Prices.load(None)
COUNTS = st.integers(0, 10**9)


def own(tmp_path: Path, text: str) -> Prices:
    path = tmp_path / "a user's prices.toml"
    path.write_text(text)
    return Prices.load(path)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-opus-4-6[1m]", "claude-opus-4-6"),
        ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
        ("openrouter/anthropic/claude-opus-4.8", "claude-opus-4-8"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("openai/gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("GPT-5.5", "gpt-5.5"),
        ("google/gemini-2.5-pro", "gemini-2.5-pro"),
        ("models/gemini-2.5-flash", "gemini-2.5-flash"),
    ],
)
def test_a_model_is_found_by_any_of_its_names(model: str, family: str) -> None:
    assert BUILT_IN.of(model) == BUILT_IN.built_in[family]


@pytest.mark.parametrize(
    "model",
    [
        "", "claude", "claude-sonnet-9", "claude-sonnet-4-5-experimental", "gpt-5-unheard-of",
        "azure/gpt-5", "openai/gpt-5:free", "us.anthropic.claude-opus-4-5-20251101-v1:0",
        "llama-4", "<synthetic>",
    ],
)  # fmt: skip
def test_the_price_of_an_unknown_model_is_unknown(model: str) -> None:
    assert BUILT_IN.of(model) is None
    assert BUILT_IN.usd(model, 1, 2, 3, 4) is None


def test_dollars_are_counted_by_kind_of_token() -> None:
    million = 1_000_000
    assert BUILT_IN.usd("claude-sonnet-4-5", million, 0, 0, 0) == pytest.approx(3.0)
    assert BUILT_IN.usd("claude-sonnet-4-5", 0, million, 0, 0) == pytest.approx(0.3)
    assert BUILT_IN.usd("claude-sonnet-4-5", 0, 0, million, 0) == pytest.approx(3.75)
    assert BUILT_IN.usd("claude-sonnet-4-5", 0, 0, million, 0, million) == pytest.approx(6.0)
    assert BUILT_IN.usd("claude-sonnet-4-5", 0, 0, 0, million) == pytest.approx(15.0)
    assert BUILT_IN.usd("gpt-5-pro", million, million, million, 0) == pytest.approx(45.0)
    assert BUILT_IN.usd("gpt-6-sol", 0, 0, million, 0, million) == pytest.approx(2.5)


@given(st.sampled_from(sorted(BUILT_IN.built_in)), COUNTS, COUNTS, COUNTS, COUNTS)
def test_what_we_list_is_plausible(model: str, fresh: int, read: int, wrote: int, out: int) -> None:
    price = BUILT_IN.built_in[model]
    assert 0 < price.input < price.output <= 200
    assert (price.cached or price.input) <= price.input <= (price.written or price.input)
    assert (price.hour or 2 * price.input) == pytest.approx(2 * price.input)
    total = BUILT_IN.usd(model, fresh, read, wrote, out)
    assert total is not None
    assert total >= 0
    assert total == pytest.approx(
        sum(
            BUILT_IN.usd(model, *tokens) or 0.0
            for tokens in ((fresh, 0, 0, 0), (0, read, 0, 0), (0, 0, wrote, 0), (0, 0, 0, out))
        )
    )


def test_the_users_prices_come_first_and_the_longest_name_wins(tmp_path: Path) -> None:
    known = own(
        tmp_path,
        """
        [models]
        "*" = { input = 9, output = 9 }
        "local/*" = { input = 0, output = 0 }
        "local/big-*" = { input = 1, output = 2.5 }
        "claude-opus-*" = { input = 0.5, output = 1 }
        claude-opus-5 = { input = 7, output = 8 }
        """,
    )
    expected = {
        "local/small": Price(0, 0),
        "local/big-one": Price(1, 2.5),
        "claude-opus-4-8": Price(0.5, 1),
        "claude-opus-5": Price(7, 8),
        "claude-sonnet-5": Price(9, 9),
        "nobody": Price(9, 9),
    }
    assert {model: known.of(model) for model in expected} == expected
    added = own(tmp_path, '[models]\n"openai/gpt-5" = { input = 2, output = 3 }')
    assert added.of("openai/gpt-5") == Price(2, 3)
    assert added.of("gpt-5") == BUILT_IN.of("gpt-5")


def test_a_missing_file_of_ones_own_is_none(tmp_path: Path) -> None:
    assert Prices.load(tmp_path / "none.toml") == BUILT_IN
    assert own(tmp_path, "# nothing yet\n") == BUILT_IN


@pytest.mark.parametrize(
    "text",
    [
        "[models",
        "[models]\nm = 1",
        "[models]\nm = { input = 1 }",
        "[models]\nm = { input = -1, output = 1 }",
        "[models]\nm = { input = nan, output = 1 }",
        "[models]\nm = { input = 1, output = inf }",
        "[models]\nm = { input = 1, output = 1, hour = -0.1 }",
        "[models]\nm = { input = '1', output = 1 }",
        "[models]\nm = { input = 1, output = 1, cache = 1 }",
        "[model]\nm = { input = 1, output = 1 }",
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(SwarmError, match=r"a user's prices\.toml is damaged") as caught:
        own(tmp_path, text)
    assert "per million" in caught.value.hint


def test_no_text_and_a_folder_are_errors_too(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    for path in (tmp_path, tmp_path / "latin.toml"):
        with pytest.raises(SwarmError, match="is damaged"):
            Prices.load(path)


def test_the_prices_are_packed_with_the_code() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "*.toml" in data["package-data"]["swarm"]
    assert prices._BUILT_IN == ROOT / "swarm" / "prices.toml"
