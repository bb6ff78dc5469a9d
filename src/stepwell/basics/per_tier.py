"""A value for each KV tier, such as tokens or bytes, under the names of ``policy.types.KvTier``.

The policy's own events and settings keep a field for each: they are what recordings hold and decision hashes
cover. What counts up while it runs (``ledger.holdings``) keeps lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class PerTier(NamedTuple, Generic[Value]):
    """Iterates from the fastest KV tier to the slowest; ``_asdict()`` is what the wire shows."""

    device: Value
    host: Value
    disk: Value


NOTHING = PerTier(0, 0, 0)


def total_of(each: Iterable[PerTier[int]]) -> PerTier[int]:
    """The sum, KV tier by KV tier; ``NOTHING`` of none."""
    device, host, disk = map(sum, zip(NOTHING, *each, strict=True))
    return PerTier(device, host, disk)
