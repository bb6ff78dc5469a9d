"""Rows of a Parquet file, by DuckDB: numbers as they would be written in a CSV."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping

from stepwell.review.sources.base import MAX_REPLY_BYTES, Reader

MAGIC = b"PAR1"


def parquet_rows(reader: Reader, *columns: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Rows with their numbers from 0. The columns are required; others may come. Raises ``SourceError``."""
    import duckdb

    data = reader.reply.data
    if len(data) > MAX_REPLY_BYTES:
        raise reader.fail(f"{len(data)} bytes are more than {MAX_REPLY_BYTES}")
    if not data.strip():
        raise reader.fail("an empty reply")
    if not (data.startswith(MAGIC) and data.endswith(MAGIC)):
        raise reader.fail("no Parquet, or cut short")
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file, duckdb.connect() as connection:
        file.write(data)
        file.flush()
        try:
            found = connection.execute("SELECT * FROM read_parquet(?)", [file.name])
            names = [str(column[0]) for column in found.description or ()]
            rows = found.fetchall()
        except duckdb.Error as error:
            raise reader.fail(f"no Parquet that can be read ({str(error).splitlines()[0][:80]})") from error
    if lacking := [name for name in columns if name not in names]:
        raise reader.fail(f"there is no column {', '.join(lacking)}")
    for number, row in enumerate(rows):
        yield number, {name: "" if one is None else str(one) for name, one in zip(names, row, strict=True)}
