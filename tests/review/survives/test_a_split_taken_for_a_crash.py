"""yfinance 307, 906, 1531 and 2076: a split is lost or counted twice, and a level falls by nine tenths."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

import pytest

from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES
from tests.review.sample import facts, page, raw


def split(ratio: str) -> dict[str, bytes | None]:
    """The closes since Wednesday, multiplied."""
    rows = list(csv.DictReader(io.StringIO(raw()["prices-SPX.csv"].decode())))
    closes = [Decimal(row["Close"]) * (Decimal(ratio) if row["Date"] >= "2025-12-10" else 1) for row in rows]
    lines = [f"{row['Date']},{close:.2f}" for row, close in zip(rows, closes, strict=True)]
    return {"prices-SPX.csv": ("Date,Close\n" + "\n".join(lines) + "\n").encode()}


@pytest.mark.parametrize("ratio", ["0.5", "0.1", "0.6667", "2", "10", "0.05"])
def test_no_change_is_printed_across_a_split(ratio: str) -> None:
    found, _ = facts(split(ratio))
    assert "as after a split" in found["w.SPX.change"].missing
    assert "split" in [conflict.kind for conflict in found.conflicts]
    assert found["w.IXIC.change"].value is not None


@pytest.mark.parametrize("ratio", ["0.78", "0.9", "1.1", "1.2"])
def test_a_crash_is_no_split(ratio: str) -> None:
    found, _ = facts(split(ratio))
    assert found["w.SPX.change"].value is not None


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_so_and_holds(language: str) -> None:
    data = page("zh" if language == "zh" else "en", split("0.1"))
    assert verify(data).faults == []
    assert {"en": "as at a split", "zh": "与拆股相同"}[language] in data.decode()
