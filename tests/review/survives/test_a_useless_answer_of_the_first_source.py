"""daily_stock_analysis 244 and 1888: a useless first answer blocks the next source."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.review.sample import facts, raw

EMPTY = b"Date,Close\n2025-12-05,\n2025-12-12,\n"
BROKEN = b"Date,Close\n2025-12-05,1.00\n2025-12-12,lots\n"


@pytest.mark.parametrize("first", [EMPTY, BROKEN, b"<html>busy</html>", b"Date,Close\n"])
def test_the_second_source_is_read(first: bytes) -> None:
    found, _ = facts({"prices-SPX.csv": first, "prices-SPX.second.csv": raw()["prices-SPX.csv"]})
    assert found["w.SPX.change"].number.quantize(Decimal("0.01")) == Decimal("-0.63")
    assert "sources" not in [conflict.kind for conflict in found.conflicts]


def test_empty_fields_alone_are_missing_with_a_reason() -> None:
    found, _ = facts({"prices-SPX.csv": EMPTY})
    assert "closing levels of SPX has no value for 2025-12-12" in found["w.SPX.change"].missing
