"""Rendezvous hashing (Thaler and Ravishankar 1996): an order of the nodes for every name.

Several front ends come to the same order without talking to each other; a node that leaves moves only the
names that were its own, and a node that joins takes its share evenly from all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import xxhash

_ABOVE_ALL = 2.0**64


def score(name: str, node: str, weight: float = 1.0) -> float:
    """Higher is better. ``weight``: a node of twice the weight is first for twice as many names."""
    digest = xxhash.xxh3_64_intdigest(f"{name}\0{node}".encode(errors="surrogatepass"))
    return -weight / math.log((digest + 0.5) / _ABOVE_ALL)


def first(name: str, nodes: Iterable[str]) -> str | None:
    """The best node of that name among equals; None without nodes."""
    return max(sorted(nodes), key=lambda node: score(name, node), default=None)
