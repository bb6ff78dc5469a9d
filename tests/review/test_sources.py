"""Replies in the real formats, and what sites send instead of them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from stepwell.review.digest import source
from stepwell.review.facts import Facts
from stepwell.review.sources.base import SourceError
from tests.review.sample import facts, raw, replies

NAMES = sorted(name for name in raw() if not name.startswith("documents"))


def refusal(name: str, data: bytes) -> str:
    (reply,) = [one for one in replies({name: data}) if one.name == name]
    with pytest.raises(SourceError) as failed:
        source(reply.source).read(Facts(), reply)
    return str(failed.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_web_page_instead_of_data_is_refused_with_its_first_bytes(name: str) -> None:
    said = refusal(name, b"<!DOCTYPE html><html><body>Service unavailable</body></html>")
    assert name in said
    assert "a web page instead of data; the reply begins '<!DOCTYPE html>" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_that_is_cut_short_is_refused(name: str) -> None:
    data = raw()[name].rstrip()
    cut = data[: data.rindex(b",")] if name.endswith("csv") else data[: len(data) * 2 // 3]
    assert name in refusal(name, cut)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_reply_is_refused(name: str) -> None:
    assert "an empty reply" in refusal(name, b" \n")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("prices-SPX.csv", b"Close", b"Last"),
        ("cboe-VIX.csv", b"CLOSE", b"SHUT"),
        ("fred-SOFR.json", b"observations", b"observed"),
        ("treasury-curve-202512.xml", b"BC_10YEAR", b"BC_TENYEAR"),
        ("fiscaldata-tga.json", b"$1,000,000", b"$1"),
        ("fiscaldata-tga.json", b'"total-pages": 1', b'"total-pages": 2'),
        ("nyfed-purchases.json", b"auctions", b"operations"),
        ("nyfed-soma.json", b'"frn": "6300000000"', b'"frn": ""'),
    ],
)
def test_a_renamed_column_or_unit_is_refused(name: str, before: bytes, after: bytes) -> None:
    assert name in refusal(name, raw()[name].replace(before, after))


def test_a_column_that_was_added_is_passed_over() -> None:
    data = raw()["prices-SPX.csv"].replace(b"Close\n", b"Close,Volume\n").replace(b"\n2025", b",1\n2025")
    found, refused = facts({"prices-SPX.csv": data.replace(b",1\n", b"\n", 1).rstrip() + b",1\n"})
    assert not refused
    assert found["w.SPX.change"].value is not None


def test_missing_marks_are_missing_and_never_zero() -> None:
    found, _ = facts()
    assert found["fred.SOFR.2025-12-12"].missing == "FRED, SOFR has no value for 2025-12-12"
    assert found["fred.UNRATE.2025-10-01"].value is None


def test_the_closing_balance_stands_in_the_opening_column() -> None:
    found, _ = facts()
    assert found["tga.close.2025-12-12"].value == Decimal(848_660_000_000)


def test_a_balance_that_does_not_carry_over_is_a_contradiction() -> None:
    data = raw()["fiscaldata-tga.json"].replace(b'"884150"', b'"884151"', 1)
    found, _ = facts({"fiscaldata-tga.json": data})
    assert "sum" in [conflict.kind for conflict in found.conflicts]


def test_two_sources_that_differ_are_a_fact() -> None:
    other = b"Date,Close\n2025-12-12,6806.99\n"
    found, _ = facts({"prices-SPX.other.csv": other})
    (conflict,) = [one for one in found.conflicts if one.kind == "sources"]
    assert conflict.cells == ("idx.SPX.close.2025-12-12", "idx.SPX.close.2025-12-12~2")


def test_a_source_that_is_away_leaves_its_sentences_out() -> None:
    found, _ = facts({"treasury-curve-202512.xml": None})
    assert found["w.curve.10Y"].missing
    assert found["w.SPX.change"].value is not None
