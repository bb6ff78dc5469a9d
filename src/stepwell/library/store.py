"""The documents of every tenant under one directory: an index, contents by digest, a quota for each tenant.

Equal contents of one tenant lie there once; contents of two tenants never meet, not even equal ones, because
the time an upload takes would tell what others have. Threads and processes may share a directory.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepwell.library.blobs import Blobs, UnplacedBlob
from stepwell.library.collections import Collections
from stepwell.library.confined import extract_confined
from stepwell.library.documents import DEFAULT_LIMITS, Document, Limits, clean_name
from stepwell.library.errors import DamagedFile, NoSuchFile, QuotaFull
from stepwell.library.index import FileRecord, Index, insert, select
from stepwell.library.quota import require_room, used_bytes
from stepwell.library.vectors import KeptVectors, forget_vectors, free_blob

CountTokens = Callable[[Document], int]
MAX_FILES = 100_000
"""Of one tenant: an empty-handed flood of tiny files must end too."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """Part of a list, and whether there is more."""

    files: list[FileRecord]
    has_more: bool


class Library:
    """See the module. ``tenant`` is always the caller's own; nothing here finds another's files."""

    def __init__(
        self, root: Path, limits: Limits = DEFAULT_LIMITS, now_s: Callable[[], float] = time.time
    ) -> None:
        """Open or make it, and remove what a killed process left behind. Raises ``StepwellError``."""
        self.limits = limits
        self._now_s = now_s
        self._blobs = Blobs(root)
        self._index = Index(root / "index.db")
        self.vectors = KeptVectors(self._index, self._blobs)
        self.collections = Collections(self._index, now_s)
        self._sweep()

    # --- in ---------------------------------------------------------------------------------------

    def add(
        self,
        tenant: str,
        name: str,
        data: bytes,
        *,
        quota_bytes: int,
        purpose: str = "user_data",
        expires_s: int | None = None,
        count_tokens: CountTokens | None = None,
    ) -> FileRecord:
        """Read a document, keep it and its text, and say what it is called here. All of it or nothing.

        Raises ``BadInput`` (unreadable, ``QuotaFull``), ``MissingExtra`` or ``StorageFull``.
        """
        name = clean_name(name)
        document = extract_confined(data, name, self.limits)
        text = document.text.encode("utf-8", "replace")
        now = int(self._now_s())
        with self._blobs.written(data) as content, self._blobs.written(text) as words:
            record = FileRecord(
                id="file-" + secrets.token_hex(12),
                tenant=tenant,
                filename=name,
                kind=document.kind,
                note=document.note,
                bytes=content.bytes,
                sha256=content.sha256,
                text_bytes=words.bytes,
                text_sha256=words.sha256,
                purpose=purpose,
                created_at=now,
                expires_at=None if expires_s is None else now + expires_s,
                tokens=None if count_tokens is None else count_tokens(document),
            )
            self._enter(record, (content, words), quota_bytes)
        return record

    def _enter(self, record: FileRecord, contents: Sequence[UnplacedBlob], quota_bytes: int) -> None:
        """Contents first: a row never names what is not there."""
        put: list[str] = []
        try:
            with self._index.change() as connection:
                free = self._expire(connection)
                self._place(connection, record, contents, quota_bytes, put)
                insert(connection, record)
        except BaseException:
            for place in put:
                self._blobs.remove(place)
            raise
        for place in free:
            self._blobs.remove(place)

    def _place(
        self,
        connection: sqlite3.Connection,
        record: FileRecord,
        contents: Sequence[UnplacedBlob],
        quota_bytes: int,
        put: list[str],
    ) -> None:
        """Contents that are not there yet, or no longer whole, get a place; ``put`` hears of each."""
        by_digest = {content.sha256: content for content in contents}
        known = _blobs_of(connection, record.tenant, by_digest)
        more = sum(content.bytes for digest, content in by_digest.items() if digest not in known)
        _require_room(connection, record, more, quota_bytes)
        for digest, content in by_digest.items():
            if digest in known and self._blobs.is_whole(known[digest], digest):
                continue
            put.append(self._blobs.put(content, record.tenant))
            connection.execute(
                "INSERT OR REPLACE INTO blobs (place, tenant, sha256, bytes) VALUES (?, ?, ?, ?)",
                (put[-1], record.tenant, digest, content.bytes),
            )

    # --- out --------------------------------------------------------------------------------------

    def get(self, tenant: str, file_id: str) -> FileRecord:
        """Raises ``NoSuchFile``."""
        with self._index.read() as connection:
            return self._one(connection, tenant, file_id)

    def files(
        self,
        tenant: str,
        *,
        limit: int,
        after: str | None = None,
        newest_first: bool = True,
        purpose: str = "",
    ) -> ListPage:
        """A page in order of arrival. Raises ``NoSuchFile`` when ``after`` names none."""
        with self._index.read() as connection:
            where, values = "tenant = ? AND (expires_at IS NULL OR expires_at > ?)", [tenant, self._now_s()]
            if purpose:
                where, values = where + " AND purpose = ?", [*values, purpose]
            if after is not None:
                self._one(connection, tenant, after)
                sign = "<" if newest_first else ">"
                where, values = (
                    where + f" AND seq {sign} (SELECT seq FROM files WHERE id = ?)",
                    [*values, after],
                )
            order = f"{where} ORDER BY seq {'DESC' if newest_first else 'ASC'} LIMIT ?"
            found = select(connection, order, (*values, limit + 1))
        return ListPage(found[:limit], len(found) > limit)

    def text(self, record: FileRecord) -> str:
        """Raises ``DamagedFile``, ``NoSuchFile`` when it was removed meanwhile."""
        return self._content(record, record.text_sha256).decode()

    def content(self, record: FileRecord) -> bytes:
        """The file as it came. Raises like ``text``."""
        return self._content(record, record.sha256)

    def used_bytes(self, tenant: str) -> int:
        """What counts against the quota: contents, texts and vectors, equal ones once."""
        with self._index.read() as connection:
            return used_bytes(connection, tenant)

    def _content(self, record: FileRecord, sha256: str) -> bytes:
        with self._index.read() as connection:
            self._one(connection, record.tenant, record.id)
            place = _blobs_of(connection, record.tenant, (sha256,)).get(sha256)
        if place is None:
            raise DamagedFile(f"file {record.id} ({record.filename}): its content is missing: add it again")
        try:
            return self._blobs.read(place, sha256)
        except DamagedFile as error:
            self.get(record.tenant, record.id)  # removed while we read: then it is simply not there
            raise DamagedFile(f"file {record.id} ({record.filename}): {error}: add it again") from error

    def _one(self, connection: sqlite3.Connection, tenant: str, file_id: str) -> FileRecord:
        found = select(connection, "tenant = ? AND id = ?", (tenant, file_id)) if _is_id(file_id) else []
        if not found or (found[0].expires_at or self._now_s() + 1) <= self._now_s():
            raise NoSuchFile(file_id)
        return found[0]

    # --- away -------------------------------------------------------------------------------------

    def delete(self, tenant: str, file_id: str) -> FileRecord:
        """Raises ``NoSuchFile``. What no other file of the tenant holds goes from the disk."""
        with self._index.change() as connection:
            record = self._one(connection, tenant, file_id)
            places = self._forget(connection, [record])
        for place in places:
            self._blobs.remove(place)
        return record

    def _forget(self, connection: sqlite3.Connection, records: Sequence[FileRecord]) -> list[str]:
        """Take out rows; the places that are not needed any more."""
        free: list[str] = []
        for record in records:
            connection.execute("DELETE FROM files WHERE id = ?", (record.id,))
            connection.execute("DELETE FROM collected WHERE file = ?", (record.id,))
            for digest in {record.sha256, record.text_sha256}:
                free += free_blob(connection, record.tenant, digest)
            same = "tenant = ? AND text_sha256 = ?"
            if not select(connection, same, (record.tenant, record.text_sha256)):
                free += forget_vectors(connection, record.tenant, record.text_sha256)
        return free

    def _expire(self, connection: sqlite3.Connection) -> list[str]:
        """Take out what has expired; the places that are not needed any more."""
        return self._forget(connection, select(connection, "expires_at <= ?", (self._now_s(),)))

    def _sweep(self) -> None:
        """After a crash contents may lie here that no row names. Rows come under the same lock."""
        with self._index.change() as connection:
            self._expire(connection)
            named = {place for (place,) in connection.execute("SELECT place FROM blobs")}
            for place in self._blobs.places():
                if place not in named:
                    self._blobs.remove(place)
        self._blobs.sweep_incoming()


def _is_id(text: str) -> bool:
    return text.startswith("file-") and len(text) == 29 and text.isascii()


def _require_room(connection: sqlite3.Connection, record: FileRecord, more: int, quota_bytes: int) -> None:
    require_room(connection, record, more, quota_bytes)
    (count,) = connection.execute("SELECT count(*) FROM files WHERE tenant = ?", (record.tenant,)).fetchone()
    if count >= MAX_FILES:
        raise QuotaFull(f"there are {count:,} files, which is as many as there may be: remove some first")


def _blobs_of(connection: sqlite3.Connection, tenant: str, digests: Iterable[str]) -> dict[str, str]:
    """Digest -> place, for those that are there."""
    rows = (
        (
            d,
            connection.execute(
                "SELECT place FROM blobs WHERE tenant = ? AND sha256 = ?", (tenant, d)
            ).fetchone(),
        )
        for d in digests
    )
    return {digest: row[0] for digest, row in rows if row is not None}
