"""How a CSV file is written, and where its rows do not fit its header.

DuckDB finds the form of a file by what fits most of it, and leaves out lines or takes a whole row for one
value where nothing does. Such a file is refused, with the line: a table that silently lacks rows is worse
than none.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.sql_names import quoted
from stepwell.errors import BadInput

if TYPE_CHECKING:
    import duckdb

_EMPTY = "(empty)"
_SIGNS = ",;\t|"
_LOOKED_AT_BYTES = 1 << 20
_HEAD_LINES = 200
_QUOTED = re.compile(r'"[^"]*"')


def form_of(connection: duckdb.DuckDBPyConnection, path: Path, separator: str) -> tuple[dict[str, Any], int]:
    """Options of ``read_csv``, as DuckDB finds them, and how many columns they give. Values are not looked
    at. ``BadInput``."""
    given = {"delim": separator} if separator else {}
    form, columns = _sniffed(connection, path, given)
    if form["quote"] != '"' and _head(path, 1)[:1] and _head(path, 1)[0].startswith('"'):
        # Apostrophes in its text were taken for what quotes it.
        given |= {"quote": '"', "escape": '"'}
        form, columns = _sniffed(connection, path, given)
    if form["skip"] and _is_table(_head(path, form["skip"]), form):
        form, columns = _sniffed(connection, path, {**given, "skip": 0})
        if columns < 2:
            raise BadInput(_uneven(path, form, given) or "its rows have different numbers of cells")
    if columns == 1 and not separator and (said := _uneven(path, form, given)):
        raise BadInput(said)
    return form, columns


def _sniffed(
    connection: duckdb.DuckDBPyConnection, path: Path, given: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """The form and how many columns it gives."""
    options = "".join(
        f", {name} = {value if isinstance(value, int) else quoted(value)}" for name, value in given.items()
    )
    row = connection.execute(
        "SELECT Delimiter, Quote, Escape, Comment, SkipRows, HasHeader, len(Columns) "
        f"FROM sniff_csv({quoted(str(path))}{options})"
    ).fetchone()
    assert row is not None
    delimiter, quote, escape, comment, skip, header, columns = row
    has_quotes = quote not in (_EMPTY, "")
    form = {
        "delim": given.get("delim") or delimiter,
        "quote": quote if has_quotes else None,
        "escape": escape if has_quotes and escape not in (_EMPTY, "") else quote,
        "comment": "" if comment == _EMPTY else comment,
        "skip": skip,
        "header": header,
    }
    return form, columns


def _head(path: Path, lines: int) -> list[str]:
    with path.open("rb") as file:
        return file.read(_LOOKED_AT_BYTES).decode("utf-8-sig", "replace").splitlines()[:lines]


def _is_table(skipped: Sequence[str], form: dict[str, Any]) -> bool:
    """Whether every one of the lines that would be left out has cells: a title above a table has none. Lines
    that a blank one parts from the table are none of it, whatever they hold."""
    if skipped and not skipped[-1].strip():
        return False
    comment = form["comment"]
    told = [line for line in skipped if line.strip() and not (comment and line.startswith(comment))]
    return bool(told) and all(form["delim"] in line for line in told)


def _uneven(path: Path, form: dict[str, Any], given: dict[str, Any]) -> str:
    """Where a table stops fitting its header, in a sentence; empty: it is no table of several columns."""
    lines = [_QUOTED.sub("", line) for line in _head(path, _HEAD_LINES) if line.strip()]
    if not lines:
        return ""
    likely = max(given.get("delim") or _SIGNS, key=lambda sign: (lines[0].count(sign), sign == ","))
    if likely not in lines[0] or sum(likely in line for line in lines) * 2 < len(lines):
        return ""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(_misfits(csv.reader(file, delimiter=likely)), "")


def _misfits(reader: Any) -> Iterator[str]:
    wanted = 0
    try:
        for row in reader:
            if row and wanted and len(row) != wanted:
                yield f"line {reader.line_num} has {len(row)} cells and the first has {wanted}"
            wanted = wanted or len(row)
    except csv.Error as error:
        yield f"line {reader.line_num}: {error}"


def with_one_line_end(path: Path, most_bytes: int) -> bool:
    """Writes a copy whose lines all end with LF over ``path``, where they end in both ways; what stands in
    quotes stays. False: there was nothing to do."""
    if path.stat().st_size > most_bytes:
        return False
    parts = path.read_bytes().split(b'"')
    outside = parts[::2]
    ends = sum(part.count(b"\r\n") for part in outside)
    if not 0 < ends < sum(part.count(b"\n") for part in outside):
        return False
    parts[::2] = [part.replace(b"\r\n", b"\n") for part in outside]
    path.unlink()  # it may be a link to the person's own
    path.write_bytes(b'"'.join(parts))
    return True
