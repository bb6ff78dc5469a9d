"""Values of an answer as JSON and back, the same: decimals, dates, bytes, integers of any size, NaN.

Not by pickle: what comes from a process that a stranger's statement ran in may not run anything here.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

MOST_CHARS = 10_000
"""Of one value. A longer one comes as the beginning of its text; no more of it is ever shown."""
MOST_BYTES = 32 << 20
"""Of a whole answer."""
_MOST_DEPTH = 50
_INTEGER_BITS = 63
_PLAIN = (type(None), bool, float)
_WRITTEN: dict[type, tuple[str, Callable[[Any], Any]]] = {
    Decimal: ("decimal", str),
    bytes: ("bytes", lambda value: b64encode(value).decode()),
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    UUID: ("uuid", lambda value: value.hex),
}
_READ: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "decimal": Decimal,
    "bytes": b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
    "uuid": UUID,
    "list": lambda items: [read_value(item) for item in items],
    "tuple": lambda items: tuple(read_value(item) for item in items),
    "dict": lambda pairs: {read_value(key): read_value(value) for key, value in pairs},
}


class _TooLong(Exception):
    """A value within which more was found than is sent."""


class _Budget:
    def __init__(self) -> None:
        self.left = MOST_CHARS

    def take(self, chars: int, depth: int) -> None:
        self.left -= chars
        if self.left < 0 or depth > _MOST_DEPTH:
            raise _TooLong


def written_row(row: Sequence[Any]) -> str:
    """One row as JSON."""
    return json.dumps([_written(value) for value in row])


def read_row(row: Sequence[Any]) -> tuple[Any, ...]:
    """What ``written_row`` wrote, parsed."""
    return tuple(map(read_value, row))


def _written(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MOST_CHARS else value[:MOST_CHARS] + "..."
    if isinstance(value, bytes) and len(value) > MOST_CHARS:
        return _tagged(value[:MOST_CHARS] + b"...", _Budget(), 0)
    try:
        return _tagged(value, _Budget(), 0)
    except (_TooLong, RecursionError):
        return _beginning(value)


def _beginning(value: Any) -> str:
    try:
        return str(value)[:MOST_CHARS] + "..."
    except RecursionError:
        return "(nested too deep)"


def _tagged(value: Any, budget: _Budget, depth: int) -> Any:
    """Plain values stand for themselves; others are ``[kind, parts]``."""
    kind = type(value)
    budget.take(len(value) if kind is str else 1, depth)
    if kind is str or kind in _PLAIN:
        return value
    if kind is int:
        return value if value.bit_length() <= _INTEGER_BITS else ["int", hex(value)]
    if kind in _WRITTEN:
        name, written = _WRITTEN[kind]
        return [name, written(value)]
    if kind in (list, tuple):
        return [kind.__name__, [_tagged(item, budget, depth + 1) for item in value]]
    if kind is dict:
        pairs = value.items()
        return ["dict", [[_tagged(part, budget, depth + 1) for part in pair] for pair in pairs]]
    return str(value)


def read_value(value: Any) -> Any:
    """One value of a parsed row. ``ValueError`` and the like for what no row holds."""
    if not isinstance(value, list):
        return value
    kind, parts = value
    return _READ[kind](parts)
