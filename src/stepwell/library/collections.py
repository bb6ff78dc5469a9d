"""Documents that belong together under a name, so that one question goes over all of them.

A document may be in several collections or in none. A collection is its tenant's alone; one that is deleted
leaves its documents, and a document that is deleted or has expired is in none any more.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stepwell.errors import BadInput
from stepwell.library.errors import NoSuchFile
from stepwell.library.index import COLUMNS, FileRecord, Index

MAX_COLLECTIONS = 10_000
"""Of one tenant."""
MAX_DOCUMENTS = 10_000
"""In one collection."""
Attributes = Mapping[str, str | float | bool]


class NoSuchCollection(BadInput):
    """There is none of this id for this tenant."""

    def __init__(self, collection: str) -> None:
        super().__init__(f"there is no collection {collection[:64]!r}")


@dataclass(frozen=True, slots=True)
class Collection:
    """Times are Unix seconds. ``documents`` and ``text_bytes`` are what is in it now."""

    id: str
    tenant: str
    name: str
    metadata: Mapping[str, str]
    created_at: int
    documents: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class Member:
    """A document in a collection: since when, with what said of it, and the batch that it came with."""

    record: FileRecord
    added_at: int
    attributes: Attributes
    batch: str


class Collections:
    """``tenant`` is always the caller's own. Threads and processes may share the index."""

    def __init__(self, index: Index, now_s: Callable[[], float]) -> None:
        self._index, self._now_s = index, now_s

    def create(self, tenant: str, name: str, metadata: Mapping[str, str]) -> Collection:
        """Raises ``BadInput`` where a tenant has as many as there may be."""
        made = "vs_" + secrets.token_hex(12)
        with self._index.change() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM collections WHERE tenant = ?", (tenant,)
            ).fetchone()
            if count >= MAX_COLLECTIONS:
                raise BadInput(f"there are {count:,} collections, which is as many as there may be")
            connection.execute(
                "INSERT INTO collections (id, tenant, name, metadata, created_at) VALUES (?, ?, ?, ?, ?)",
                (made, tenant, name, json.dumps(dict(metadata)), int(self._now_s())),
            )
            return self._one(connection, tenant, made)

    def get(self, tenant: str, collection: str) -> Collection:
        """Raises ``NoSuchCollection``."""
        with self._index.read() as connection:
            return self._one(connection, tenant, collection)

    def all_of(self, tenant: str) -> list[Collection]:
        """In the order in which they were made."""
        with self._index.read() as connection:
            return self._select(connection, "tenant = ? ORDER BY seq", (tenant,))

    def change(
        self, tenant: str, collection: str, name: str | None, metadata: Mapping[str, str] | None
    ) -> Collection:
        """None: as it was. Raises ``NoSuchCollection``."""
        with self._index.change() as connection:
            found = self._one(connection, tenant, collection)
            kept = dict(found.metadata if metadata is None else metadata)
            connection.execute(
                "UPDATE collections SET name = ?, metadata = ? WHERE id = ?",
                (found.name if name is None else name, json.dumps(kept), found.id),
            )
            return self._one(connection, tenant, collection)

    def delete(self, tenant: str, collection: str) -> None:
        """Its documents stay. Raises ``NoSuchCollection``."""
        with self._index.change() as connection:
            self._one(connection, tenant, collection)
            connection.execute("DELETE FROM collected WHERE collection = ?", (collection,))
            connection.execute("DELETE FROM collections WHERE id = ?", (collection,))

    # --- what is in one -----------------------------------------------------------------------

    def add(
        self,
        tenant: str,
        collection: str,
        documents: Sequence[tuple[str, Attributes]],
        batch: str = "",
    ) -> list[Member]:
        """Files by their ids with what is said of each; one that is there already gets the new attributes.
        All of them or none. Raises ``NoSuchCollection``, ``NoSuchFile``, or ``BadInput`` for too many."""
        with self._index.change() as connection:
            self._one(connection, tenant, collection)
            for file_id, attributes in documents:
                if not self._is_there(connection, tenant, file_id):
                    raise NoSuchFile(file_id)
                connection.execute(
                    "INSERT INTO collected (collection, file, added_at, attributes, batch)"
                    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (collection, file)"
                    " DO UPDATE SET attributes = excluded.attributes, batch = excluded.batch",
                    (collection, file_id, int(self._now_s()), json.dumps(dict(attributes)), batch),
                )
            found = self._one(connection, tenant, collection)
            if found.documents > MAX_DOCUMENTS:
                raise BadInput(f"a collection has at most {MAX_DOCUMENTS:,} documents")
            new = dict.fromkeys(file_id for file_id, _ in documents)
            one_by_one = (self._member(connection, tenant, collection, file_id) for file_id in new)
            return [member for member in one_by_one if member is not None]

    def member(self, tenant: str, collection: str, file_id: str) -> Member:
        """One of them. Raises ``NoSuchCollection`` or ``NoSuchFile``."""
        with self._index.read() as connection:
            self._one(connection, tenant, collection)
            found = self._member(connection, tenant, collection, file_id)
        if found is None:
            raise NoSuchFile(file_id)
        return found

    def members(self, tenant: str, collection: str) -> list[Member]:
        """In the order in which the documents came to the library. Raises ``NoSuchCollection``."""
        with self._index.read() as connection:
            self._one(connection, tenant, collection)
            return self._members(connection, tenant, "c.collection = ?", (collection,))

    def remove(self, tenant: str, collection: str, file_id: str) -> None:
        """The document stays in the library. Raises ``NoSuchCollection`` or ``NoSuchFile``."""
        with self._index.change() as connection:
            self._one(connection, tenant, collection)
            done = connection.execute(
                "DELETE FROM collected WHERE collection = ? AND file = ?", (collection, file_id)
            )
            if not done.rowcount:
                raise NoSuchFile(file_id)

    # --- rows ---------------------------------------------------------------------------------

    def _one(self, connection: sqlite3.Connection, tenant: str, collection: str) -> Collection:
        found = self._select(connection, "tenant = ? AND id = ?", (tenant, collection))
        if not found:
            raise NoSuchCollection(collection)
        return found[0]

    def _select(
        self, connection: sqlite3.Connection, where: str, values: tuple[object, ...]
    ) -> list[Collection]:
        rows = connection.execute(
            f"""
            SELECT id, tenant, name, metadata, created_at,
                (SELECT count(*) FROM collected c JOIN files f ON f.id = c.file
                 WHERE c.collection = collections.id AND (f.expires_at IS NULL OR f.expires_at > ?)),
                (SELECT coalesce(sum(f.text_bytes), 0) FROM collected c JOIN files f ON f.id = c.file
                 WHERE c.collection = collections.id AND (f.expires_at IS NULL OR f.expires_at > ?))
            FROM collections WHERE {where}
            """,
            (self._now_s(), self._now_s(), *values),
        )
        return [Collection(r[0], r[1], r[2], json.loads(r[3]), r[4], r[5], r[6]) for r in rows]

    def _is_there(self, connection: sqlite3.Connection, tenant: str, file_id: str) -> bool:
        """Whether the tenant has the document, in a collection or in none."""
        sql = "SELECT 1 FROM files WHERE id = ? AND tenant = ? AND (expires_at IS NULL OR expires_at > ?)"
        return connection.execute(sql, (file_id, tenant, self._now_s())).fetchone() is not None

    def _member(
        self, connection: sqlite3.Connection, tenant: str, collection: str, file_id: str
    ) -> Member | None:
        where = "c.collection = ? AND f.id = ?"
        return next(iter(self._members(connection, tenant, where, (collection, file_id))), None)

    def _members(
        self, connection: sqlite3.Connection, tenant: str, where: str, values: tuple[object, ...]
    ) -> list[Member]:
        fields = ", ".join(f"f.{column}" for column in COLUMNS)
        rows = connection.execute(
            f"""
            SELECT c.added_at, c.attributes, c.batch, {fields}
            FROM files f JOIN collected c ON c.file = f.id
            WHERE f.tenant = ? AND (f.expires_at IS NULL OR f.expires_at > ?) AND {where} ORDER BY f.seq
            """,
            (tenant, self._now_s(), *values),
        )
        return [Member(FileRecord(*r[3:]), r[0], json.loads(r[1]), r[2]) for r in rows]
