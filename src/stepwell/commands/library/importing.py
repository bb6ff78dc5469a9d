"""``stepwell library import``: tables of a warehouse become Parquet files in the library."""

from __future__ import annotations

import difflib
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.dialects import select_all
from stepwell.agents.tools.warehouse import open_warehouse
from stepwell.agents.tools.warehouse_base import BATCH_ROWS, Warehouse, WarehouseTable
from stepwell.agents.tools.warehouses import Warehouses, listed_name
from stepwell.agents.tools.workspace import WarehouseUrl
from stepwell.basics.units import format_size, parse_duration_us, parse_size
from stepwell.commands.library.library import HERE, Where, file_line, result_console
from stepwell.commands.library.places import LibraryPlace
from stepwell.console.options import ResultOption, option
from stepwell.console.output import write_json
from stepwell.errors import BadInput, StepwellError
from stepwell.library.documents import clean_name

NAMED_TABLES = 20
"""In a sentence that says what there is."""


@dataclass(frozen=True, slots=True)
class FileWanted:
    """A file to be: its name, and what to ask for it."""

    name: str
    house: Warehouse
    sql: str


@dataclass(frozen=True, slots=True)
class ImportBounds:
    """What one table may be at most."""

    rows: int
    size_bytes: int
    limit_s: float


def import_(
    url: Annotated[str, Parameter(env_var="STEPWELL_WAREHOUSE", show_env_var=True, help="The warehouse.")],
    /,
    *,
    tables: Annotated[
        Sequence[str],
        Parameter(
            name="--table",
            help="A table, or schema.table (repeat for more).",
        ),
    ] = (),
    query: Annotated[str, option("One SELECT, in DuckDB's SQL or the warehouse's own.")] = "",
    name: Annotated[str, option("What the file is called. [the table's name, or query]")] = "",
    max_rows: Annotated[int, Parameter(help="A longer table is refused.")] = 1_000_000,
    max_bytes: Annotated[str, Parameter(help="A larger file is refused.")] = "64MiB",
    timeout: Annotated[str, Parameter(help="For each table.")] = "10min",
    where: Where = HERE,
    json_file: ResultOption = None,
) -> int:
    """Copy tables from a warehouse into the library, each as a Parquet file.

    URL is postgresql://user@host/database, bigquery://project/dataset or duckdb:///file.duckdb. A password
    is best kept out of it: PostgreSQL takes PGPASSWORD or ~/.pgpass, or put the URL into STEPWELL_WAREHOUSE.
    Nothing is ever written to the warehouse. Example:

        stepwell library import postgresql://reader@db.example/shop --table orders
        stepwell library import duckdb:///shop.duckdb --query "FROM orders WHERE year = 2026" --name orders

    Exit code 0: all were imported; 1: some were not.
    """
    if bool(tables) == bool(query.strip()):
        raise BadInput("say what to import: --table NAME (repeat for more), or --query with one SELECT")
    if name and len(tables) > 1:
        raise BadInput("--name is for one table: leave it out, and each file is called after its table")
    bounds = _bounds(max_rows, max_bytes, timeout)
    place, house, started = where.place(), open_warehouse(WarehouseUrl(url)), time.monotonic()
    with closing(Warehouses([house], bounds.limit_s)) as houses:
        wanted = _wanted(houses, tables, query, name)
        added, rows = _import_all(wanted, bounds, place, result_console(json_file))
    failed = len(wanted) - len(added)
    size = format_size(sum(file["bytes"] for file in added))
    lost = f"; {failed} could not be imported" if failed else ""
    took = f"{rows:,} rows, {size}, {time.monotonic() - started:.1f} s"
    line = f"{len(added)} of {len(wanted)} tables imported: {took}{lost}."
    result_console(json_file).print(line, markup=False, highlight=False)
    write_json(json_file, {"files": added, "rows": rows, "failed": failed})
    return 1 if failed else 0


def _bounds(max_rows: int, max_bytes: str, timeout: str) -> ImportBounds:
    if max_rows < 1:
        raise BadInput("--max-rows must be at least 1")
    try:
        return ImportBounds(max_rows, parse_size(max_bytes), parse_duration_us(timeout) / 1e6)
    except ValueError as error:
        raise BadInput(f"--max-bytes or --timeout: {error}") from error


def _wanted(houses: Warehouses, tables: Sequence[str], query: str, name: str) -> list[FileWanted]:
    """Raises ``BadInput`` for a table that is not there and for what is no question."""
    try:
        if query:
            house, sql = houses.plan(query)
            return [FileWanted(_file_name(name or "query"), house, sql)]
        known = houses.tables()
    except ToolError as error:
        raise BadInput(str(error)) from error
    return [_of_table(known, table, name) for table in dict.fromkeys(tables)]


def _of_table(known: Sequence[tuple[Warehouse, WarehouseTable]], wanted: str, name: str) -> FileWanted:
    for house, table in known:
        if wanted in (listed_name(table), f"{table.schema}.{table.name}"):
            return FileWanted(
                _file_name(name or wanted), house, select_all(house.dialect, table.schema, table.name)
            )
    names = [listed_name(table) for _, table in known]
    near = difflib.get_close_matches(wanted, names, 1, 0.5)
    some = ", ".join(names[:NAMED_TABLES]) + (", ..." if len(names) > NAMED_TABLES else "")
    there = (
        f"did you mean {near[0]}?"
        if near
        else f"there are {some}"
        if names
        else "there are no tables to read"
    )
    raise BadInput(f"there is no table {wanted} in the warehouse: {there}")


def _file_name(name: str) -> str:
    return clean_name(name.removesuffix(".parquet").replace("/", "_")) + ".parquet"


def _import_all(
    wanted: Sequence[FileWanted], bounds: ImportBounds, place: LibraryPlace, console: Console
) -> tuple[list[dict[str, Any]], int]:
    """File objects of what was imported, and the rows of all. What fails is said, and the others go on."""
    added, rows = list[dict[str, Any]](), 0
    with tempfile.TemporaryDirectory(prefix="stepwell-import-") as folder, _progress() as progress:
        for one in wanted:
            path = Path(folder) / one.name
            try:
                count = fetch(one, bounds, path, progress)
                added.append(place.add(path))
                rows += count
                console.print(f"{file_line(added[-1])}, {count:,} rows", markup=False, highlight=False)
            except StepwellError as error:
                print(f"stepwell: {one.name}: {error}", file=sys.stderr)
            path.unlink(missing_ok=True)
    return added, rows


def fetch(wanted: FileWanted, bounds: ImportBounds, path: Path, progress: Progress) -> int:
    """Write a table to a Parquet file, batch by batch, and count its rows.

    Raises ``StepwellError`` for what the warehouse says, and for what is more than ``bounds``.
    """
    from pyarrow.parquet import ParquetWriter

    task, rows = progress.add_task(wanted.name, total=None, rows=0), 0
    try:
        with (
            wanted.house.read(wanted.sql, bounds.limit_s, BATCH_ROWS) as found,
            ParquetWriter(path, found.schema, compression="zstd") as writer,
        ):
            for batch in found.batches:
                writer.write_batch(batch)
                rows += batch.num_rows
                progress.update(task, rows=rows)
                _require_within(rows, path, bounds)
        _require_within(rows, path, bounds)
    except OSError as error:
        raise StepwellError(f"the disk cannot take it: {error.strerror or error}") from error
    finally:
        progress.remove_task(task)
    return rows


def _require_within(rows: int, path: Path, bounds: ImportBounds) -> None:
    if rows > bounds.rows:
        raise BadInput(
            f"it has more than {bounds.rows:,} rows: take a part with --query, or raise --max-rows"
        )
    if path.stat().st_size > bounds.size_bytes:
        raise BadInput(
            f"larger than {format_size(bounds.size_bytes)}: take a part with --query, or raise --max-bytes"
        )


def _progress() -> Progress:
    console = Console(stderr=True)
    done = TextColumn("{task.description} {task.fields[rows]:,} rows")
    columns = (SpinnerColumn(), done, TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
