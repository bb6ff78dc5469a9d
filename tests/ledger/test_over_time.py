"""Days, weeks and months add up to the whole; the same requests by other prices."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.ledger.pricing.prices import PriceBook, TokenCounts, parse_price_book
from stepwell.ledger.reading import margin as margins
from stepwell.ledger.reading.calendar import UNITS, month, parts, unit_of
from stepwell.ledger.reading.over_time import joined, statement_over_time
from stepwell.ledger.reading.queries import Period, runs, spent
from stepwell.ledger.reading.repricing import repriced
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import Cause, Usage
from tests.ledger.made_books import HOUR_US, START_US, Writer, agent, made_books, used

BOOK = """
source = "a test"
as_of = "2026-11-22"
[prices]
input = 1.25
cached_input = 0.125
output = 10
intermediate = 8
minimum_per_request = 0.0001
[service_tiers.flex]
multiplier = 0.5
[long_prompt]
above_tokens = 5000
multiplier = { input = 2, output = 1.5 }
"""
PRICES = parse_price_book(BOOK, "book")
DEARER = parse_price_book(BOOK.replace("input = 1.25", "input = 12.5"), "dearer")


def charged(book: PriceBook, tier: str, counts: tuple[int, int, int, int]) -> int:
    return book.charge(tier, TokenCounts(*counts)).total


REQUEST = st.tuples(
    st.integers(0, 400),
    st.sampled_from(["default", "flex"]),
    st.integers(1, 9_000),
    st.floats(0, 1),
    st.integers(0, 300),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(REQUEST, min_size=1, max_size=25))
@settings(max_examples=40, deadline=None)
def test_the_same_prices_give_the_same_charges_and_parts_add_up(
    requests: list[tuple[int, str, int, float, int, bool, bool]],
) -> None:
    with TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "ledger.db")
        writer, dearer = Writer.begin(store, "node"), 0
        for number, (hours, tier, prompt, part, out, corrected, failed) in enumerate(requests, 1):
            account = agent("acme", "s", f"a{number % 3}", service_tier=tier)
            counts = (prompt, int(prompt * part), out, 0)
            at_us = START_US + hours * HOUR_US
            charge = 0 if failed else charged(PRICES, tier, counts)
            row = Usage(
                number, account, "tiny", "server_error" if failed else "stop", at_us, 1, *counts,
                charge_microusd=charge,
            )  # fmt: skip
            writer.settle(row)
            if corrected and out and not failed:
                after = (*counts[:2], 0, out)
                more = charged(PRICES, tier, after) - charge
                fix = used(
                    account, number, at_us + 1, more, requests=0, visible_tokens=-out, intermediate_tokens=out
                )
                fix = replace(fix, cause=Cause.CORRECTION)
                writer.write((), [fix])
                counts = after
            dearer += 0 if failed else charged(DEARER, tier, counts)
        whole = Period()
        assert sorted(repriced(store, whole, PRICES)) == sorted(spent(store, whole))
        assert statement_over_time(store, whole, ("tenant",), None, DEARER).total.charge_microusd == dearer
        total = statement_over_time(store, whole, ("tenant",)).total
        for unit in UNITS:
            found = statement_over_time(store, whole, (unit, "tenant"))
            assert found.total == total
            assert [row.group[0] for row in found.rows] == sorted({row.group[0] for row in found.rows})
        store.close()


def test_margins_of_days_add_up_but_for_rounding(tmp_path: Path) -> None:
    store = made_books(tmp_path).store
    rates = rates_of(runs(store), None)
    whole = margins.margin(margins.read_sums(store, Period()), rates, ("tenant",))
    found = [
        (label, margins.margin(margins.read_sums(store, part), rates, ("tenant",)))
        for label, part in parts(store, Period(), "day")
    ]
    days = joined(found, ("day", "tenant"), "day")
    assert len(found) > 1
    assert days.total.revenue_microusd == whole.total.revenue_microusd
    assert days.total.amounts == whole.total.amounts
    assert abs(days.bill_microusd - whole.bill_microusd) <= 10 * len(found)
    assert {line.group[0] for line in days.lines} <= {label for label, _ in found}
    store.close()


def test_parts_have_their_iso_names_and_keep_to_the_period(tmp_path: Path) -> None:
    store = made_books(tmp_path).store
    day_us = 24 * HOUR_US
    period = Period(START_US + HOUR_US, START_US + 40 * day_us)
    weeks = parts(store, period, "week")
    assert weeks[0][0] == "2026-W47"  # 22 November 2026 is a Sunday
    assert weeks[0][1].since_us == period.since_us
    assert parts(store, Period(0, START_US - day_us), "day") == []
    with pytest.raises(BadInput, match="group by one of day, week, month"):
        unit_of(("day", "month"))
    store.close()


def test_a_month_as_people_write_it() -> None:
    december = month("2026-12")
    assert datetime.fromtimestamp(december.until_us / 1e6, UTC) == datetime(2027, 1, 1, tzinfo=UTC)
    with pytest.raises(BadInput, match="is no month"):
        month("12/2026")


def test_more_parts_than_anybody_reads_are_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "node")
    account = agent("acme", "s", "a")
    for years in (0, 4):
        writer.settle(used(account, years + 1, START_US + years * 366 * 24 * HOUR_US, 1))
    with pytest.raises(BadInput, match="more than 1,000"):
        parts(store, Period(), "day")
    assert len(parts(store, Period(), "month")) == 49
    store.close()


def test_a_price_book_with_prices_of_a_model(tmp_path: Path) -> None:
    """Each row of the spend log by the prices of the model that it names."""
    book = parse_price_book(BOOK + "[models.other.prices]\ninput = 100\noutput = 400\n", "a test")
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "node")
    account = agent("acme", "s", "a")
    for number, model in enumerate(("tiny", "other", "tiny"), 1):
        row = replace(used(account, number, START_US, 0, input_tokens=1_000, visible_tokens=100), model=model)
        writer.settle(row)
    found = {one.model: one.counts.charge_microusd for one in repriced(store, Period(), book)}
    own = charged(book.of("other"), "default", (1_000, 0, 100, 0))
    assert own == 140_000 != charged(book, "default", (1_000, 0, 100, 0))
    assert found == {"tiny": 2 * charged(book, "default", (1_000, 0, 100, 0)), "other": own}
    store.close()
