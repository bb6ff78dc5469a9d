"""The person's CSV files as tables whose values are what the files say.

A file is read once, whole and as text, into a private copy. A column becomes numbers, dates or times only
where every value of it is written as one and stays what it is: ``007``, a phone number or a number with
more digits than fit stays text. Nothing is decided by the first rows alone, and a file's name is never a
pattern.
"""

from __future__ import annotations

import codecs
import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.csv_form import form_of, with_one_line_end
from stepwell.agents.tools.sql_names import name, quoted
from stepwell.errors import BadInput
from stepwell.library.charset import decode

if TYPE_CHECKING:
    import duckdb

MAX_DECODED_BYTES = 256 << 20
"""Of a file that is written anew as UTF-8."""
_CHUNK_BYTES = 1 << 20
_COLUMNS_AT_ONCE = 40
_SEPARATOR = re.compile(r"sep=(.)[ \t]*\r?\n", re.I)
_DIGITS = 15
"""Significant digits that a DOUBLE keeps."""
_WIDEST = 38
_INTEGER = r"0|-?[1-9]\d{0,37}"
_DECIMAL = r"-?(0|[1-9]\d*)(\.\d+)?"
_FLOAT = rf"{_DECIMAL}|-?\d\.\d+[eE][+-]?\d{{1,3}}|-?\d[eE][+-]\d{{1,3}}"
_LEAST = "2.2250738585072014e-308"
"""Smaller ones lose digits, or are 0."""
_ZERO = r"-?[0.]+([eE][+-]?\d+)?"
_DATE = r"\d{4}-\d\d-\d\d"
_TIMESTAMP = rf"{_DATE}[ T]\d\d:\d\d(:\d\d(\.\d{{1,6}})?)?"
_TIME = r"([01]\d|2[0-3]):\d\d:\d\d"


class PrivateFolder:
    """A folder that goes when its owner goes."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="stepwell-tables-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def plain_copy(path: Path, folder: Path, number: int) -> tuple[Path, str, str]:
    """The file as UTF-8 under a name without any sign that a pattern could have; its separator where its
    first line says it (``sep=;``), and a note. ``BadInput`` where its encoding is not clear.
    """
    if path.stat().st_size <= _CHUNK_BYTES and not path.read_bytes().strip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"):
        raise BadInput("it is empty")
    copied = folder / f"{number}{path.suffix.lower()}"
    with path.open("rb") as file:
        head = file.read(64).decode("utf-8-sig", "replace")
    if _SEPARATOR.match(head) is None and _is_utf8(path):
        copied.symlink_to(path.resolve())
        return copied, "", ""
    if path.stat().st_size > MAX_DECODED_BYTES:
        raise BadInput(f"it is not UTF-8 and larger than {MAX_DECODED_BYTES >> 20} MiB: save it as UTF-8")
    decoded = decode(path.read_bytes(), path.name)
    said = _SEPARATOR.match(decoded.text)
    copied.write_text(decoded.text[said.end() :] if said else decoded.text, "utf-8", newline="")
    return copied, said[1] if said else "", decoded.note


def _is_utf8(path: Path) -> bool:
    reader = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while chunk := file.read(_CHUNK_BYTES):
                if b"\0" in chunk or "\x1b$" in reader.decode(chunk):
                    return False
            reader.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def load_csv(connection: duckdb.DuckDBPyConnection, table: str, path: Path, separator: str) -> str:
    """Makes ``table`` (quoted already) of a file that ``plain_copy`` made; returns a note."""
    try:
        form, columns = form_of(connection, path, separator)
        _read(connection, path, form, columns)
    except _duck().Error:
        if not with_one_line_end(path, MAX_DECODED_BYTES):
            raise
        form, columns = form_of(connection, path, separator)
        _read(connection, path, form, columns)
    names = _columns(connection)
    types: list[str] = []
    for at in range(0, len(names), _COLUMNS_AT_ONCE):
        types += _types(connection, names[at : at + _COLUMNS_AT_ONCE])
    asked = ", ".join(map(_cast, names, types))
    connection.execute(f"CREATE TABLE {table} AS SELECT {asked} FROM raw_text")
    connection.execute("DROP TABLE raw_text")
    left_out = [f"its first {form['skip']} lines were left out"] if form["skip"] else []
    if form["comment"]:
        left_out.append(f"lines that begin with {form['comment']} were left out")
    return "; ".join(left_out)


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [row[0] for row in connection.execute("DESCRIBE raw_text").fetchall()]


def _signs(form: dict[str, Any]) -> list[tuple[str, str]]:
    """Quotes and what escapes them, to be tried in turn. Quotes count also where the sample had none. A quote
    is escaped by another one (RFC 4180) wherever a file can be read so: DuckDB takes an apostrophe or a
    backslash for an escape where that makes numbers of a column, and ``'0`` would be 0."""
    sign = form["quote"]
    if not sign:
        return [('"', '"'), ("", "")]
    return [(sign, sign)] if form["escape"] == sign else [(sign, sign), (sign, form["escape"])]


def _read(connection: duckdb.DuckDBPyConnection, path: Path, form: dict[str, Any], columns: int) -> None:
    """All of it as text."""
    duck, signs = _duck(), _signs(form)
    for at, (sign, escape) in enumerate(signs):
        options = {**form, "quote": sign, "escape": escape}
        listed = ", ".join(f"{name} = {_option(value)}" for name, value in options.items())
        try:
            connection.execute(
                f"CREATE OR REPLACE TABLE raw_text AS SELECT * FROM read_csv({quoted(str(path))}, "
                f"all_varchar = true, {listed})"
            )
        except duck.Error:
            if at + 1 == len(signs):
                raise
        else:
            if at + 1 == len(signs) or not form["quote"] or len(_columns(connection)) == columns:
                return


def _types(connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> list[str]:
    """The type of each column, from all of its values."""
    asked = ", ".join(_evidence(column) for column in columns)
    row = connection.execute(f"SELECT {asked} FROM raw_text").fetchone()
    assert row is not None
    return [_type(found) for found in row]


def _evidence(column: str) -> str:
    value = f"trim({name(column)})"

    def matching(pattern: str, kept: str = "") -> str:
        """``kept``: what must hold besides, so that the value says what the text does."""
        return f"count(*) FILTER (regexp_full_match({value}, '{pattern}'){f' AND {kept}' if kept else ''})"

    def day(kind: str) -> str:
        """24:00 is the next day's, and no year is 0."""
        return f"left(TRY_CAST({value} AS {kind})::VARCHAR, 10) = left({value}, 10)"

    number = f"TRY_CAST({value} AS DOUBLE)"
    kept = f"isfinite({number}) AND (abs({number}) >= {_LEAST} OR regexp_full_match({value}, '{_ZERO}'))"

    digits = f"regexp_replace({value}, '^-?0*|[^0-9]', '', 'g')"
    parts = {
        "n": f"count({name(column)})",
        "integer": matching(_INTEGER),
        "decimal": matching(_DECIMAL),
        "float": matching(_FLOAT, kept),
        "date": matching(_DATE, day("DATE")),
        "timestamp": matching(_TIMESTAMP, day("TIMESTAMP")),
        "time": matching(_TIME, f"TRY_CAST({value} AS TIME) IS NOT NULL"),
        "boolean": f"count(*) FILTER (lower({value}) IN ('true', 'false'))",
        "digits": f"max(length({digits}))",
        "whole": f"max(length(split_part(ltrim({value}, '-'), '.', 1)))",
        "scale": f"max(length(split_part({value}, '.', 2)))",
        "zeros": f"count(*) FILTER (regexp_full_match({value}, '-?\\d+\\.\\d*0'))",
    }
    return "struct_pack(" + ", ".join(f'"{key}" := {sql}' for key, sql in parts.items()) + ")"


def _type(found: dict[str, int]) -> str:
    full = found["n"]
    if not full:
        return "VARCHAR"
    if found["integer"] == full:
        return "BIGINT" if found["digits"] <= 18 else "HUGEINT"
    if found["decimal"] == full and (found["digits"] > _DIGITS or found["zeros"]):
        scale, width = found["scale"], found["whole"] + found["scale"]
        return f"DECIMAL({_WIDEST if width > 18 else 18}, {scale})" if width <= _WIDEST else "VARCHAR"
    if found["float"] == full and found["digits"] <= _DIGITS:
        return "DOUBLE"
    kinds = ("date", "timestamp", "time", "boolean")
    return next((kind.upper() for kind in kinds if found[kind] == full), "VARCHAR")


def _cast(column: str, kind: str) -> str:
    value = name(column)
    return value if kind == "VARCHAR" else f"CAST(trim({value}) AS {kind}) AS {value}"


def _option(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | int) else quoted(str(value))


def _duck() -> Any:
    import duckdb

    return duckdb
