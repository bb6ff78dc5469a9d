"""Every statement in PostgreSQL says what it says in SQLite: one SQL, two databases."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.ledger.base import Store
from stepwell.ledger.reading import verify as verifying
from stepwell.ledger.reading.buckets import COLUMNS, WIDTHS_S, BucketPage, Query, usage_page
from stepwell.ledger.reading.export import postings_sheet, spend_log_sheet, usage_sheet, write_csv
from stepwell.ledger.reading.grouping import FIELDS
from stepwell.ledger.reading.margin import Margin, margin, read_sums
from stepwell.ledger.reading.queries import Period, runs
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.reading.statements import statement
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.types import Cause, Kind, Posting, Resource
from tests.ledger.conftest import Opener
from tests.ledger.made_books import (
    CONFIG,
    LEAD,
    START_S,
    Account,
    Books,
    Writer,
    made_books,
    used,
    write_runs,
)

PERIODS = (Period(), Period(START_S * 10**6, (START_S + 86_400) * 10**6))
LARGE = 2**62


@pytest.fixture
def other(open_books: Opener) -> Store:
    """Both runs in SQLite, then in PostgreSQL."""
    store = open_books()
    write_runs(store)
    return store


@pytest.fixture
def books(tmp_path: Path) -> Books:
    directory = tmp_path / "same"
    directory.mkdir()
    return made_books(directory)


def margins(store: Store, period: Period) -> list[Margin]:
    sums, rates = read_sums(store, period), rates_of(runs(store))
    return [margin(sums, rates, [by], loaded=loaded) for by in FIELDS for loaded in (False, True)]


def sorted_page(page: BucketPage) -> BucketPage:
    """Databases order text each in its own way."""
    buckets = [
        replace(bucket, results=sorted(bucket.results, key=lambda result: result.group))
        for bucket in page.buckets
    ]
    return replace(page, buckets=buckets)


def test_statements_and_margins(books: Books, other: Store) -> None:
    for period in PERIODS:
        assert margins(other, period) == margins(books.store, period)
        assert statement(other, period, ("tenant", "agent", "model")) == statement(
            books.store, period, ("tenant", "agent", "model")
        )
    books.store.close()


@pytest.mark.parametrize("width", WIDTHS_S)
def test_buckets(books: Books, other: Store, width: str) -> None:
    query = Query(
        START_S + 7,
        START_S + 2 * 86_400,
        width,
        168,
        tenants=["acme", "acme/search", "rival"],
        group_by=list(COLUMNS),
        filters={"model": ["tiny"], "role": ["lead", "reader"], "line_item": ["tiny, flex", "tiny, default"]},
    )
    page = usage_page(other, query)
    assert sorted_page(page) == sorted_page(usage_page(books.store, query))
    assert any(bucket.results for bucket in page.buckets)
    assert usage_page(other, replace(query, tenants=[])).buckets[0].results == []
    books.store.close()


def test_a_page_that_ends_inside_a_bucket(books: Books, other: Store) -> None:
    query = Query(START_S, START_S + 86_400, group_by=("project_id", "agent_id"))
    groups, cursor = [], None
    for _ in range(9):
        page = usage_page(other, query, cursor, max_results=1)
        groups += [result.group for bucket in page.buckets for result in bucket.results]
        if (cursor := page.next) is None:
            break
    (whole,) = usage_page(books.store, query).buckets
    assert sorted(groups) == sorted(result.group for result in whole.results)
    books.store.close()


def test_exports(books: Books, other: Store) -> None:
    for sheet_of in (usage_sheet, postings_sheet, spend_log_sheet):
        texts = []
        for store in (books.store, other):
            file = io.StringIO()
            write_csv(sheet_of(store, Period()), file)
            texts.append(list(csv.reader(io.StringIO(file.getvalue()))))
        assert texts[0] == texts[1]
    books.store.close()


def test_verify_finds_nothing(other: Store) -> None:
    found = verifying.verify(other)
    assert (found.differences, found.runs, found.postings) == ([], 2, 39)


def test_verify_finds_what_is_there(open_books: Opener) -> None:
    """Wrong totals, a charge without money, a hold of an ended run, large sums; time may go back."""
    store = open_books()
    writer = Writer.begin(store, "one")
    held, customer = Account(Kind.HELD, "acme"), Account(Kind.CUSTOMER, "acme")
    writer.write([Posting(customer, held, Resource.MONEY, LARGE, Cause.HOLD, 1)] * 3)
    writer.totals["compute_us"] = 5
    writer.write([], [used(LEAD, 2, writer.at_us, 77)])
    writer.write([Posting(customer, held, Resource.MONEY, 1, Cause.HOLD, 3)], after_us=-9)
    writer.end()
    assert [difference.sentence for difference in verifying.verify(store).differences] == [
        "run 1 (one): compute_us of the machine: the books say 0, and it should be 5 by the machine's totals",
        "run 1 (one), tenant acme: micro-dollars that went to revenue: the books say 0, and it should be 77 "
        "by the charges of the spend log",
        "run 1 (one), request 1: micro-dollars held of acme: the books say 13,835,058,055,282,163,712, and "
        "it should be 0, for the run has ended",
        "run 1 (one), request 3: micro-dollars held of acme: the books say 1, and it should be 0, for the "
        "run has ended",
    ]
    assert CONFIG in runs(store)[0].config


def test_commands_take_the_address_of_a_database(
    postgres_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    write_runs(store)
    store.close()
    for command, said in (
        (["verify"], "The books are right: 39 postings, 16 accounts, 2 runs"),
        (["margin", "--by", "tenant,role"], "bill 0.013772"),
        (["statement"], "0.013448 USD"),
        (["top"], "Most cost: acme / s1"),
        (["export", str(tmp_path / "log.csv"), "--format", "spend-log"], "7 rows in"),
    ):
        assert cli.run(["ledger", *command, "--ledger", postgres_url]) == 0
        assert said in capsys.readouterr().out
