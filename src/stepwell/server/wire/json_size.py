"""How many values a JSON text holds, at most, without making any of them.

Parsing holds Python's lock from beginning to end, and a list of two bytes takes sixty in memory: eight
mebibytes of ``[],`` stop every other request for two seconds and take 200 MiB. Counting what separates values
tells before.
"""

from __future__ import annotations

PER_CONTAINER = 5
"""A list or an object costs about as much as so many numbers."""
_WINDOW_BYTES = 128 * 1024
"""Looked at in one go: nothing else runs meanwhile."""


def is_larger_than(data: bytes, values: int) -> bool:
    """Whether ``data`` may hold more than so many values. Takes time linear in its size."""
    if _weight(data) < values:  # commas and brackets inside strings count too, and nearly never matter
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    seen, in_string = 0, 0
    for start in range(0, len(data), _WINDOW_BYTES):
        parts = data[start : start + _WINDOW_BYTES].split(b'"')
        seen += sum(map(_weight, parts[in_string::2]))
        in_string ^= (len(parts) - 1) & 1
        if seen >= values:
            return True
    return False


def _weight(data: bytes) -> int:
    return data.count(b",") + PER_CONTAINER * (data.count(b"[") + data.count(b"{"))
