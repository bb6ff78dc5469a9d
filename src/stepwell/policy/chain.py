"""Names for prefixes: chained hashes over token units, salted per tenant.

The hash after unit i covers every token before it, so equal hashes mean equal prefixes (up to
collisions of 128-bit BLAKE2b). The idea is vLLM's block hash chain; the finer units let a prompt
share part of a block. A salt in the root keeps tenants apart: none can find, or be billed for,
another tenant's blocks.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Final

DIGEST_BYTES: Final = 16


def root_hash(fingerprint: str, salt: str) -> bytes:
    """Where a tenant's chains begin. Another model, KV type or tenant gives another root."""
    model = hashlib.blake2b(fingerprint.encode(), digest_size=DIGEST_BYTES, person=b"stepwell-root")
    return hashlib.blake2b(model.digest() + salt.encode(), digest_size=DIGEST_BYTES).digest()


def link(previous: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of ``previous`` followed by ``tokens`` (non-negative, below 2**32)."""
    packed = struct.pack(f"<{len(tokens)}I", *tokens)
    return hashlib.blake2b(previous + packed, digest_size=DIGEST_BYTES).digest()


class TokenChain:
    """The tokens of one request and the hashes of their units, growing at the end."""

    __slots__ = ("_root", "_unit", "tokens", "units")

    def __init__(self, root: bytes, unit_tokens: int, tokens: Iterable[int] = ()) -> None:
        self._root = root
        self._unit = unit_tokens
        self.tokens: list[int] = []
        self.units: list[bytes] = []
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> tuple[bytes, ...]:
        """Append tokens; the hashes of the units that became complete."""
        self.tokens.extend(tokens)
        known = len(self.units)
        for index in range(known, len(self.tokens) // self._unit):
            start = index * self._unit
            previous = self.units[-1] if self.units else self._root
            self.units.append(link(previous, self.tokens[start : start + self._unit]))
        return tuple(self.units[known:])

    def name(self, n_tokens: int) -> bytes:
        """The hash that names exactly the first ``n_tokens`` tokens."""
        whole, rest = divmod(n_tokens, self._unit)
        previous = self.units[whole - 1] if whole else self._root
        if not rest:
            return previous
        start = whole * self._unit
        return link(previous, self.tokens[start : start + rest])
