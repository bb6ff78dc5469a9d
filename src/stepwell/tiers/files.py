"""The few file operations a store needs, in one place where tests can make them fail.

Everything is relative to a directory's descriptor and never follows a symbolic link, so that a link
planted in the directory leads nowhere. Linux and macOS; direct I/O where the file system has it.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stepwell.tiers.record import PAGE_BYTES, padded

_O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One entry of a directory, as ``lstat`` sees it."""

    name: str
    size_bytes: int
    modified_s: float
    is_file: bool
    is_directory: bool


def aligned_buffer(size_bytes: int) -> mmap.mmap:
    """Zeroed, page-aligned memory of whole pages, private to this process."""
    return mmap.mmap(-1, padded(size_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Files:
    """The operating system's files. Errors are ``OSError``. Safe to call from any thread."""

    def __init__(self) -> None:
        self.direct = bool(_O_DIRECT)
        """Whether reads and writes bypass the page cache; ``probe`` finds out."""

    def open_directory(self, name: str, parent: int | None = None) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if parent is not None:  # the store's own directory may be a link, what is in it may not
            flags |= os.O_NOFOLLOW
        return os.open(name, flags, dir_fd=parent)

    def make_directory(self, name: str, parent: int) -> None:
        os.mkdir(name, 0o700, dir_fd=parent)

    def close(self, fd: int) -> None:
        os.close(fd)

    def list(self, directory: int) -> Iterator[FileInfo]:
        """What is in the directory now; what vanishes meanwhile is left out."""
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                mode = info.st_mode
                yield FileInfo(
                    entry.name, info.st_size, info.st_mtime, stat.S_ISREG(mode), stat.S_ISDIR(mode)
                )

    def size_of_directory(self, directory: int) -> int:
        return os.fstat(directory).st_size

    def free_bytes(self, directory: int) -> int:
        """What the file system still has for us."""
        info = os.fstatvfs(directory)
        return info.f_bavail * info.f_frsize

    def write_new(self, name: str, directory: int, buffers: Sequence[memoryview | mmap.mmap]) -> None:
        """Create ``name`` with these bytes (each buffer whole aligned pages).

        No fsync: KV can be computed again, so losing the newest records in a power cut costs time and
        nothing else, while waiting for the disk at every block would cost time every day.
        """
        self._write(name, directory, buffers, os.O_CREAT | os.O_EXCL)

    def overwrite(self, name: str, directory: int, buffers: Sequence[memoryview | mmap.mmap]) -> None:
        """Replace the bytes of ``name``, which has just this size, in the space it has."""
        self._write(name, directory, buffers, 0)

    def _write(
        self, name: str, directory: int, buffers: Sequence[memoryview | mmap.mmap], flags: int
    ) -> None:
        fd = self._open(name, os.O_WRONLY | _SAFE | flags, directory)
        try:
            wanted = sum(len(buffer) for buffer in buffers)
            if self.pwritev(fd, buffers, 0) != wanted:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        finally:
            os.close(fd)

    def read_into(
        self, name: str, directory: int, buffers: Sequence[memoryview | mmap.mmap], offset: int = 0
    ) -> int:
        """Fill the buffers (whole aligned pages) from ``offset``; returns how many bytes there were."""
        fd = self._open(name, os.O_RDONLY | _SAFE, directory)
        try:
            count = self.preadv(fd, buffers, offset)
            if not self.direct:
                _leave_page_cache(fd)
            return count
        finally:
            os.close(fd)

    def rename(self, old: str, new: str, directory: int) -> None:
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def unlink(self, name: str, directory: int) -> None:
        os.unlink(name, dir_fd=directory)

    def remove_directory(self, name: str, parent: int) -> None:
        os.rmdir(name, dir_fd=parent)

    def probe(self, directory: int) -> None:
        """Find out whether direct I/O works here; tmpfs and some network file systems refuse it."""
        if not self.direct:
            return
        name = f"probe-{os.getpid()}.tmp"
        try:
            self.write_new(name, directory, [aligned_buffer(PAGE_BYTES)])
        except OSError as error:
            if error.errno == errno.EINVAL:
                self.direct = False
        finally:
            self._unlink_quietly(name, directory)

    def _unlink_quietly(self, name: str, directory: int) -> None:
        try:
            self.unlink(name, directory)
        except OSError:
            return  # it was never made, or the next start removes it with the other leftovers

    def _open(self, name: str, flags: int, directory: int) -> int:
        return os.open(name, flags | (_O_DIRECT if self.direct else 0), 0o600, dir_fd=directory)

    # The two calls that carry bytes; tests replace them to make a disk slow, full or broken.

    def pwritev(self, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def preadv(self, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        return os.preadv(fd, buffers, offset)


def _leave_page_cache(fd: int) -> None:
    """Without direct I/O, at least do not keep a second copy of our own host tier in memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
