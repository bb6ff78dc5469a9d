"""What a warehouse is: tables by name, and answers to one statement as Arrow batches, read only.

A URL may hold a password: it is shown nowhere, not in an error, not by ``repr``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from stepwell.agents.tools.workspace import WarehouseUrl
from stepwell.errors import BadInput, MissingExtra, StepwellError

if TYPE_CHECKING:
    import pyarrow

SCHEMES = ("postgresql", "postgres", "bigquery", "duckdb")
BATCH_ROWS = 10_000
MAX_TABLES = 10_000
"""Of one warehouse that are known by name."""


class WarehouseError(StepwellError):
    """A warehouse that cannot be asked, or says no: one sentence, without what is secret."""


@dataclass(frozen=True, slots=True)
class WarehouseTable:
    """A table or view that may be asked."""

    schema: str
    name: str
    columns: tuple[tuple[str, str], ...]
    """Names and types, as the warehouse calls them."""
    rows: int | None = None
    """About how many; None: not known."""
    by_name: bool = True
    """Its name alone finds it: it lies where the connection looks first."""


@dataclass(frozen=True, slots=True)
class Batches:
    """A result as it comes: the schema first, then batches of at most as many rows as were asked for."""

    schema: pyarrow.Schema
    batches: Iterator[pyarrow.RecordBatch]


class Warehouse(Protocol):
    """Safe over threads. Every method raises ``WarehouseError`` with one sentence."""

    dialect: str
    """sqlglot's name of it."""
    shown: str
    """Its address without what is secret."""

    def tables(self) -> list[WarehouseTable]:
        """What may be asked, at most ``MAX_TABLES``, by schema and name."""

    def read(self, sql: str, limit_s: float, batch_rows: int) -> AbstractContextManager[Batches]:
        """The answer to one statement in its own dialect, read only, ended after ``limit_s``."""

    def close(self) -> None:
        """Lets go of its connections."""


def parts(address: WarehouseUrl) -> SplitResult:
    """Raises ``BadInput``."""
    try:
        url = urlsplit(address.url)
        _ = url.port
    except ValueError:
        raise BadInput("the URL of a warehouse cannot be read: is its password not %-encoded?") from None
    if url.scheme not in SCHEMES:
        kind = f"{url.scheme}:// is" if url.scheme and "://" in address.url else "that is"
        raise BadInput(
            f"{kind} no warehouse: write postgresql://user@host/database, bigquery://project/dataset or "
            "duckdb:///file.duckdb"
        )
    if not url.netloc + url.path.strip("/"):
        raise BadInput(f"{url.scheme}:// names no warehouse: write it like postgresql://user@host/database")
    return url


def shown(url: SplitResult) -> str:
    """Without user, password and options."""
    host = url.hostname or ""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{host}{port}{url.path}"


def require_arrow() -> None:
    """Raises ``MissingExtra``."""
    try:
        import ibis
        import pyarrow
    except ImportError:
        raise MissingExtra("a warehouse", "warehouse") from None
    assert ibis, pyarrow


def without(secret: str | None, text: str) -> str:
    """``text`` with a password taken out, however a driver came to say it."""
    for form in {secret, unquote(secret)} if secret else ():
        if len(form) > 2:
            text = text.replace(form, "***")
    return text


def distinct(names: Sequence[str]) -> list[str]:
    """Columns of a result may share a name; those of a table may not."""
    given: list[str] = []
    taken: set[str] = set()
    for name in names:
        number, free = 2, name
        while free.lower() in taken:
            number, free = number + 1, f"{name}_{number}"
        taken.add(free.lower())
        given.append(free)
    return given


def values(batch: Any) -> list[tuple[Any, ...]]:
    """The rows of an Arrow batch as Python's own values."""
    columns = [column.to_pylist() for column in batch.columns]
    return list(zip(*columns, strict=True)) if columns else []
