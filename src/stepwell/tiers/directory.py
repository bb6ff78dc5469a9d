"""The directory a disk store lives in: which process may use it, what in it is ours, how many bytes it holds.

    DIR/stepwell-kv.json     says that this is a store, and its last bound
    DIR/lock                 held (flock) by the process that uses it, whose pid is in it; a shared
                             store (``shared/``) is held by several, which exclude a single one
    DIR/v1-<16 hex>/         one sub-directory per model fingerprint and format version
        <id>.<sequence>.kv   one record: one KV block
        *.tmp                a record being written; left over only by a crash

The bound holds for the directory as a whole, so records of other models are room that may be taken.
Sub-directories and files are KV of customers: 0700 and 0600.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput, StepwellError
from stepwell.tiers.files import FileInfo, Files
from stepwell.tiers.record import VERSION, padded

MARKER = "stepwell-kv.json"
LOCK = "lock"
_MODEL = re.compile(r"v(\d+)-([0-9a-f]{16})")
_RECORD = re.compile(r"([0-9a-f]{2,128})\.([0-9a-f]{16})\.kv")
_HARMLESS = {LOCK, "lost+found"}
"""What a directory may hold besides models' sub-directories and still be taken for a new store."""


class DiskBusy(StepwellError):
    """Another process uses the directory."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(
            f"disk directory {path} is in use by process {holder}: stop it, or name another directory"
        )
        self.holder = holder


class NotAStore(BadInput):
    """The path cannot be, or is not, a Stepwell disk store."""


@dataclass(frozen=True, slots=True)
class RecordName:
    """What a record's file name says; the header inside must say the same."""

    id: bytes
    sequence: int

    def __str__(self) -> str:
        return f"{self.id.hex()}.{self.sequence:016x}.kv"


def parse_record_name(name: str) -> RecordName | None:
    match = _RECORD.fullmatch(name)
    if match is None or len(match[1]) % 2:
        return None
    return RecordName(bytes.fromhex(match[1]), int(match[2], 16))


def model_directory(fingerprint: str) -> str:
    """Name of the sub-directory for a model fingerprint in this format version."""
    return f"v{VERSION}-{blake2b(fingerprint.encode(), digest_size=8).hexdigest()}"


def is_current_model(name: str) -> bool:
    """Whether a model's sub-directory is in the format this version writes."""
    return is_model_directory(name) and name.startswith(f"v{VERSION}-")


def is_model_directory(name: str) -> bool:
    return _MODEL.fullmatch(name) is not None


def _is_marker(name: str) -> bool:
    """A marker that a crash left before it had its name."""
    return name.startswith(MARKER) and name.endswith(".tmp")


class StoreDirectory:
    """An open, locked store directory. ``close`` gives the lock back. Without ``lock``: only to look.
    ``shared``: others may hold it too, if they say so as well.

    ``DiskBusy`` when another process holds it; ``NotAStore`` when the path is something else, is not
    empty, or cannot be used; nothing in it is changed then.
    """

    def __init__(
        self, path: Path, files: Files, *, create: bool = True, lock: bool = True, shared: bool = False
    ) -> None:
        self.path = path
        self.files = files
        self._lock_fd: int | None = None
        if create:
            _make(path)
        try:
            self.fd = files.open_directory(str(path))
        except OSError as error:
            raise NotAStore(f"disk directory {path} cannot be opened: {error.strerror}") from error
        try:
            self._require_store(create)
            if lock:
                self._lock_fd = _take_lock(path, self.fd, shared=shared)
        except BaseException:
            files.close(self.fd)
            raise

    def _require_store(self, create: bool) -> None:
        names = {info.name for info in self.files.list(self.fd)}
        if MARKER in names:
            return
        if not create:
            raise NotAStore(f"{self.path} holds no Stepwell disk store")
        if any(not (name in _HARMLESS or _is_marker(name) or is_model_directory(name)) for name in names):
            raise NotAStore(
                f"{self.path} is not empty and holds no Stepwell disk store: "
                "name a directory that is new or empty"
            )
        with contextlib.suppress(OSError):  # another user's directory that we may use: their choice
            os.fchmod(self.fd, 0o700)

    def close(self) -> None:
        """Release lock and descriptors. The lock file stays: removing it would race with a newcomer."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
        self.files.close(self.fd)

    # --- marker -------------------------------------------------------------------------------

    def write_marker(self, limit_bytes: int) -> None:
        """Say that this is a store and how large it may become (``disk stat`` shows it)."""
        text = json.dumps({"stepwell_kv": VERSION, "limit_bytes": limit_bytes}) + "\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        temporary = f"{MARKER}.{os.urandom(6).hex()}.tmp"  # others may open the same directory at this moment
        fd = os.open(temporary, flags, 0o600, dir_fd=self.fd)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
            self.files.rename(temporary, MARKER, self.fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self.fd)
            raise

    def limit_bytes(self) -> int | None:
        """The bound the last server gave it; None when the marker does not say."""
        try:
            fd = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            with os.fdopen(fd, encoding="utf-8") as file:
                value: Any = json.load(file)["limit_bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if isinstance(value, int) else None

    def holder(self) -> str | None:
        """The process that uses the store now; None when none does. For readers that only look."""
        try:
            os.close(_take_lock(self.path, self.fd, mark=False))
        except DiskBusy as busy:
            return busy.holder
        return None

    # --- contents -----------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Sub-directories that hold records, of any model and any format version."""
        return sorted(
            i.name for i in self.files.list(self.fd) if i.is_directory and is_model_directory(i.name)
        )

    def open_model(self, name: str, *, create: bool = False) -> int:
        """Descriptor of a model's sub-directory; the caller closes it."""
        if create:
            with contextlib.suppress(FileExistsError):
                self.files.make_directory(name, self.fd)
        return self.files.open_directory(name, self.fd)

    def listing(self, model: str) -> list[FileInfo]:
        """Everything in a model's sub-directory."""
        fd = self.open_model(model)
        try:
            return list(self.files.list(fd))
        finally:
            self.files.close(fd)

    def model_bytes(self, model: str) -> int:
        """What a model's sub-directory takes; 0: there is none."""
        try:
            fd = self.open_model(model)
        except OSError:
            return 0
        try:
            return tree_bytes(self.files, fd)
        finally:
            self.files.close(fd)


def tree_bytes(files: Files, directory: int) -> int:
    """What a directory takes: its own size, and every file in it in whole pages, links not followed."""
    return files.size_of_directory(directory) + sum(
        _entry_bytes(files, directory, i) for i in files.list(directory)
    )


def _entry_bytes(files: Files, parent: int, info: FileInfo) -> int:
    if not info.is_directory:
        return padded(info.size_bytes)
    try:
        fd = files.open_directory(info.name, parent)
    except OSError:
        return 0  # not ours to look into, so not ours to count
    try:
        return tree_bytes(files, fd)
    finally:
        files.close(fd)


def records_of(listing: list[FileInfo]) -> Iterator[tuple[RecordName, FileInfo]]:
    """The files whose names are those of records, oldest sequence first."""
    named = [(parse_record_name(info.name), info) for info in listing if info.is_file]
    known = [(name, info) for name, info in named if name is not None]
    yield from sorted(known, key=lambda pair: (pair[0].sequence, pair[0].id))


def _make(path: Path) -> None:
    try:
        if not path.exists():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NotAStore(f"disk directory {path} cannot be made: {error.strerror}") from error


def _take_lock(path: Path, directory: int, *, mark: bool = True, shared: bool = False) -> int:
    """flock, because the kernel gives it back when its holder dies, however it dies.

    ``mark``: leave our pid in the file, for the sentence that the next one gets.
    """
    fd = _open_lock(path, directory)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).split(b"\n")[0].decode("ascii", "replace")
        os.close(fd)
        raise DiskBusy(path, holder or "unknown") from error
    if mark:
        with contextlib.suppress(OSError):  # read-only or full: the lock holds, the pid stays untold
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _open_lock(path: Path, directory: int) -> int:
    safe = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(LOCK, os.O_RDWR | os.O_CREAT | safe, 0o600, dir_fd=directory)
    except OSError as error:
        try:  # a read-only store can still be read
            return os.open(LOCK, os.O_RDONLY | safe, dir_fd=directory)
        except OSError:
            raise NotAStore(f"disk directory {path} cannot be used: {error.strerror}") from error
