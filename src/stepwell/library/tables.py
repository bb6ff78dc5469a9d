"""Tables as text: a line that says what the columns are, then a row a line.

A model reads ``a | b | c`` well, and every row is one line, so that a passage never ends within a row.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from stepwell.errors import BadInput, MissingExtra
from stepwell.library.documents import Limits

MAX_COLUMNS = 2_000
MAX_CELL_CHARS = 65_536
PARQUET_MEMORY = "512MB"
_ROWS_AT_ONCE = 1_024
_INTEGER = re.compile(r"0|-?[1-9]\d{0,29}", re.ASCII)
"""Not ``007``: what begins with a zero is a code."""
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d{0,29})(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?", re.ASCII)
_KINDS = (("integer", _INTEGER), ("number", _NUMBER), ("date", _DATE))


def csv_text(text: str, name: str, limits: Limits) -> str:
    """A CSV or TSV file with a line of names. Raises ``BadInput``: one sentence.

    Rows are read one by one, and no further than the limit of characters, so that a table takes no more
    memory than its text.
    """
    text = text.lstrip("\ufeff")
    delimiter, text = _delimiter(text, name)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = (row for row in reader if any(cell.strip() for cell in row))
    try:
        header = next(rows, None)
        if header is None:
            raise BadInput(f"table {name} is empty: there is nothing to read in it")
        if len(header) > MAX_COLUMNS:
            raise BadInput(f"table {name} has {len(header):,} columns and at most {MAX_COLUMNS:,} are read")
        kinds = _Kinds(len(header))
        lines, count, all_of_it = _lines(header, kinds.seen(rows), name, limits)
    except csv.Error as error:
        raise BadInput(f"table {name} cannot be read at line {reader.line_num}: {error}") from error
    size = f"{count:,} rows" if all_of_it else f"more than {count:,} rows"
    return "\n".join([_columns_line(header, kinds.found(), size), "", *lines]) + "\n"


def _delimiter(text: str, name: str) -> tuple[str, str]:
    """What stands between cells, and the text without a line that says it (``sep=;``).

    Else it is the sign that is most often in the first line, outside of quotes; tabs where the name says so.
    """
    first, _, rest = text.lstrip("\r\n").partition("\n")
    said = first.strip("\r ")
    if said[:4].lower() == "sep=" and len(first.rstrip("\r")) == 5:
        return first[4], rest
    if name.lower().endswith(".tsv"):
        return "\t", text
    outside = re.sub(r'"[^"]*"', "", first[:MAX_CELL_CHARS])
    return max(",;\t|", key=lambda sign: (outside.count(sign), sign == ",")), text


class _Kinds:
    """What all cells of each column have in common, found while the rows go by."""

    def __init__(self, columns: int) -> None:
        self._left = [dict(_KINDS) for _ in range(columns)]
        self._full = [False] * columns

    def seen(self, rows: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
        for row in rows:
            for at, cell in enumerate(row[: len(self._left)]):
                value = cell.strip()
                if value:
                    self._full[at] = True
                    for kind in [kind for kind, form in self._left[at].items() if not form.fullmatch(value)]:
                        del self._left[at][kind]
            yield row

    def found(self) -> list[str]:
        """``integer``, ``number``, ``date``, ``text`` or ``empty``."""
        pairs = zip(self._left, self._full, strict=True)
        return [next(iter(left), "text") if full else "empty" for left, full in pairs]


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
    header = [c[0] for c in columns]
    lines, _, _ = _lines(header, rows, name, limits)
    said = _columns_line(header, [c[1].lower() for c in columns], f"{count:,} rows")
    return "\n".join([said, "", *lines]) + "\n"


def _lines(
    header: Sequence[str], rows: Iterable[Sequence[Any]], name: str, limits: Limits
) -> tuple[list[str], int, bool]:
    """The lines of names and rows, how many rows, and whether that is all of them.

    Stops at the limit of characters: a small file may unfold to more than memory holds.
    """
    lines = [" | ".join(map(_cell, header))]
    chars = len(lines[0])
    for row in rows:
        lines.append(" | ".join(map(_cell, row)))
        chars += len(lines[-1]) + 1
        if chars > limits.max_chars and not limits.cut:
            raise BadInput(
                f"table {name} is longer than {limits.max_chars:,} characters as text: give fewer rows or "
                "ask it with SQL"
            )
        if chars > limits.max_chars:
            return lines, len(lines) - 1, False
    return lines, len(lines) - 1, True


def _columns_line(header: Sequence[str], kinds: Sequence[str], size: str) -> str:
    columns = ", ".join(
        f"{_cell(title) or '(no name)'} ({kind})" for title, kind in zip(header, kinds, strict=True)
    )
    return f"Table of {size}. Columns: {columns}."


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value)[:MAX_CELL_CHARS].split())
