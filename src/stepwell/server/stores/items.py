"""Items of the Responses API as they are kept: what goes in and comes out, each with an id."""

from __future__ import annotations

import json
import secrets
from typing import Any

Item = dict[str, Any]


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def size_bytes(value: object) -> int:
    """What keeping this costs, roughly: its length as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode())
