"""One answer from the answers of several nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def is_page(said: Any) -> bool:
    """Whether it is a list as a node gives it: what answers at a node's address may be something else."""
    rows = said.get("data") if isinstance(said, dict) else None
    return isinstance(rows, list) and all(isinstance(row, dict) and _is_row(row) for row in rows)


def _is_row(row: Row) -> bool:
    texts, tokens = (row.get("id"), row.get("tenant", "")), row.get("context_tokens")
    return all(isinstance(text, str) for text in texts) and (tokens is None or isinstance(tokens, int))


def merged_page(pages: Mapping[str, Any], limit: int, *, operator: bool) -> dict[str, Any]:
    """A page of ``/v1/agents`` or ``/v1/sessions`` from the same page of every node.

    Each node's page is full or its last, so the first ``limit`` rows of all are the page of all. Operators
    see which node a row is of."""
    best: dict[tuple[str, str], Row] = {}
    for node, page in pages.items():
        for row in page["data"]:
            name = (row["id"], row.get("tenant", ""))
            if name not in best or _newer(row, best[name]):
                best[name] = {**row, "node": node} if operator else row
    rows = [best[name] for name in sorted(best)]
    end = min(limit, len(rows))
    while 0 < end < len(rows) and rows[end]["id"] == rows[end - 1]["id"]:
        end += 1
    more = end < len(rows) or any(page.get("has_more") for page in pages.values())
    data = rows[:end]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def _newer(row: Row, other: Row) -> bool:
    """Of an agent that has moved, the node where it is at work, else that which knows most of its context."""
    return _rank(row) > _rank(other)


def _rank(row: Row) -> tuple[bool, int]:
    return row.get("status") not in (None, "idle"), row.get("context_tokens") or 0


def merged_models(pages: Sequence[Any]) -> dict[str, Any]:
    """Every model once, in the order in which nodes name them."""
    found: dict[str, Row] = {}
    for page in pages:
        for row in page["data"]:
            found.setdefault(row["id"], row)
    return {"object": "list", "data": list(found.values())}
