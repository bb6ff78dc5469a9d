"""Exports: what comes out is what is in the books, to the last character."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.ledger.reading import export
from stepwell.ledger.reading.export import SPEND_LOG, Sheet, postings_sheet, spend_log_sheet, usage_sheet
from stepwell.ledger.reading.queries import Period
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import Usage
from tests.ledger.made_books import LEAD, START_US, Books, Writer, agent, made_books, used

ALL = Period()


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    made = made_books(tmp_path_factory.mktemp("ledger"))
    yield made
    made.store.close()


def as_csv(sheet: Sheet) -> list[dict[str, str]]:
    file = io.StringIO()
    count = export.write_csv(sheet, file)
    file.seek(0)
    rows = list(csv.DictReader(file))
    assert count == len(rows)
    return rows


def as_parquet(sheet: Sheet, path: Path) -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb")
    count = export.write_parquet(sheet, path)
    connection = duckdb.connect()
    found = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    connection.close()
    assert count == len(rows)
    return rows


def test_usage(books: Books) -> None:
    rows = as_csv(usage_sheet(books.store, ALL))
    assert len(rows) == len(books.usage)
    for row, usage in zip(rows, books.usage, strict=True):
        account = usage.account
        assert (row["tenant"], row["agent"], row["role"]) == (account.tenant, account.agent, account.role)
        assert (row["parent_agent"], row["key"]) == (account.parent_agent, account.key)
        for name in ("at_us", "request", "input_tokens", "cached_tokens", "charge_microusd", "requests"):
            assert int(row[name]) == getattr(usage, name)
        assert (row["model"], row["reason"], row["cause"]) == ("tiny", "stop", usage.cause.value)


def test_postings(books: Books, tmp_path: Path) -> None:
    everything = [posting for writer in books.writers for posting in writer.postings]
    in_csv = as_csv(postings_sheet(books.store, ALL))
    in_parquet = as_parquet(postings_sheet(books.store, ALL), tmp_path / "it's.parquet")
    for rows in (in_csv, in_parquet):
        for row, posting in zip(rows, everything, strict=True):
            assert (row["resource"], int(row["amount"])) == (posting.resource.value, posting.amount)
            assert (row["cause"], int(row["request"])) == (posting.cause.value, posting.request)
            assert (row["debit_kind"], row["debit_tenant"]) == (
                posting.debit.kind.value,
                posting.debit.tenant,
            )
            assert (row["credit_agent"], row["credit_role"]) == (posting.credit.agent, posting.credit.role)


def test_parquet_is_typed(books: Books, tmp_path: Path) -> None:
    rows = as_parquet(usage_sheet(books.store, ALL), tmp_path / "usage.parquet")
    assert sum(row["charge_microusd"] for row in rows) == sum(usage.charge_microusd for usage in books.usage)
    assert rows[0]["parent_agent"] == ""
    log = as_parquet(spend_log_sheet(books.store, ALL), tmp_path / "log.parquet")
    assert str(log[0]["spend"]) == "0.009000"
    assert log[0]["endTime"].isoformat() == "2026-11-22T00:00:09.341234"


STRANGE = [
    'a,"b"',
    "line\nbreak",
    "line\r\nbreak",
    "\\N",
    "NULL",
    "",
    "'quoted'",
    "ü€😀",
    "x" * 255,
    "=1+1",
    "-3",
    "@x",
]


def test_strange_names_survive(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    for number, name in enumerate(STRANGE):
        writer.write(usage=[used(agent("acme", name, "a"), number, START_US, 1)])
    in_parquet = [row["session"] for row in as_parquet(usage_sheet(store, ALL), tmp_path / "usage.parquet")]
    assert in_parquet == STRANGE
    in_csv = [row["session"] for row in as_csv(usage_sheet(store, ALL))]
    store.close()
    assert in_csv[:9] == STRANGE[:9]
    assert in_csv[9:] == ["'=1+1", "'-3", "'@x"]


def test_spend_log(books: Books) -> None:
    rows = as_csv(spend_log_sheet(books.store, ALL))
    assert list(rows[0]) == list(SPEND_LOG)
    assert len({row["request_id"] for row in rows}) == len(rows)
    first, last = rows[0], rows[-1]
    assert (first["request_id"], first["call_type"], first["api_key"]) == ("1.1", "acompletion", "key_acme")
    assert (first["spend"], first["total_tokens"], first["prompt_tokens"]) == ("0.009000", "1100", "1000")
    assert (first["team_id"], first["session_id"], first["status"]) == ("acme", "s1", "success")
    assert json.loads(first["metadata"])["service_tier"] == "priority"
    assert json.loads(rows[1]["metadata"])["parent_agent_id"] == "s1"
    assert (last["request_id"], last["call_type"], last["spend"]) == ("2.1.3.0", "correction", "-0.000050")


def test_spend_log_times_and_failures(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    usage = Usage(1, LEAD, "tiny", "cancelled", START_US + 2_500_000, ttft_us=500_000, e2e_us=1_500_000)
    Writer.begin(store, "one").write(usage=[usage])
    (row,) = as_csv(spend_log_sheet(store, ALL))
    store.close()
    assert row["startTime"] == "2026-11-22 00:00:01.000000"
    assert row["completionStartTime"] == "2026-11-22 00:00:01.500000"
    assert row["endTime"] == "2026-11-22 00:00:02.500000"
    assert row["status"] == "failure"


def test_one_tenant_and_its_projects(books: Books) -> None:
    assert {row["tenant"] for row in as_csv(usage_sheet(books.store, ALL, "acme"))} == {"acme", "acme/search"}
    assert {row["tenant"] for row in as_csv(usage_sheet(books.store, ALL, "acm"))} == set()
    for row in as_csv(postings_sheet(books.store, ALL, "rival")):
        assert "rival" in (row["debit_tenant"], row["credit_tenant"])


def test_page_by_page(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = as_csv(postings_sheet(books.store, ALL))
    for size in (1, 2, 3, len(whole), len(whole) + 1):
        monkeypatch.setattr(export, "ROWS_AT_ONCE", size)
        assert as_csv(postings_sheet(books.store, ALL)) == whole


def test_a_period(books: Books) -> None:
    second = Period(books.writers[1].usage[0].at_us)
    assert [row["run"] for row in as_csv(usage_sheet(books.store, second))] == ["2", "2"]
    assert as_csv(usage_sheet(books.store, Period(0, 1))) == []


def test_accounts_that_come_while_an_export_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    writer.write(usage=[used(LEAD, 1, START_US, 1)])
    monkeypatch.setattr(export, "ROWS_AT_ONCE", 1)
    rows = iter(usage_sheet(store, ALL).rows)
    next(rows)
    writer.write(usage=[used(agent("late", "s", "a"), 2, START_US, 1)])
    assert "late" in next(rows)
    store.close()
