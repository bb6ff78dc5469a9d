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
import unicodedata
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.charset import decode
from stepwell.errors import BadInput

if TYPE_CHECKING:
    import duckdb

MAX_DECODED_BYTES = 256 << 20
"""Of a file that is written anew as UTF-8."""
_CHUNK_BYTES = 1 << 20
_COLUMNS_AT_ONCE = 40
_SEPARATOR = re.compile(r"sep=(.)[ \t]*\r?\n", re.I)
_EMPTY = "(empty)"
_DIGITS = 15
"""Significant digits that a DOUBLE keeps."""
_WIDEST = 38
_INTEGER = r"0|-?[1-9]\d{0,37}"
_DECIMAL = r"-?(0|[1-9]\d*)(\.\d+)?"
_FLOAT = rf"{_DECIMAL}|-?\d\.\d+[eE][+-]?\d{{1,3}}|-?\d[eE][+-]\d{{1,3}}"
_DATE = r"\d{4}-\d\d-\d\d"
_TIMESTAMP = rf"{_DATE}[ T]\d\d:\d\d(:\d\d(\.\d{{1,6}})?)?"
_TIME = r"\d\d:\d\d:\d\d"


class PrivateFolder:
    """A folder that goes when its owner goes."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="stepwell-tables-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def identifier(text: str) -> str:
    """A name for a table in letters of any script, such as ``sales_1`` for ``sales[1]``."""
    plain = re.sub(r"\W+", "_", unicodedata.normalize("NFC", text)).strip("_") or "data"
    return f"t_{plain}" if plain[0].isdigit() else plain


def plain_copy(path: Path, folder: Path, number: int) -> tuple[Path, str, str]:
    """The file as UTF-8 under a name without any sign that a pattern could have; its separator where its
    first line says it (``sep=;``), and a note. ``BadInput`` where its encoding is not clear.
    """
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
    form = _form(connection, path, separator)
    _read(connection, path, form)
    columns = [row[0] for row in connection.execute("DESCRIBE raw_text").fetchall()]
    types: list[str] = []
    for at in range(0, len(columns), _COLUMNS_AT_ONCE):
        types += _types(connection, columns[at : at + _COLUMNS_AT_ONCE])
    asked = ", ".join(map(_cast, columns, types))
    connection.execute(f"CREATE TABLE {table} AS SELECT {asked} FROM raw_text")
    connection.execute("DROP TABLE raw_text")
    left_out = [f"its first {form['skip']} lines were left out"] if form["skip"] else []
    if form["comment"]:
        left_out.append(f"lines that begin with {form['comment']} were left out")
    return "; ".join(left_out)


def _form(connection: duckdb.DuckDBPyConnection, path: Path, separator: str) -> dict[str, Any]:
    """How the file is written, as DuckDB finds it; its values are not looked at."""
    given = {"delim": separator} if separator else {}
    options = "".join(f", {name} = {quoted(value)}" for name, value in given.items())
    row = connection.execute(
        f"SELECT Delimiter, Quote, Comment, SkipRows, HasHeader FROM sniff_csv({quoted(str(path))}{options})"
    ).fetchone()
    assert row is not None
    delimiter, quote, comment, skip, header = row
    return {
        "delim": separator or delimiter,
        "quote": quote if quote not in (_EMPTY, "") else None,
        "comment": "" if comment == _EMPTY else comment,
        "skip": skip,
        "header": header,
    }


def _read(connection: duckdb.DuckDBPyConnection, path: Path, form: dict[str, Any]) -> None:
    """All of it as text. Quotes count also where the sample had none, unless that cannot be read."""
    duck = _duck()
    signs = [form["quote"]] if form["quote"] else ['"', ""]
    for at, sign in enumerate(signs):
        options = {**form, "quote": sign, "escape": sign}
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
            return


def _types(connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> list[str]:
    """The type of each column, from all of its values."""
    asked = ", ".join(_evidence(column) for column in columns)
    row = connection.execute(f"SELECT {asked} FROM raw_text").fetchone()
    assert row is not None
    return [_type(found) for found in row]


def _evidence(column: str) -> str:
    value = f"trim({name(column)})"

    def matching(pattern: str, cast: str = "") -> str:
        sound = f" AND TRY_CAST({value} AS {cast}) IS NOT NULL" if cast else ""
        return f"count(*) FILTER (regexp_full_match({value}, '{pattern}'){sound})"

    digits = f"regexp_replace({value}, '^-?0*|[^0-9]', '', 'g')"
    parts = {
        "n": f"count({name(column)})",
        "integer": matching(_INTEGER),
        "decimal": matching(_DECIMAL),
        "float": matching(_FLOAT),
        "date": matching(_DATE, "DATE"),
        "timestamp": matching(_TIMESTAMP, "TIMESTAMP"),
        "time": matching(_TIME, "TIME"),
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


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """A column or table of this name, whatever signs it has."""
    return '"' + text.replace('"', '""') + '"'


def _duck() -> Any:
    import duckdb

    return duckdb
