"""Tables as text: a line that says what the columns are, then a row a line.

A model reads ``a | b | c`` well, and every row is one line, so that a passage never ends within a row.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from stepwell.errors import BadInput, MissingExtra
from stepwell.library.documents import Limits

MAX_COLUMNS = 2_000
MAX_CELL_CHARS = 65_536
SAMPLE_ROWS = 1_000
PARQUET_MEMORY = "512MB"
_ROWS_AT_ONCE = 1_024
_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?", re.ASCII)
_KINDS = (("integer", _INTEGER), ("number", _NUMBER), ("date", _DATE))


def csv_text(text: str, name: str, limits: Limits) -> str:
    """A CSV or TSV file with a line of names. Raises ``BadInput``: one sentence."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, name))
    try:
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise BadInput(f"table {name} cannot be read at line {reader.line_num}: {error}") from error
    if not rows:
        raise BadInput(f"table {name} is empty: there is nothing to read in it")
    header, *body = rows
    if len(header) > MAX_COLUMNS:
        raise BadInput(f"table {name} has {len(header):,} columns and at most {MAX_COLUMNS:,} are read")
    kinds = [_kind([row[at] for row in body[:SAMPLE_ROWS] if at < len(row)]) for at in range(len(header))]
    return _table(header, kinds, body, name, limits, f"{len(body):,} rows")


def _delimiter(text: str, name: str) -> str:
    """The sign that is most often in the first line, outside of quotes; tabs where the name says so."""
    if name.lower().endswith(".tsv"):
        return "\t"
    first = re.sub(r'"[^"]*"', "", text.lstrip("\n").partition("\n")[0])
    return max(",;\t|", key=lambda sign: (first.count(sign), sign == ","))


def _kind(cells: Sequence[str]) -> str:
    """What the sampled cells of a column have in common."""
    full = [cell.strip() for cell in cells if cell.strip()]
    if not full:
        return "empty"
    return next((kind for kind, form in _KINDS if all(map(form.fullmatch, full))), "text")


def parquet_text(data: bytes, name: str, limits: Limits) -> tuple[str, str]:
    """A Parquet file, through DuckDB (the extra ``analytics``), and a note. Raises ``BadInput``.

    SQL reads the file itself, so a long table is no fault: of its text the beginning is enough.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra(f"reading the Parquet file {name}", "analytics") from error
    options: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": PARQUET_MEMORY,
        "threads": 1,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(data)
        file.flush()
        try:
            with duckdb.connect(config=options) as connection:
                text = _parquet_rows(connection, file.name, name, replace(limits, cut=True))
        except duckdb.Error as error:
            raise BadInput(
                f"Parquet file {name} cannot be read ({type(error).__name__}): it may be damaged"
            ) from error
    if len(text) <= limits.max_chars:
        return text, ""
    whole_rows = text[: limits.max_chars].rpartition("\n")[0]
    return f"{whole_rows}\n", f"of its text the first {limits.max_chars:,} characters are kept"


def _parquet_rows(connection: Any, path: str, name: str, limits: Limits) -> str:
    columns = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [path]).fetchall()
    if len(columns) > MAX_COLUMNS:
        raise BadInput(f"table {name} has {len(columns):,} columns and at most {MAX_COLUMNS:,} are read")
    count = connection.execute("SELECT count(*) FROM read_parquet(?)", [path]).fetchone()[0]
    # Python is handed times with zones as text: as values DuckDB needs one more package for them.
    asked = ", ".join(f"#{n}::VARCHAR" if "TIME ZONE" in c[1] else f"#{n}" for n, c in enumerate(columns, 1))
    found = connection.execute(f"SELECT {asked} FROM read_parquet(?)", [path])
    batches = iter(lambda: found.fetchmany(_ROWS_AT_ONCE), [])
    rows = itertools.chain.from_iterable(batches)
    return _table(
        [c[0] for c in columns], [c[1].lower() for c in columns], rows, name, limits, f"{count:,} rows"
    )


def _table(
    header: Sequence[str],
    kinds: Sequence[str],
    rows: Iterable[Sequence[Any]],
    name: str,
    limits: Limits,
    size: str,
) -> str:
    """Stops at the limit of characters: a small file may unfold to more than memory holds."""
    columns = ", ".join(
        f"{_cell(title) or '(no name)'} ({kind})" for title, kind in zip(header, kinds, strict=True)
    )
    lines = [f"Table of {size}. Columns: {columns}.", "", " | ".join(map(_cell, header))]
    chars = sum(map(len, lines))
    for row in rows:
        lines.append(" | ".join(map(_cell, row)))
        chars += len(lines[-1]) + 1
        if chars > limits.max_chars and not limits.cut:
            raise BadInput(
                f"table {name} is longer than {limits.max_chars:,} characters as text: give fewer rows or "
                "ask it with SQL"
            )
        if chars > limits.max_chars:
            break
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value)[:MAX_CELL_CHARS].split())
