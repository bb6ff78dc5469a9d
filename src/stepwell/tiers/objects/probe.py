"""Whether an object store can be used from here and how quick it is, for ``doctor`` and ``serve --check``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from stepwell.tiers.objects.client import ObjectClient, ObjectsAway

_FOLDER = "probe"
"""Beside the records: no node takes what lies here for one."""


@dataclass(frozen=True, slots=True)
class ObjectSpeeds:
    """One object put, got and removed."""

    size_bytes: int
    put_s: float
    get_s: float


def measure_objects(client: ObjectClient, size_bytes: int) -> ObjectSpeeds:
    """``ObjectsAway`` with what the store said, where it cannot be written to or gives other bytes back."""
    name, data = f"{_FOLDER}/{os.urandom(8).hex()}", os.urandom(size_bytes)
    started_s = time.perf_counter()
    client.put(name, [memoryview(data)])
    put_s = time.perf_counter()
    try:
        got = client.get(name, size_bytes)
        get_s = time.perf_counter()
    finally:
        client.delete([name])
    if bytes(got) != data:
        raise ObjectsAway("it gives wrong bytes", "")
    return ObjectSpeeds(size_bytes, put_s - started_s, get_s - put_s)
