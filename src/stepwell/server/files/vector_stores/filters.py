"""Filters over what is said of documents, as vector stores have them: comparisons, joined by and and or."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stepwell.server.errors import ApiError, bad_request

MAX_DEPTH = 8
_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": lambda own, value: own > value,
    "gte": lambda own, value: own >= value,
    "lt": lambda own, value: own < value,
    "lte": lambda own, value: own <= value,
}
COMPARISONS = ("eq", "ne", *_ORDERED, "in", "nin")
Filter = Callable[[Mapping[str, Any]], bool]


def filter_of(asked: Any, param: str, depth: int = 0) -> Filter:
    """What a document's attributes must be like. None: anything. Raises a 400 ``ApiError``."""
    if asked is None:
        return lambda attributes: True
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind in ("and", "or"):
        inner = asked.get("filters")
        if not isinstance(inner, list) or not inner or len(inner) > 64 or depth == MAX_DEPTH:
            raise _wrong(param)
        parts = [filter_of(one, f"{param}.filters[{n}]", depth + 1) for n, one in enumerate(inner)]
        join = all if kind == "and" else any
        return lambda attributes: join(part(attributes) for part in parts)
    key, value = (asked.get("key"), asked.get("value")) if isinstance(asked, Mapping) else (None, None)
    listed = kind in ("in", "nin")
    if kind not in COMPARISONS or not isinstance(key, str) or isinstance(value, list) is not listed:
        raise _wrong(param)
    values: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) for one in values):
        raise _wrong(param)
    return lambda attributes: _holds(str(kind), attributes.get(key), value)


def _holds(kind: str, own: Any, value: Any) -> bool:
    """What is not said of a document equals nothing and is in no order."""
    if kind in ("in", "nin"):
        return (own in value) is (kind == "in")
    if kind in ("eq", "ne"):
        return bool(own == value) is (kind == "eq")
    alike = isinstance(own, str) is isinstance(value, str) and own is not None
    return alike and _ORDERED[kind](own, value)


def _wrong(param: str) -> ApiError:
    return bad_request(
        f"A filter compares ({', '.join(COMPARISONS)}: 'key' and 'value') or joins others "
        "(and, or: 'filters').",
        param=param,
    )
