"""Days, weeks and months begin where the reader is, also on the days on which clocks change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.ledger.base import Store
from stepwell.ledger.reading.buckets import Bucket, Query, usage_page, valid_cursor
from stepwell.ledger.reading.calendar import day_after_s, month, parts, zone_of
from stepwell.ledger.reading.over_time import statement_over_time
from stepwell.ledger.reading.queries import Period
from stepwell.ledger.stores.sqlite import SqliteStore
from tests.ledger.made_books import Writer, agent, used

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = (
    "Europe/Berlin",
    "America/Los_Angeles",
    "Asia/Beirut",  # clocks change at midnight, so one day a year begins at 01:00
    "Australia/Lord_Howe",  # by half an hour
    "Asia/Kathmandu",
    "Pacific/Kiritimati",
    "America/St_Johns",
)


def at_s(text: str, zone: str = "Europe/Berlin") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A request in each half hour of three days around the end of summer time."""
    made = SqliteStore(tmp_path_factory.mktemp("books") / "ledger.db")
    first = int(datetime(2026, 10, 24, tzinfo=UTC).timestamp())
    writer = Writer.begin(made, "node", first * 1_000_000)
    for number in range(3 * 48):
        account = agent("acme", "s", f"a{number % 2}")
        writer.settle(used(account, number + 1, (first + number * 1_800) * 1_000_000, number))
    yield made
    made.close()


def buckets(store: Store, query: Query) -> list[Bucket]:
    """All pages, one after the other."""
    found: list[Bucket] = []
    cursor = None
    while True:
        page = usage_page(store, query, cursor, max_results=3)
        found += page.buckets
        if page.next is None:
            return found
        assert valid_cursor(query, page.next)
        cursor = page.next


def test_a_day_has_23_or_25_hours_when_clocks_change(store: Store) -> None:
    query = Query(at_s("2026-10-24"), at_s("2026-10-27"), "1d", 7, zone=BERLIN)
    found = buckets(store, query)
    hours = [(bucket.end_s - bucket.start_s) // 3_600 for bucket in found]
    assert hours == [24, 25, 24]
    requests = [sum(result.counts.requests for result in bucket.results) for bucket in found]
    assert requests == [44, 50, 48]  # the books begin two hours after Berlin's midnight
    assert day_after_s(at_s("2026-03-29"), BERLIN) - at_s("2026-03-29") == 23 * 3_600


def test_a_day_without_a_midnight_begins_when_clocks_go_forward() -> None:
    beirut = ZoneInfo("Asia/Beirut")
    begins = day_after_s(at_s("2026-03-28T12:00", "Asia/Beirut"), beirut)
    assert datetime.fromtimestamp(begins, beirut).isoformat() == "2026-03-29T01:00:00+03:00"
    assert day_after_s(begins, beirut) - begins == 23 * 3_600


@given(
    st.sampled_from(ZONES),
    st.sampled_from(["1h", "1d"]),
    st.integers(1_577_836_800, 1_900_000_000),
    st.integers(1, 20 * 86_400),
)
@settings(max_examples=60, deadline=None)
def test_buckets_join_up_and_begin_with_the_readers_days(
    name: str, width: str, start_s: int, length_s: int
) -> None:
    zone = ZoneInfo(name)
    after = Query(start_s, start_s + length_s, width, 500, zone=zone)
    with_nothing = EMPTY.page(after)
    assert with_nothing[0].start_s == after.start_s and with_nothing[-1].end_s == after.end_s
    assert all(one.end_s == two.start_s for one, two in pairwise(with_nothing))
    for bucket in with_nothing[1:]:
        moment = datetime.fromtimestamp(bucket.start_s, zone)
        before = datetime.fromtimestamp(bucket.start_s - 1, zone)
        assert (moment.date() != before.date()) if width == "1d" else moment.minute in (0, 30)


class Empty:
    """Books with nothing in them, for what is asked of the calendar alone."""

    def rows(self, sql: str, values: object = ()) -> list[tuple[int, ...]]:
        return []

    def page(self, query: Query) -> list[Bucket]:
        return usage_page(self, query).buckets  # type: ignore[arg-type]


EMPTY = Empty()


@pytest.mark.parametrize("name", ZONES)
def test_no_request_is_lost_or_counted_twice(store: Store, name: str) -> None:
    zone = ZoneInfo(name)
    query = Query(at_s("2026-10-23"), at_s("2026-10-28"), "1d", 2, group_by=("agent_id",), zone=zone)
    found = buckets(store, query)
    assert sum(result.counts.requests for bucket in found for result in bucket.results) == 3 * 48
    charged = sum(result.counts.charge_microusd for bucket in found for result in bucket.results)
    assert charged == sum(range(3 * 48))
    total = statement_over_time(store, Period(), ("tenant",)).total
    for unit in ("day", "week", "month"):
        by_time = statement_over_time(store, Period(), (unit, "tenant"), zone=zone)
        assert by_time.total == total
        assert len({row.group for row in by_time.rows}) == len(by_time.rows)


def test_parts_have_the_names_of_local_days(store: Store) -> None:
    found = parts(store, Period(), "day", ZoneInfo("Pacific/Kiritimati"))
    assert [label for label, _ in found] == ["2026-10-24", "2026-10-25", "2026-10-26", "2026-10-27"]
    assert [label for label, _ in parts(store, Period(), "day")] == ["2026-10-24", "2026-10-25", "2026-10-26"]
    october = month("2026-10", BERLIN)
    assert (october.since_us // 1_000_000, october.until_us // 1_000_000) == (
        at_s("2026-10-01"),
        at_s("2026-11-01"),
    )


def test_without_a_zone_days_are_those_of_utc(store: Store) -> None:
    query = Query(at_s("2026-10-24"), at_s("2026-10-27"), "1d", 7)
    utc = buckets(store, Query(query.start_s, query.end_s, "1d", 7, zone=ZoneInfo("UTC")))
    assert buckets(store, query) == utc
    assert [bucket.start_s % 86_400 for bucket in utc[1:]] == [0, 0, 0]


def test_the_last_day_that_there_is_has_an_end() -> None:
    for name in ("Pacific/Kiritimati", "America/Los_Angeles"):
        query = Query(253_402_000_000, 253_402_300_799, "1d", 7, zone=ZoneInfo(name))
        assert EMPTY.page(query)[-1].end_s == query.end_s


@pytest.mark.parametrize("name", ["Mars/Base", "", "../etc/passwd", "Europe", "x" * 5_000, "Europe/Berlin\0"])
def test_what_is_no_zone_is_said(name: str) -> None:
    with pytest.raises(BadInput, match="is no time zone"):
        zone_of(name)
