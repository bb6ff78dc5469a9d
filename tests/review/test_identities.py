"""What has to add up: the Federal Reserve's holdings, the Treasury's cash, a figure and what was expected."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.review.digest import digest
from stepwell.review.facts import Facts
from stepwell.review.page import ReviewPage
from stepwell.review.sources.base import Reply
from stepwell.review.sources.nyfed import PARTS
from stepwell.review.verifier import verify
from stepwell.review.wording import LANGUAGES, Language
from stepwell.review.writer import from_templates
from tests.review.sample import FRIDAY, WEEK

amounts = st.lists(st.integers(0, 4 * 10**12), min_size=len(PARTS), max_size=len(PARTS))
balances = st.lists(st.integers(1, 950_000), min_size=6, max_size=6)
DAYS = [WEEK.base(), *WEEK.sessions()]


def read(name: str, data: bytes) -> tuple[Facts, list[str]]:
    return digest(WEEK, [Reply(name.partition("-")[0], name, data, FRIDAY)])


@given(amounts, st.integers(-2, 2))
@settings(max_examples=40)
def test_holdings_are_read_where_their_parts_make_the_total(parts: list[int], off: int) -> None:
    row = {"asOfDate": "2025-12-10"} | {name: f"{part}" for name, part in zip(PARTS, parts, strict=True)}
    data = {"soma": {"summary": [row | {"total": f"{sum(parts) + off}"}]}}
    found, refused = read("nyfed-soma.json", json.dumps(data).encode())
    assert len(refused) == bool(off)
    assert (found.get("nyfed.soma.bills.2025-12-10") is None) is bool(off)


@given(balances, st.integers(0, 4), st.integers(-3, 3))
@settings(max_examples=40)
def test_a_balance_that_does_not_carry_over_is_found_on_its_day(
    closing: list[int], at: int, off: int
) -> None:
    rows = []
    for number, day in enumerate(DAYS):
        opening = closing[number - 1] + (off if number == at + 1 else 0) if number else 5
        for side, amount in (("Opening", opening), ("Closing", closing[number])):
            account = f"Treasury General Account (TGA) {side} Balance"
            row = {"record_date": f"{day}", "account_type": account, "open_today_bal": f"{amount}"}
            rows.append(row | {"close_today_bal": "null"})
    meta = {"dataFormats": {"open_today_bal": "$1,000,000"}, "total-pages": 1}
    found, refused = read("fiscaldata-tga.json", json.dumps({"data": rows, "meta": meta}).encode())
    assert not refused
    broken = [one.cells for one in found.conflicts if one.kind == "sum"]
    assert broken == ([(f"tga.close.{DAYS[at]}", f"tga.open.{DAYS[at + 1]}")] if off else [])
    assert found["w.tga.change"].number == (closing[5] - closing[0]) * Decimal(10**6)


HEAD = "| id | unit | value | observed | known since | speaker |\n|---|---|---|---|---|---|\n"


def releases(expected_on: date) -> Facts:
    rows = [
        ("evt.claims.actual", "236000", date(2025, 12, 11), ""),
        ("evt.claims.consensus", "220000", expected_on, "economists in a survey"),
    ]
    lines = "".join(f"| {i} | count | {value} | {day} | {day} | {who} |\n" for i, value, day, who in rows)
    return read("documents-events.md", (HEAD + lines).encode())[0]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_surprise_is_against_what_was_expected_before(language: Language) -> None:
    found = releases(date(2025, 12, 9))
    assert found["w.claims.surprise"].value == 16_000
    data = ReviewPage(found, from_templates(found), language).html().encode()
    assert verify(data).faults == []
    assert {"en": ">+16,000<", "zh": ">+1.6万<"}[language] in data.decode()


@pytest.mark.parametrize("days", [0, 1])
def test_what_was_expected_afterwards_was_not_expected(days: int) -> None:
    found = releases(date(2025, 12, 11) + timedelta(days=days))
    assert found["w.claims.surprise"].missing == "what was expected has no date before that of the release"
