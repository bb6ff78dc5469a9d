"""What an object is called. Names sort by the time of writing, so that a listing from one name on has all
that came later, and say enough to keep every bound without a look into an object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

FOLDER = "kv1"
_NAME = re.compile(rf"{FOLDER}/([0-9a-f]{{14}})-([0-9a-f]{{16}})-([0-9a-f]{{2,256}})-([0-9a-f]{{16}})\.kv")


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of the store. ``model`` and ``tenant`` are digests: no customer's name is in there."""

    written_us: int
    model: str
    key: bytes
    tenant: str
    size_bytes: int

    @property
    def name(self) -> str:
        return f"{FOLDER}/{self.written_us:014x}-{self.model}-{self.key.hex()}-{self.tenant}.kv"


def parse_object_name(name: str, size_bytes: int) -> ObjectEntry | None:
    """None: it is not one of ours."""
    match = _NAME.fullmatch(name)
    if match is None or len(match[3]) % 2:
        return None
    return ObjectEntry(int(match[1], 16), match[2], bytes.fromhex(match[3]), match[4], size_bytes)


def first_name_of(written_us: int) -> str:
    """No object that was written at this time or later has a smaller name."""
    return f"{FOLDER}/{max(0, written_us):014x}"


def short_digest(text: str) -> str:
    """A model's fingerprint, or a tenant's name, in 16 digits."""
    return blake2b(text.encode(), digest_size=8).hexdigest()
