"""The decision log: a running hash over every plan, the same on every machine and Python.

Two runs decided alike if and only if their hashes agree, so a replay can prove itself with 64 digits.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from enum import Enum

from stepwell.policy.types import Plan


def canonical(value: object) -> str:
    """A plan value as text: types by name, fields in order, bytes in hex; no dict, no set, no float."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return "(" + ",".join(map(canonical, value)) + ")"
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    decided = (field for field in fields(value) if field.compare)  # type: ignore[arg-type]
    inside = ",".join(canonical(getattr(value, field.name)) for field in decided)
    return f"{type(value).__name__}({inside})"


class DecisionLog:
    """SHA-256 over all plans so far, and how many there were."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.plans = 0

    def add(self, now_us: int, plan: Plan) -> None:
        self._hash.update(f"{now_us}:{canonical(plan)}\n".encode())
        self.plans += 1

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
