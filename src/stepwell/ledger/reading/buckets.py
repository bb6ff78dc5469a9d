"""Usage and charges in buckets of time: what the organization routes answer.

Only rows of the spend log are read, so a request counts in the bucket it ended in, and a correction in the
one it was made in. Buckets lie on the grid of their width since 1970 (UTC), or begin with the days and hours
of the reader's time zone, where a day may have 23 or 25 hours. The first and the last are cut to what was
asked for, so that the sum over all buckets is the sum of exactly that time.

A page is bounded twice: by buckets, and by results. Where one bucket holds more groups than fit (a day of a
fleet by agent), the page ends inside it and the next one goes on with the same bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from itertools import pairwise
from typing import Any, NamedTuple

from stepwell.ledger.base import Store
from stepwell.ledger.reading.calendar import day_after_s, hour_after_s
from stepwell.ledger.reading.queries import COUNTED, Counts, counts_of, one_of

US_PER_S = 1_000_000
WIDTHS_S: Mapping[str, int] = {"1m": 60, "1h": 3_600, "1d": 86_400}
MAX_RESULTS = 2_000
"""Most results on a page, over all its buckets."""

LINE_ITEM = "u.model || ', ' || a.service_tier"
"""What is known about a charge is for which model and service tier it was; a request's charge is one sum."""

COLUMNS: Mapping[str, str] = {
    "project_id": "a.tenant",
    "api_key_id": "a.key",
    "model": "u.model",
    "service_tier": "a.service_tier",
    "session_id": "a.session",
    "agent_id": "a.agent",
    "parent_agent_id": "a.parent_agent",
    "role": "a.role",
    "line_item": LINE_ITEM,
}
"""What can be grouped and filtered by, and the SQL for it: names of ours, never a client's text."""


class PageCursor(NamedTuple):
    """Where the next page begins: a bucket, and how many of its results are on earlier pages."""

    start_s: int
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. Times are Unix seconds; ``end_s`` is exclusive."""

    start_s: int
    end_s: int
    width: str = "1d"
    """A key of ``WIDTHS_S``."""
    limit: int = 7
    """Most buckets on a page."""
    tenants: Sequence[str] | None = None
    """Tenants whose rows may be seen; None: those of all. Whatever is filtered for, nothing else is read."""
    group_by: Sequence[str] = ()
    """Keys of ``COLUMNS``."""
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Values of a key of ``COLUMNS``, any of which a row must have."""
    zone: tzinfo | None = None
    """Where days and hours begin; None: UTC."""


@dataclass(frozen=True, slots=True)
class BucketGroup:
    """One group of a bucket: its values in the order of ``group_by``, and its sums."""

    group: tuple[str, ...]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Bucket:
    """``end_s`` is exclusive."""

    start_s: int
    end_s: int
    results: list[BucketGroup]


@dataclass(frozen=True, slots=True)
class BucketPage:
    """Buckets in order of time, those without any usage included."""

    buckets: list[Bucket]
    next: PageCursor | None


def valid_cursor(query: Query, cursor: PageCursor) -> bool:
    """Whether a cursor can have come from an earlier page of this query."""
    at_edge = cursor.start_s == query.start_s or _end_s(query, cursor.start_s - 1) == cursor.start_s
    return at_edge and query.start_s <= cursor.start_s < query.end_s and 0 <= cursor.skip < 2**31


def usage_page(
    store: Store, query: Query, cursor: PageCursor | None = None, max_results: int = MAX_RESULTS
) -> BucketPage:
    """One page of what was used and charged. ``cursor`` is the ``next`` of the page before."""
    cursor = cursor or PageCursor(query.start_s)
    edges = _edges(query, cursor.start_s)
    rows = _rows(store, query, edges, cursor.skip, max_results + 1)
    starts, following = edges[:-1], PageCursor(edges[-1]) if edges[-1] < query.end_s else None
    if len(rows) > max_results:
        following = _inside(rows, max_results, query, cursor)
        rows, starts = rows[:max_results], [s for s in starts if s < following.start_s + bool(following.skip)]
    return BucketPage(_buckets(query, starts, rows), following)


def _edges(query: Query, start_s: int) -> list[int]:
    """Where the buckets of a page begin, and where the last one ends."""
    edges = [start_s]
    while edges[-1] < query.end_s and len(edges) <= query.limit:
        edges.append(_end_s(query, edges[-1]))
    return edges


def _end_s(query: Query, start_s: int) -> int:
    """Where the bucket ends in which ``start_s`` lies."""
    width_s = WIDTHS_S[query.width]
    if query.zone is None or width_s < WIDTHS_S["1h"]:
        return min(query.end_s, start_s - start_s % width_s + width_s)
    after_s = day_after_s if query.width == "1d" else hour_after_s
    try:
        return min(query.end_s, after_s(start_s, query.zone))
    except OverflowError:  # no day follows the last one of the year 9999
        return query.end_s


def _inside(rows: Sequence[tuple[Any, ...]], count: int, query: Query, cursor: PageCursor) -> PageCursor:
    """The page is full: the next one begins with the first row that is not on it."""
    start_s = rows[count][0]
    on_page = sum(row[0] == start_s for row in rows[:count])
    return PageCursor(start_s, on_page + (cursor.skip if start_s == cursor.start_s else 0))


def _buckets(query: Query, starts: Sequence[int], rows: Sequence[tuple[Any, ...]]) -> list[Bucket]:
    fields = len(query.group_by)
    results: dict[int, list[BucketGroup]] = {}
    for row in rows:
        group = tuple(row[1 : 1 + fields])
        results.setdefault(row[0], []).append(BucketGroup(group, counts_of(row[1 + fields :])))
    return [Bucket(s, _end_s(query, s), results.get(s, [])) for s in starts]


def _rows(store: Store, query: Query, edges: Sequence[int], skip: int, limit: int) -> list[tuple[Any, ...]]:
    groups = ", ".join([_start_of(query, edges), *(COLUMNS[name] for name in query.group_by)])
    where, values = _where(query)
    sql = f"""
        SELECT {groups}, {COUNTED}
        FROM usage u JOIN accounts a ON a.id = u.account
        WHERE u.at_us >= ? AND u.at_us < ?{where}
        GROUP BY {groups} ORDER BY {groups} LIMIT {limit} OFFSET {skip}
    """
    return store.rows(sql, [edges[0] * US_PER_S, edges[-1] * US_PER_S, *values])


def _start_of(query: Query, edges: Sequence[int]) -> str:
    """SQL for the start of the bucket that a row lies in: one comparison a bucket where days have unequal
    lengths, else by division, which is quicker."""
    if query.zone is not None and WIDTHS_S[query.width] >= WIDTHS_S["1h"]:  # no zone moves minutes
        ends = " ".join(f"WHEN u.at_us < {end * US_PER_S} THEN {start}" for start, end in pairwise(edges))
        return f"CASE {ends} END"
    width_s = WIDTHS_S[query.width]
    start = f"u.at_us / {width_s * US_PER_S} * {width_s}"
    return f"CASE WHEN {start} < {edges[0]} THEN {edges[0]} ELSE {start} END"


def _where(query: Query) -> tuple[str, list[str]]:
    wanted = [("a.tenant", query.tenants)] if query.tenants is not None else []
    wanted += [(COLUMNS[name], values) for name, values in query.filters.items()]
    terms = [f" AND {column} {one_of(len(values or ()))}" for column, values in wanted]
    return "".join(terms), [value for _, values in wanted for value in values or ()]
