"""How much a tenant keeps, and whether more may come."""

from __future__ import annotations

import sqlite3

from stepwell.basics.units import format_size
from stepwell.library.errors import QuotaFull
from stepwell.library.index import FileRecord


def used_bytes(connection: sqlite3.Connection, tenant: str) -> int:
    """Contents, texts and vectors, equal ones once."""
    (used,) = connection.execute(
        "SELECT coalesce(sum(bytes), 0) FROM blobs WHERE tenant = ?", (tenant,)
    ).fetchone()
    return int(used)


def require_room(connection: sqlite3.Connection, record: FileRecord, more: int, quota_bytes: int) -> None:
    """Raises ``QuotaFull``: one sentence."""
    used = used_bytes(connection, record.tenant)
    if used + more > quota_bytes:
        raise QuotaFull(
            f"document {record.filename} needs {format_size(more)}, and of {format_size(quota_bytes)} "
            f"{format_size(max(0, quota_bytes - used))} are free: remove files first"
        )
