"""Figures of the catalogues set by hand, as ``KEY=VALUE``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from decimal import Decimal

from stepwell.catalogue.load import Entry
from stepwell.errors import BadInput

_DIVISORS = (
    "hbm_",
    "tflops_",
    "host_link",
    "life_years",
    "dwpd",
    "drive_tb",
    "read_gb_s",
    "write_gb_s",
    "gap_s",
)


def decimals(texts: list[str], known: Mapping[str, Decimal | None]) -> dict[str, Decimal]:
    """``KEY=VALUE``, where ``x1.2`` multiplies and ``+6`` adds to what is known; at or above zero."""
    changes = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(sorted(known))}"
            raise BadInput(f"--what-if {text}: there is no such input; {hint}")
        number = _number(text, value, known[key])
        if not number.is_finite() or number < 0:
            raise BadInput(f"--what-if {text}: the value must be a number at or above zero")
        changes[key] = number
    return changes


def _number(text: str, value: str, old: Decimal | None) -> Decimal:
    sign = value[:1] if value[:1] in ("x", "+") else ""
    try:
        number = Decimal(value.removeprefix(sign))
    except ArithmeticError as error:
        raise BadInput(f"--what-if {text}: {value!r} is not a number") from error
    if sign and old is None:
        raise BadInput(f"--what-if {text}: the catalogue has no figure to change; give a value")
    if sign == "x":
        return number * (old or 0)
    return number + (old or 0) if sign == "+" else number


def with_changes(found: Mapping[str, Entry], texts: list[str]) -> dict[str, Entry]:
    """Entries with figures set by hand; those of ``dram`` and ``ssd`` are named after them."""
    known = {
        (f"{room}.{name}" if room in ("dram", "ssd") else name): (room, name)
        for room, item in found.items()
        for name in [*item.figures, *(("usd_hour_rent",) if room == "part" else ())]
    }
    now = {key: found[room].find(name) for key, (room, name) in known.items()}
    changes: dict[str, dict[str, Decimal]] = {room: {} for room in found}
    for key, number in decimals(texts, now).items():
        room, name = known[key]
        if not number and name.startswith(_DIVISORS):
            raise BadInput(f"--what-if {key}={number}: this figure must be above zero")
        changes[room][name] = number
    return {room: item.changed(changes[room]) for room, item in found.items()}
