"""What can go wrong with documents that are kept, by names that a server can tell apart."""

from __future__ import annotations

from stepwell.errors import BadInput, StepwellError


class NoSuchFile(BadInput):
    """Never there, removed, expired, or another tenant's: it is not said which."""

    def __init__(self, file_id: str) -> None:
        shown = "".join(c if c.isprintable() else "?" for c in file_id[:64])
        super().__init__(f"there is no file {shown!r} here")


class QuotaFull(BadInput):
    """The tenant has no room left for this."""


class StorageFull(StepwellError):
    """The disk has no room, or cannot be written."""


class DamagedFile(StepwellError):
    """What lies on disk is not what was put there."""
