"""Whether an object store can be used from here and how quick it is, for ``doctor`` and ``serve --check``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from stepwell.tiers.objects.client import ObjectClient, ObjectsAway
from stepwell.tiers.record import Damaged

Got = TypeVar("Got")

_FOLDER = "probe"
"""Beside the records: no node takes what lies here for one."""


@dataclass(frozen=True, slots=True)
class ObjectSpeeds:
    """One object put, got and removed."""

    size_bytes: int
    put_s: float
    get_s: float


def measure_objects(client: ObjectClient, size_bytes: int) -> ObjectSpeeds:
    """``ObjectsAway`` with what cannot be done and what the store said."""
    name, data = f"{_FOLDER}/{os.urandom(8).hex()}", os.urandom(size_bytes)
    _timed("cannot be listed", lambda: client.list(time.time_ns() // 1000))
    _, put_s = _timed("cannot be written to", lambda: client.put(name, [memoryview(data)]))
    try:
        got, get_s = _timed("does not give back what was written", lambda: client.get(name, size_bytes))
    finally:
        _timed("keeps what should be removed", lambda: client.delete([name]))
    if bytes(got) != data:
        raise ObjectsAway("the object store gives wrong bytes", "")
    return ObjectSpeeds(size_bytes, put_s, get_s)


def _timed(fails: str, act: Callable[[], Got]) -> tuple[Got, float]:
    """What it gives, and in how many seconds."""
    started_s = time.perf_counter()
    try:
        got = act()
    except (OSError, Damaged) as error:
        detail = getattr(error, "detail", "")
        raise ObjectsAway(f"the object store {fails}: {error}", detail) from error
    return got, time.perf_counter() - started_s
