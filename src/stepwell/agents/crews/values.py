"""Values of a crew or profile: each of the type that it has to be, or a sentence on what may stand there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from stepwell.errors import BadInput

MAX_EXPONENT = 300
"""Of a number in a file: beyond it no float holds it."""
SHOWN_CHARS = 80


def exact(text: str) -> Decimal:
    """A number with a point, as it is written: for money. Raises ``BadInput`` where it is none."""
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise BadInput(f"the number {text[:SHOWN_CHARS]} is too large or too small") from error
    if not value.is_finite() or abs(value.adjusted()) > MAX_EXPONENT:
        raise BadInput(f"the number {text[:SHOWN_CHARS]} is too large or too small, or none at all")
    return value


def names_of(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of names. Raises ``BadInput``."""
    names = typed(data, key, list, where, [])
    if not all(isinstance(one, str) for one in names):
        raise BadInput(f"{where}: {key} is a list of names")
    return tuple(names)


def number_of(data: Mapping[str, Any], key: str, where: str, *, most: float, default: float = 0.0) -> float:
    """A number from 0 to ``most``. Raises ``BadInput``."""
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not 0 <= value <= most:
        raise BadInput(f"{where}: {key} is a number from 0 to {most:g}, not {shown(value)}")
    return float(value)


def table_of(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table: Mapping[str, Any] = typed(data, key, dict, where, {})
    return table


def typed(data: Mapping[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    value = data.get(key, default)
    if not isinstance(value, kind):
        names = {str: "text", list: "a list", dict: "a table", bool: "true or false"}
        raise BadInput(f"{where}: {key} is {names[kind]}, not {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value in a sentence."""
    text = "nothing" if value is None else str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def whole_of(data: Mapping[str, Any], key: str, where: str) -> int:
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise BadInput(f"{where}: {key} is a whole number, not {shown(value)}")
    return value


def require_keys(data: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in data:
        require_known(key, known, f"{where}: key", "known")


def require_known(name: str, known: Iterable[str], where: str, what: str = "there") -> None:
    names = list(known)
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(names)}"
    raise BadInput(f"{where} {name!r} is not {what}: {hint}")
