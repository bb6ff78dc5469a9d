"""Where books are found, and what is said when they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import BadInput
from stepwell.ledger.pricing.books import (
    MAX_BOOK_BYTES,
    parse_ttl_us,
    preset_names,
    preset_text,
    read_book,
)
from stepwell.ledger.pricing.costs import load_cost_book, parse_cost_book
from stepwell.ledger.pricing.prices import load_price_book


def test_presets_come_with_the_package() -> None:
    assert {"local", "openai-gpt-5", "google-gemini-2.5-pro"} <= set(preset_names("price"))
    assert {"laptop", "h100-rented", "h100-bought"} == set(preset_names("cost"))
    with pytest.raises(KeyError):
        preset_text("price", "laptop")


def test_a_book_is_read_from_a_file_and_its_text_kept(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = "# ours\n[prices]\ninput = 1\noutput = 2\n"
    path.write_text(text, encoding="utf-8")
    assert load_price_book(path).text == load_price_book(str(path)).text == text
    path.write_text(preset_text("cost", "laptop"), encoding="utf-8")
    again = load_cost_book(path)
    assert again == load_cost_book("laptop") == parse_cost_book(again.text, "again")


@pytest.mark.parametrize("load", [load_price_book, load_cost_book])
def test_a_name_that_is_none_lists_those_there_are(load: Any) -> None:
    with pytest.raises(
        BadInput, match=r"there is no (price|cost) book 'locla'.*name a TOML file, or one of "
    ):
        load("locla")
    with pytest.raises(BadInput, match="did you mean 'openai-gpt-5'"):
        load_price_book("openai-gpt5")


def test_errors_name_the_file_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[prices]\ninput = -1\noutput = 2\n", encoding="utf-8")
    with pytest.raises(BadInput) as raised:
        load_price_book(path)
    assert str(raised.value) == f"price book {path}: prices.input: -1 is negative"


def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        read_book("price", tmp_path / "absent.toml")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        read_book("cost", tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is not text in UTF-8"):
        read_book("price", binary)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (MAX_BOOK_BYTES + 1))
    with pytest.raises(BadInput, match="is larger than"):
        read_book("price", large)


def test_times_to_live_are_read_as_the_apis_write_them() -> None:
    assert [parse_ttl_us(t) for t in ("90s", "5m", "1h", "1d")] == [
        90_000_000, 300_000_000, 3_600_000_000, 86_400_000_000,
    ]  # fmt: skip
    for wrong in ("", "5", "5 m", "-5m", "1.5h", "5min", "\u0665m", "9999999s", "0s"):
        with pytest.raises(ValueError, match="not a time to live"):
            parse_ttl_us(wrong)
