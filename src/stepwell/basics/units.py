"""Sizes and durations as people write them: ``512MiB``, ``2GB``, ``250ms``, ``2s``."""

from __future__ import annotations

import re
from decimal import Decimal

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
_SIZES = {name.lower(): factor for name, factor in {"": 1, "B": 1, **_BINARY, **_DECIMAL}.items()}
_DURATIONS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000}

_QUANTITY = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*", re.ASCII)
_LARGEST = 2**63 - 1
"""What fits into a signed 64-bit integer: file systems, sqlite and msgpack hold no more."""


def _quantity(text: str, units: dict[str, int]) -> int | None:
    """The whole number of base units, or None when ``text`` is not a quantity in these units."""
    match = _QUANTITY.fullmatch(text)
    if match is None or (factor := units.get(match["unit"].lower())) is None:
        return None
    return int(Decimal(match["number"]) * factor)


def parse_size(text: str | int) -> int:
    """Bytes. Units read without regard to case; ``MiB`` is 2^20, ``MB`` is 10^6, none is bytes.

    ``ValueError`` with one sentence for anything else: signs, bare letters (``2G`` might mean
    either), exponents, more than 2^63 - 1 bytes.
    """
    size_bytes = text if isinstance(text, int) else _quantity(text, _SIZES)
    if size_bytes is None or isinstance(text, bool) or size_bytes < 0:
        raise ValueError(f"{text!r} is not a size: write it like 512MiB, 2GiB, 4GB, or 0 for none")
    if size_bytes > _LARGEST:
        raise ValueError(f"{text!r} is more than any machine holds: at most {_LARGEST} bytes")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Binary units, at most one decimal: ``1.5 GiB``; exact sizes stay whole: ``512 MiB``."""
    for unit, factor in reversed(_BINARY.items()):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"


def parse_duration_us(text: str) -> int:
    """Microseconds. A unit is required: us, ms, s, min, h. ``ValueError`` with one sentence otherwise."""
    duration_us = _quantity(text, _DURATIONS_US)
    if duration_us is None:
        raise ValueError(f"{text!r} is not a duration: write it like 250ms, 2s or 1.5min")
    if duration_us > _LARGEST:
        raise ValueError(f"{text!r} is longer than anything runs: at most {_LARGEST} microseconds")
    return duration_us


def format_duration(duration_us: int) -> str:
    """Three figures at most, in the unit a person would choose: ``850 us``, ``12.3 ms``, ``2.40 s``."""
    if duration_us < 1_000:
        return f"{duration_us} us"
    if duration_us < 1_000_000:
        return f"{duration_us / 1_000:.3g} ms" if duration_us < 999_500 else "1 s"
    if duration_us < 60_000_000:
        return f"{duration_us / 1_000_000:.3g} s"
    minutes, rest_us = divmod(duration_us, 60_000_000)
    return f"{minutes} min {rest_us // 1_000_000} s"


def counted(number: int, what: str) -> str:
    """``1 run``, ``2,000 runs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
