"""The books as files: CSV, Parquet, and a spend log with LiteLLM's columns.

Rows are read a few ten thousand at a time in the order they were written, so an export needs no more memory
than that, and a server may go on writing: what comes after the beginning of the export may be in it or not.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any

from stepwell.ledger.base import Store
from stepwell.ledger.reading.queries import Accounts, Period, belongs, join_sum
from stepwell.ledger.types import MAX_AMOUNT, Account, Cause

ROWS_AT_ONCE = 20_000
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_DECIMAL = re.compile(r"-\d+\.\d+", re.ASCII)

Row = Sequence[Any]
Progress = Callable[[int], None]
"""Told how many rows are written."""

WHO = ("tenant", "key", "service_tier", "session", "agent", "parent_agent", "role")
KEYED = ("run", "batch", "n")
USAGE_READ = (
    *("at_us", "request", "account", "model", "reason", "requests", "input_tokens", "cached_tokens"),
    *("visible_tokens", "intermediate_tokens", "recomputed_tokens", "charge_microusd", "ttft_us", "e2e_us"),
    "cause",
)
POSTINGS_READ = ("at_us", "debit", "credit", "resource", "amount", "cause", "request")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table to write: its columns with their types in DuckDB, and its rows."""

    columns: Mapping[str, str]
    rows: Iterable[Row]


def usage_sheet(store: Store, period: Period, tenant: str | None = None) -> Sheet:
    """The spend log with every account written out."""
    read = [name for name in USAGE_READ if name != "account"]
    columns = dict.fromkeys((*KEYED, *read), "BIGINT") | dict.fromkeys(
        ("model", "reason", "cause"), "VARCHAR"
    )
    columns = {**columns, **dict.fromkeys(WHO, "VARCHAR")}

    def rows() -> Iterator[Row]:
        for row, account in _usage(store, period, tenant):
            yield [*(row[name] for name in (*KEYED, *read)), *_owner(account)]

    return Sheet(columns, rows())


def postings_sheet(store: Store, period: Period, tenant: str | None = None) -> Sheet:
    """Postings with both accounts written out; of one tenant, those with its account on either side."""
    known, sides = Accounts(store), ("debit", "credit")
    plain = [name for name in POSTINGS_READ if name not in sides]
    columns = dict.fromkeys((*KEYED, *plain), "BIGINT") | dict.fromkeys(("resource", "cause"), "VARCHAR")
    parts = {f"{side}_{name}": "VARCHAR" for side in sides for name in ("kind", *WHO)}

    def rows() -> Iterator[Row]:
        for row in chain(_balances(store, period), _pages(store, "postings", POSTINGS_READ, period)):
            both = [known[row[side]] for side in sides]
            if any(belongs(account, tenant) for account in both):
                cells = [cell for account in both for cell in (account.kind.value, *_owner(account))]
                yield [*(row[name] for name in (*KEYED, *plain)), *cells]

    return Sheet({**columns, **parts}, rows())


def _balances(store: Store, period: Period) -> Iterator[dict[str, Any]]:
    """Daily balances in the shape of postings: ``n`` is -1, and what is too large for one row is two."""
    where, values = period.where("t")
    names = ("run", "batch", "at_us", "debit", "credit", "resource", "cause", "request")
    rows = store.rows(
        f"SELECT {', '.join(names)}, high, low FROM daily t WHERE {where} ORDER BY {', '.join(names)}", values
    )
    for *row, high, low in rows:
        left = join_sum(high, low)
        while left > 0:
            amount = min(left, MAX_AMOUNT)
            yield dict(zip(names, row, strict=True)) | {"n": -1, "amount": amount}
            left -= amount


SPEND_LOG: Mapping[str, str] = {
    "request_id": "VARCHAR",
    "call_type": "VARCHAR",
    "api_key": "VARCHAR",
    "spend": "DECIMAL(18, 6)",
    "total_tokens": "BIGINT",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "startTime": "TIMESTAMP",
    "endTime": "TIMESTAMP",
    "completionStartTime": "TIMESTAMP",
    "model": "VARCHAR",
    "custom_llm_provider": "VARCHAR",
    "user": "VARCHAR",
    "team_id": "VARCHAR",
    "end_user": "VARCHAR",
    "session_id": "VARCHAR",
    "cache_hit": "VARCHAR",
    "status": "VARCHAR",
    "metadata": "VARCHAR",
}
"""The columns of LiteLLM's ``LiteLLM_SpendLogs`` that have a meaning here, with its spelling."""


def spend_log_sheet(store: Store, period: Period, tenant: str | None = None) -> Sheet:
    """One row for each row of our spend log. What LiteLLM has no column for is in ``metadata`` (JSON)."""
    return Sheet(SPEND_LOG, (_spend(row, account) for row, account in _usage(store, period, tenant)))


def _spend(row: Mapping[str, Any], account: Account) -> Row:
    output_tokens = row["visible_tokens"] + row["intermediate_tokens"]
    began_us = row["at_us"] - row["e2e_us"]
    number = f"{row['run']}.{row['request']}"
    settled = row["cause"] == Cause.SETTLE.value
    extra = ("cached_tokens", "visible_tokens", "intermediate_tokens", "recomputed_tokens", "reason", "cause")
    metadata = {name: row[name] for name in extra} | {
        "service_tier": account.service_tier,
        "agent_id": account.agent,
        "parent_agent_id": account.parent_agent,
        "role": account.role,
    }
    return [
        number if settled else f"{number}.{row['batch']}.{row['n']}",
        "acompletion" if settled else row["cause"],
        account.key,
        usd(row["charge_microusd"]),
        row["input_tokens"] + output_tokens,
        row["input_tokens"],
        output_tokens,
        timestamp(began_us),
        timestamp(row["at_us"]),
        timestamp(began_us + row["ttft_us"]),
        row["model"],
        "stepwell",
        "",
        account.tenant,
        "",
        account.session,
        str(row["cached_tokens"] > 0),
        "success" if row["reason"] in ("stop", "length", "tool_calls") else "failure",
        json.dumps(metadata),
    ]


def usd(microusd: int) -> str:
    """Dollars with all six places, exactly: ``-0.000050``."""
    sign, whole = "-" if microusd < 0 else "", abs(microusd)
    return f"{sign}{whole // 1_000_000}.{whole % 1_000_000:06d}"


def timestamp(at_us: int) -> str:
    """UTC, as SQL and LiteLLM write it: ``2026-11-22 10:00:00.000000``."""
    seconds, micros = divmod(at_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{micros:06d}"


def _owner(account: Account) -> Sequence[str]:
    return account[1:]


def _usage(store: Store, period: Period, tenant: str | None) -> Iterator[tuple[dict[str, Any], Account]]:
    known = Accounts(store)
    for row in _pages(store, "usage", USAGE_READ, period):
        account = known[row["account"]]
        if belongs(account, tenant):
            yield row, account


def _pages(store: Store, table: str, columns: Sequence[str], period: Period) -> Iterator[dict[str, Any]]:
    """Rows in the order of their key, each as a mapping; the next page begins behind the last one's key."""
    names = (*KEYED, *columns)
    where, values = period.where("t")
    last: tuple[int, ...] = (-1, -1, -1)
    while True:
        rows = store.rows(
            f"SELECT {', '.join(f't.{name}' for name in names)} FROM {table} t "
            f"WHERE (t.run, t.batch, t.n) > (?, ?, ?) AND {where} "
            f"ORDER BY t.run, t.batch, t.n LIMIT {ROWS_AT_ONCE}",
            [*last, *values],
        )
        yield from (dict(zip(names, row, strict=True)) for row in rows)
        if len(rows) < ROWS_AT_ONCE:
            return
        last = tuple(rows[-1][:3])


# --- writing -----------------------------------------------------------------------------------


def write_csv(sheet: Sheet, file: IO[str], progress: Progress | None = None) -> int:
    """With a line of names. Text that a spreadsheet would take for a formula gets a ``'`` before it, for
    names of sessions and agents are whatever a client said. Returns how many rows were written."""
    return _write(sheet, csv.writer(file, lineterminator="\n"), progress, _harmless)


def write_parquet(sheet: Sheet, path: Path, progress: Progress | None = None) -> int:
    """Exactly what is in the books, typed. Needs DuckDB (extra 'analytics'); ``ImportError`` without it."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="stepwell-export-") as directory:
        between = Path(directory) / "rows.csv"
        with between.open("w", encoding="utf-8", newline="") as file:
            # Text in quotes and nothing else: so an empty name stays one, and none is taken for NULL.
            count = _write(sheet, csv.writer(file, quoting=csv.QUOTE_NONNUMERIC), progress, lambda cell: cell)
        connection = duckdb.connect()
        try:
            rows = f"SELECT * FROM {_as_read(sheet, between)}"
            connection.execute(f"COPY ({rows}) TO {_quoted(str(path))} (FORMAT parquet)")
        finally:
            connection.close()
    return count


def _as_read(sheet: Sheet, path: Path) -> str:
    """DuckDB's SQL for the file between: nothing about it is guessed."""
    types = ", ".join(f"{_quoted(name)}: {_quoted(kind)}" for name, kind in sheet.columns.items())
    form = "delim = ',', quote = '\"', escape = '\"', new_line = '\\r\\n', allow_quoted_nulls = false"
    form += f", header = true, auto_detect = false, columns = {{{types}}}"
    return f"read_csv({_quoted(str(path))}, {form})"


def _write(sheet: Sheet, writer: Any, progress: Progress | None, cell_of: Callable[[Any], Any]) -> int:
    writer.writerow(sheet.columns)
    count = 0
    for count, row in enumerate(sheet.rows, 1):
        writer.writerow([cell_of(cell) for cell in row])
        if progress is not None and count % ROWS_AT_ONCE == 0:
            progress(count)
    return count


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(FORMULA_STARTS) or _DECIMAL.fullmatch(cell):
        return cell
    return f"'{cell}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
