"""Values that many settings have: sizes in bytes, and counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from stepwell.basics.units import parse_size


def size_bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f'{value!r} is not a size: write it like "512MiB", "2GiB" or 0 for none')
    return parse_size(value)


SizeBytes = Annotated[int, BeforeValidator(size_bytes)]
"""Bytes; written as ``512MiB``, ``2GB``, ``0``."""

OptionalSizeBytes = Annotated[
    int | None, BeforeValidator(lambda value: value if value is None else size_bytes(value))
]

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
