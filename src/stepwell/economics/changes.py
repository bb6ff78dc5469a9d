"""Figures of the catalogues set by hand, as ``KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def decimals(texts: list[str], known: Iterable[str]) -> dict[str, Decimal]:
    """``KEY=VALUE`` where every value is a number at or above zero."""
    allowed = sorted(known)
    changes = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in allowed:
            raise BadInput(f"--what-if {text}: there is no such input; there is {', '.join(allowed)}")
        try:
            number = Decimal(value)
        except ArithmeticError as error:
            raise BadInput(f"--what-if {text}: {value!r} is not a number") from error
        if not number.is_finite() or number < 0:
            raise BadInput(f"--what-if {text}: the value must be a number at or above zero")
        changes[key] = number
    return changes


def with_changes(found: Mapping[str, Entry], texts: list[str]) -> dict[str, Entry]:
    """Entries with figures set by hand; those of ``dram`` and ``ssd`` are named after them."""
    known = {
        (f"{room}.{name}" if room in ("dram", "ssd") else name): (room, name)
        for room, item in found.items()
        for name in [*item.figures, *(("usd_hour_rent",) if room == "part" else ())]
    }
    changes: dict[str, dict[str, Decimal]] = {room: {} for room in found}
    for key, number in decimals(texts, known).items():
        room, name = known[key]
        if not number and name.startswith(_DIVISORS):
            raise BadInput(f"--what-if {key}={number}: this figure must be above zero")
        changes[room][name] = number
    return {room: item.changed(changes[room]) for room, item in found.items()}
