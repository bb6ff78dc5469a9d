"""Where the vectors of documents lie: beside the index, one content per text, counted against the quota.

They belong to a text, so equal documents share them; they go with the last document that has it. What was
made by another model, or by another way of cutting passages, is made anew.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from stepwell.library.blobs import Blobs
from stepwell.library.embeddings import Vectors, unpacked
from stepwell.library.errors import DamagedFile, NoSuchFile
from stepwell.library.index import FileRecord, Index, select
from stepwell.library.quota import require_room


@dataclass(frozen=True, slots=True)
class KeptVectors:
    """Of all tenants of a library. ``made_by`` names the model and how passages were cut."""

    index: Index
    blobs: Blobs

    def get(self, record: FileRecord, made_by: str) -> Vectors | None:
        """None: not made yet, made otherwise, or damaged on disk; then they are to be made."""
        with self.index.read() as connection:
            row = connection.execute(
                "SELECT place, blobs.sha256 FROM vectors JOIN blobs USING (tenant, sha256) "
                "WHERE tenant = ? AND text_sha256 = ? AND made_by = ?",
                (record.tenant, record.text_sha256, made_by),
            ).fetchone()
        if row is None:
            return None
        try:
            return unpacked(self.blobs.read(*row))
        except DamagedFile:
            return None

    def put(self, record: FileRecord, made_by: str, data: bytes, quota_bytes: int) -> None:
        """Keep them; those of before go. Raises ``QuotaFull``, ``StorageFull`` or ``NoSuchFile``."""
        put: list[str] = []
        with self.blobs.written(data) as content:
            try:
                with self.index.change() as connection:
                    if not select(connection, "tenant = ? AND id = ?", (record.tenant, record.id)):
                        raise NoSuchFile(record.id)
                    free = forget_vectors(connection, record.tenant, record.text_sha256)
                    require_room(connection, record, content.bytes, quota_bytes)
                    free += (
                        connection.execute(
                            "DELETE FROM blobs WHERE tenant = ? AND sha256 = ? RETURNING place",
                            (record.tenant, content.sha256),
                        ).fetchone()
                        or ()
                    )
                    put.append(self.blobs.put(content, record.tenant))
                    connection.execute(
                        "INSERT INTO blobs (place, tenant, sha256, bytes) VALUES (?, ?, ?, ?)",
                        (put[-1], record.tenant, content.sha256, content.bytes),
                    )
                    connection.execute(
                        "INSERT INTO vectors (tenant, text_sha256, made_by, sha256) VALUES (?, ?, ?, ?)",
                        (record.tenant, record.text_sha256, made_by, content.sha256),
                    )
            except BaseException:
                for place in put:
                    self.blobs.remove(place)
                raise
        for place in free:
            self.blobs.remove(place)

    def missing(self, made_by: str, tenant: str | None = None) -> list[FileRecord]:
        """Documents without vectors by this model, oldest first; of equal texts one."""
        where = (
            "NOT EXISTS (SELECT 1 FROM vectors v WHERE v.tenant = files.tenant "
            "AND v.text_sha256 = files.text_sha256 AND v.made_by = ?1) AND (?2 IS NULL OR tenant = ?2) "
            "GROUP BY tenant, text_sha256 ORDER BY min(seq)"
        )
        with self.index.read() as connection:
            return select(connection, where, (made_by, tenant))


def forget_vectors(connection: sqlite3.Connection, tenant: str, text_sha256: str) -> list[str]:
    """Take out a text's vectors; the places that are not needed any more."""
    row = connection.execute(
        "DELETE FROM vectors WHERE tenant = ? AND text_sha256 = ? RETURNING sha256", (tenant, text_sha256)
    ).fetchone()
    return [] if row is None else free_blob(connection, tenant, row[0])


def free_blob(connection: sqlite3.Connection, tenant: str, sha256: str) -> list[str]:
    """The place of a content, when neither a file nor vectors need it any more."""
    row = connection.execute(
        "DELETE FROM blobs WHERE tenant = ?1 AND sha256 = ?2 "
        "AND NOT EXISTS (SELECT 1 FROM files WHERE tenant = ?1 AND ?2 IN (sha256, text_sha256)) "
        "AND NOT EXISTS (SELECT 1 FROM vectors WHERE tenant = ?1 AND sha256 = ?2) RETURNING place",
        (tenant, sha256),
    ).fetchone()
    return list(row or ())
