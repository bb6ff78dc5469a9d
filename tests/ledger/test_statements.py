"""Usage in buckets, and statements: what they say is what a loop over the spend log says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.ledger.reading.buckets import WIDTHS_S, Bucket, Query, usage_page, valid_cursor
from stepwell.ledger.reading.queries import Counts
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import Usage
from tests.ledger.made_books import AGENTS, START_S, START_US, Books, Writer, made_books, used

DAY_S = 86_400


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    made = made_books(tmp_path_factory.mktemp("ledger"))
    yield made
    made.store.close()


def counts(rows: list[Usage]) -> Counts:
    return Counts(
        sum(u.requests for u in rows),
        sum(u.input_tokens for u in rows),
        sum(u.cached_tokens for u in rows),
        sum(u.visible_tokens for u in rows),
        sum(u.intermediate_tokens for u in rows),
        sum(u.recomputed_tokens for u in rows),
        sum(u.charge_microusd for u in rows),
    )


def total(buckets: list[Bucket]) -> Counts:
    found = Counts()
    for bucket in buckets:
        for result in bucket.results:
            found = found.plus(result.counts)
    return found


def all_pages(store: SqliteStore, query: Query, max_results: int = 10_000) -> list[Bucket]:
    buckets: list[Bucket] = []
    cursor = None
    for _ in range(10_000):
        page = usage_page(store, query, cursor, max_results)
        assert sum(len(bucket.results) for bucket in page.buckets) <= max_results
        assert len(page.buckets) <= query.limit
        buckets += page.buckets
        cursor = page.next
        if cursor is None:
            return buckets
        assert valid_cursor(query, cursor)
    raise AssertionError("pages without end")


def test_hours_and_days_lie_on_the_grid(books: Books) -> None:
    query = Query(START_S + 60, START_S + 3 * DAY_S, "1d", 31)
    (page,) = [usage_page(books.store, query)]
    starts = [START_S + 60, START_S + DAY_S, START_S + 2 * DAY_S]
    assert [bucket.start_s for bucket in page.buckets] == starts
    assert [bucket.end_s for bucket in page.buckets] == [*starts[1:], query.end_s]
    assert [total([bucket]).requests for bucket in page.buckets] == [2, 2, 0]
    assert page.next is None


def test_the_range_is_cut_exactly(books: Books) -> None:
    at_s = books.usage[2].at_us // 1_000_000
    for start_s, end_s, requests in ((at_s, at_s + 1, 2), (at_s + 1, at_s + 2, 0), (at_s - 1, at_s, 0)):
        assert total(all_pages(books.store, Query(start_s, end_s, "1m"))).requests == requests


@pytest.mark.parametrize("width", WIDTHS_S)
def test_groups(books: Books, width: str) -> None:
    fields = ("project_id", "service_tier", "agent_id", "parent_agent_id", "api_key_id", "role", "line_item")
    query = Query(START_S, START_S + 3 * DAY_S, width, 180, group_by=fields)
    found: dict[tuple[str, ...], Counts] = {}
    for bucket in all_pages(books.store, query):
        for result in bucket.results:
            found[result.group] = found.get(result.group, Counts()).plus(result.counts)
    expected = {
        (a.tenant, a.service_tier, a.agent, a.parent_agent, a.key, a.role, f"tiny, {a.service_tier}"): counts(
            [usage for usage in books.usage if usage.account == a]
        )
        for a in AGENTS
    }
    assert found == expected


def test_filters_and_tenants(books: Books) -> None:
    def asked(tenants: list[str] | None, **filters: list[str]) -> int:
        query = Query(START_S, START_S + 3 * DAY_S, "1d", 31, tenants=tenants, filters=filters)
        return total(all_pages(books.store, query)).requests

    assert asked(None) == 6
    assert asked(["acme"]) == 2
    assert asked(["acme", "acme/search"]) == 4
    assert asked(["acme"], project_id=["rival"]) == 0
    assert asked([]) == 0
    assert asked(None, agent_id=["s1/reader"], service_tier=["flex"]) == 1
    assert asked(None, session_id=["s1", "s2"], model=["tiny", "other"]) == 6
    assert asked(None, model=[]) == 0
    assert asked(None, agent_id=["' OR 1 = 1 --"]) == 0


def test_a_full_page_ends_inside_a_bucket(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    for n in range(10):
        account = AGENTS[0]._replace(agent=f"agent-{n}")
        writer.write(usage=[used(account, n, START_US + day * DAY_S * 10**6, n + 1) for day in (0, 2)])
    query = Query(START_S, START_S + 4 * DAY_S, "1d", 31, group_by=("agent_id",))
    page = usage_page(store, query, max_results=4)
    assert [len(bucket.results) for bucket in page.buckets] == [4]
    assert page.next == (START_S, 4)
    page = usage_page(store, query, page.next, max_results=6)
    assert [len(bucket.results) for bucket in page.buckets] == [6, 0]
    assert page.next == (START_S + 2 * DAY_S, 0)
    for max_results in (1, 3, 7, 10, 20):
        buckets = all_pages(store, query, max_results)
        assert total(buckets) == counts(writer.usage)
        groups = [(bucket.start_s, result.group) for bucket in buckets for result in bucket.results]
        assert len(set(groups)) == len(groups) == 20
    store.close()


MOMENTS = st.integers(0, 40 * DAY_S * 10**6)
ROWS = st.tuples(MOMENTS, st.sampled_from(AGENTS), st.integers(-(2**62), 2**62), st.integers(-500, 500))
FIELDS = ("project_id", "agent_id", "service_tier", "session_id", "model", "line_item")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(ROWS, max_size=25),
    window=st.tuples(st.integers(0, 41 * DAY_S), st.integers(1, 41 * DAY_S)),
    width=st.sampled_from(["1h", "1d"]),
    limit=st.integers(1, 200),
    group_by=st.lists(st.sampled_from(FIELDS), unique=True),
    max_results=st.integers(1, 30),
)
def test_buckets_sum_to_the_totals(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, object, int, int]],
    window: tuple[int, int],
    width: str,
    limit: int,
    group_by: list[str],
    max_results: int,
) -> None:
    """Whatever is asked for: every row in the time is in one bucket, and in one only."""
    store = SqliteStore(tmp_path_factory.mktemp("ledger") / "ledger.db")
    usage = [
        Usage(n, account, "tiny", "stop", START_US + at, charge_microusd=charge, input_tokens=tokens)
        for n, (at, account, charge, tokens) in enumerate(rows)
    ]
    Writer.begin(store, "one").write(usage=usage)
    query = Query(START_S + window[0], START_S + window[0] + window[1], width, limit, group_by=group_by)
    within = [u for u in usage if query.start_s <= u.at_us // 10**6 < query.end_s]
    try:
        buckets = all_pages(store, query, max_results)
    finally:
        store.close()
    assert total(buckets) == counts(within)
    edges = [edge for bucket in buckets for edge in (bucket.start_s, bucket.end_s)]
    assert (edges[0], edges[-1]) == (query.start_s, query.end_s)
    assert all(start < end for start, end in zip(edges[::2], edges[1::2], strict=True))
