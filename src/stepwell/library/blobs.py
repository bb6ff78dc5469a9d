"""Contents on disk. A place is used once and never again, so that removing one cannot hit another.

A content is written beside its place, forced to disk and renamed: under a place there is either all of it
or nothing, whenever the process dies. What a dead process left half written is known by its lock, which
died with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepwell.basics.private import private_file, private_folder
from stepwell.library.errors import DamagedFile, StorageFull


@dataclass(frozen=True, slots=True)
class UnplacedBlob:
    """A content on disk that has no place yet."""

    path: Path
    sha256: str
    bytes: int


class Blobs:
    """``root/contents/<tenant digest>/<place>``; uploads in ``root/incoming``."""

    def __init__(self, root: Path) -> None:
        self._contents = root / "contents"
        self._incoming = root / "incoming"
        with _told():
            for folder in (root, self._contents, self._incoming):
                private_folder(folder)

    @contextmanager
    def written(self, data: bytes) -> Iterator[UnplacedBlob]:
        """``data`` on disk, to be ``put`` within the block; removed at its end if it was not."""
        path = self._incoming / secrets.token_hex(16)
        with _told():
            file = private_file(path, new=True)
        try:
            with _told(), file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                yield UnplacedBlob(path, hashlib.sha256(data).hexdigest(), len(data))
        finally:
            path.unlink(missing_ok=True)

    def put(self, written: UnplacedBlob, tenant: str) -> str:
        """Give it a place, and say which."""
        place = f"{tenant_folder(tenant)}/{written.sha256[:16]}-{secrets.token_hex(8)}"
        target = self._contents / place
        try:
            with _told():
                if not target.parent.is_dir():
                    private_folder(target.parent)
                    _sync_folder(self._contents)
                written.path.rename(target)
                _sync_folder(target.parent)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return place

    def is_whole(self, place: str, sha256: str) -> bool:
        try:
            self.read(place, sha256)
        except DamagedFile:
            return False
        return True

    def read(self, place: str, sha256: str) -> bytes:
        """Raises ``DamagedFile`` for anything but what was put there."""
        try:
            data = (self._contents / place).read_bytes()
        except OSError as error:
            raise DamagedFile(f"its content cannot be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedFile("its content is damaged on disk")
        return data

    def remove(self, place: str) -> None:
        (self._contents / place).unlink(missing_ok=True)

    def places(self) -> Iterator[str]:
        """Everything that lies here."""
        for path in self._contents.glob("*/*"):
            yield path.relative_to(self._contents).as_posix()

    def sweep_incoming(self) -> None:
        """Remove what dead processes were writing."""
        for path in self._incoming.iterdir():
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
            except (BlockingIOError, FileNotFoundError):
                continue  # another process is writing it, or has just ended


def tenant_folder(tenant: str) -> str:
    """Tenants are named by their operators; a digest is a safe name for a folder."""
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told() -> Iterator[None]:
    """What the operating system refuses, as one sentence without a path in it."""
    try:
        yield
    except OSError as error:
        raise StorageFull(f"the library cannot be written ({error.strerror or error})") from error
