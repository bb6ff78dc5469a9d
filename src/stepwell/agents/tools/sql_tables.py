"""The person's data files as tables: what a question can name and where it lies.

Runs in the child (``sql_child``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.sql_files import load_csv, plain_copy
from stepwell.agents.tools.sql_names import identifier, name, quoted
from stepwell.errors import BadInput

if TYPE_CHECKING:
    import duckdb

TABLES = (".csv", ".tsv")
PARQUET = ".parquet"
DATABASES = (".duckdb", ".db")
PROGRESS = "reading"
"""In the folder: the number of the file that is being read, for the process that finds the reader dead."""
OPTIONS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Else a table that is not there is looked for among the variables of this program.
    "python_enable_replacements": "false",
}


@dataclass(frozen=True, slots=True)
class TableView:
    """A table that a question can name."""

    name: str
    source: str
    """What to select from, as SQL."""
    file: str
    """The file's name, where the table's does not say it."""


@dataclass(slots=True)
class FileTables:
    """What came of reading the files."""

    views: list[TableView] = field(default_factory=list)
    attached: dict[str, str] = field(default_factory=dict)
    """DuckDB files by the names that they are attached as."""
    readable: list[str] = field(default_factory=list)
    """Files that a question may read."""
    notes: list[str] = field(default_factory=list)
    """What must be known about how a file was read, each in a sentence."""
    problems: list[str] = field(default_factory=list)
    """Files that could not be read, each in a sentence; the others can be asked."""

    def written(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> FileTables:
        """From ``written``."""
        return cls(**{**written, "views": [TableView(**one) for one in written["views"]]})


def limit(connection: duckdb.DuckDBPyConnection, memory_bytes: int, spill: str = "") -> None:
    """What DuckDB itself counts and holds to."""
    memory_mib = max(64, memory_bytes >> 20)
    connection.execute(
        f"SET memory_limit = '{memory_mib}MiB'; SET threads = 2; SET temp_directory = {quoted(spill)}"
    )


class FilesReader:
    """Reads the files into a folder, once."""

    def __init__(self, files: Sequence[Path], databases: Sequence[Path], folder: Path) -> None:
        """``databases``: DuckDB files whatever they are called."""
        self._files, self._databases, self._folder = files, databases, folder
        self._tables = FileTables()

    def read(self, memory_bytes: int, without: Mapping[int, str]) -> FileTables:
        """All of them but those ``without``, by number from 1 and with the reason."""
        import duckdb

        store = self._folder / "tables.duckdb"
        for old in self._folder.glob("tables.duckdb*"):
            old.unlink()  # of a reader that has ended
        with duckdb.connect(str(store), config=OPTIONS) as connection:
            limit(connection, memory_bytes, str(self._folder / "spill"))
            for number, path in enumerate(self._files, 1):
                (self._folder / PROGRESS).write_text(str(number))
                try:
                    if number in without:
                        raise BadInput(without[number])
                    self._add(connection, path, number)
                except (duckdb.Error, OSError, UnicodeError, BadInput) as error:
                    self._tables.problems.append(f"{path.name} cannot be read: {self._sentence(error, path)}")
        self._tables.attached["files"] = str(store)
        return self._tables

    def _add(self, connection: duckdb.DuckDBPyConnection, path: Path, number: int) -> None:
        if path.stat().st_size == 0:
            raise OSError("it is empty")
        kind = "" if path in self._databases else path.suffix.lower()
        if kind in TABLES:
            plain, separator, note = plain_copy(path, self._folder, number)
            notes = [note, load_csv(connection, f"t{number}", plain, separator)]
            self._name(connection, path.stem, f"files.main.t{number}", path)
            if said := "; ".join(one for one in notes if one):
                self._tables.notes.append(f"{path.name}: {said}")
        elif kind == PARQUET:
            plain = self._folder / f"{number}{PARQUET}"
            plain.unlink(missing_ok=True)
            plain.symlink_to(path.resolve())
            source = f"read_parquet({quoted(str(plain))})"
            connection.execute(f"DESCRIBE SELECT * FROM {source}")
            self._tables.readable.append(str(plain))
            self._name(connection, path.stem, source, path)
        else:
            self._add_database(connection, path, f"file_{identifier(path.stem)}")

    def _add_database(self, connection: duckdb.DuckDBPyConnection, path: Path, wanted: str) -> None:
        alias, number = name(wanted), 2
        while alias in self._tables.attached or alias == "files":
            alias, number = name(f"{wanted}_{number}"), number + 1
        connection.execute(f"ATTACH {quoted(str(path))} AS {alias} (READ_ONLY)")
        inside = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() "
            "WHERE database_name = $alias AND NOT internal "
            "UNION ALL SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = $alias "
            "AND NOT internal ORDER BY ALL",
            {"alias": alias.strip('"')},
        ).fetchall()
        connection.execute(f"DETACH {alias}")
        self._tables.attached[alias] = str(path)
        for schema, table in inside:
            self._name(connection, table, f"{alias}.{name(schema)}.{name(table)}", path)

    def _name(self, connection: duckdb.DuckDBPyConnection, wanted: str, source: str, path: Path) -> None:
        """Makes a view, whose name says where it is from unless the table's own does."""
        taken = {view.name.lower() for view in self._tables.views}
        taken |= {stem for stem, keeper in _kept_names(self._files).items() if keeper != path}
        given = _free(connection, taken, identifier(wanted))
        self._tables.views.append(TableView(given, source, "" if given == wanted else path.name))

    def _sentence(self, error: BaseException, path: Path) -> str:
        text = sentence(error)
        for number in range(1, len(self._files) + 1):
            for suffix in (*TABLES, PARQUET):
                text = text.replace(str(self._folder / f"{number}{suffix}"), path.name)
        return text.replace(str(path), path.name)


def sentence(error: BaseException) -> str:
    """DuckDB's complaint without the drawing of where in the statement."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\nLINE ")[0]
    return " ".join(text.split())[:600] or type(error).__name__


def _kept_names(files: Sequence[Path]) -> dict[str, Path]:
    """A file whose name is a table's as it stands keeps it, whatever the files before it would be called."""
    kept: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in (*TABLES, PARQUET) and identifier(path.stem) == path.stem:
            kept.setdefault(path.stem.lower(), path)
    return kept


def _free(connection: duckdb.DuckDBPyConnection, taken: set[str], wanted: str) -> str:
    """The name itself, changed when it is one of SQL's own words, or with a number when it is taken."""
    reserved = connection.execute(
        "SELECT 1 FROM duckdb_keywords() WHERE keyword_name = $name AND keyword_category = 'reserved'",
        {"name": wanted.lower()},
    ).fetchone()
    free, number = f"{wanted}_" if reserved else wanted, 2
    while free.lower() in taken:
        free, number = f"{wanted}_{number}", number + 1
    return free
