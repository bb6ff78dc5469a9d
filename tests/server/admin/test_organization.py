"""``/v1/organization/...`` over HTTP: whose rows a key sees, and what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from stepwell.ledger.reading.buckets import COLUMNS, valid_cursor
from stepwell.ledger.stores.open import open_store
from stepwell.server.admin.organization import COSTS as COST_RULES
from stepwell.server.admin.organization import USAGE as USAGE_RULES
from stepwell.server.admin.organization_query import Rules, read
from stepwell.server.backends.books import QUESTIONS_AT_ONCE, Books
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.run import BackgroundServer
from tests.ledger.made_books import START_S, made_books
from tests.server.fakes import FakeDriver, says, serving
from tests.server.wire import error_of, get

RING = KeyRing(
    [
        KeyEntry(tenant="acme", key="sk-acme", projects=("search",)),
        KeyEntry(tenant="acme", key="sk-plain"),
        KeyEntry(tenant="rival", key="sk-rival"),
        KeyEntry(tenant="house", key="sk-operator", operator=True),
    ]
)
USAGE = "/v1/organization/usage/completions"
COSTS = "/v1/organization/costs"
END_S = START_S + 3 * 86_400
WHOLE: dict[str, Any] = {"start_time": START_S, "end_time": END_S}


@contextmanager
def serving_books(directory: Path, keys: KeyRing | None = RING) -> Iterator[BackgroundServer]:
    made = made_books(directory)
    try:
        with serving(FakeDriver(says("x")), keys=keys) as server:
            server.service.books = Books(made.store)
            yield server
    finally:
        made.store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundServer]:
    with serving_books(tmp_path_factory.mktemp("books")) as running:
        yield running


def ask(server: BackgroundServer, key: str, path: str, query: Any) -> Any:
    return get(server, f"{path}?{urlencode(query, doseq=True)}", authorization=f"Bearer sk-{key}")


def results(server: BackgroundServer, key: str, path: str = USAGE, **query: Any) -> list[dict[str, Any]]:
    answer = ask(server, key, path, WHOLE | query)
    assert answer.status_code == 200, answer.text
    return [result for bucket in answer.json()["data"] for result in bucket["results"]]


def test_a_key_sees_its_own_tenant_and_its_projects_only(server: BackgroundServer) -> None:
    for path in (USAGE, COSTS):
        own = {r["project_id"] for r in results(server, "acme", path, group_by="project_id")}
        assert own == {"acme", "acme/search"}
        assert {r["project_id"] for r in results(server, "plain", path, group_by="project_id")} == {"acme"}
        assert {r["project_id"] for r in results(server, "rival", path, group_by="project_id")} == {"rival"}
        everybody = {r["project_id"] for r in results(server, "operator", path, group_by="project_id")}
        assert everybody == {"acme", "acme/search", "rival"}


def test_charges_are_those_of_the_tenant(server: BackgroundServer) -> None:
    def charged(key: str, **query: Any) -> float:
        return sum(r["amount"]["value"] for r in results(server, key, COSTS, **query))

    assert charged("plain") == pytest.approx(0.012001)
    assert charged("acme") == pytest.approx(0.012671)
    assert charged("rival") == pytest.approx(0.000777)
    assert charged("operator") == pytest.approx(0.013448)
    assert charged("operator", **{"project_ids[]": ["rival", "acme"]}) == pytest.approx(0.012778)
    assert charged("acme", project_ids="search") == charged("acme", project_ids="acme/search")
    assert charged("acme", project_ids="search") == pytest.approx(0.00067)


@pytest.mark.parametrize("path", [USAGE, COSTS])
@pytest.mark.parametrize(
    "query",
    [
        {"project_ids": "rival"},
        {"project_ids[]": ["rival", "nobody"]},
        {"project_ids": "acme/search"},
        {"api_key_ids": "key_rival"},
        {"session_ids": "s2"},
        {"service_tiers": "flex"},
        {"project_ids": "%"},
        {"project_ids": "rival' OR '1'='1"},
    ],
)
def test_what_belongs_to_others_does_not_exist(server: BackgroundServer, path: str, query: Any) -> None:
    """The answer for another's project is that for one that nobody has."""
    asked = ask(server, "plain", path, WHOLE | query)
    nobody = ask(server, "plain", path, WHOLE | {"project_ids": "nobody-has-this"})
    assert (asked.status_code, asked.json()) == (nobody.status_code, nobody.json())
    assert not any(bucket["results"] for bucket in asked.json()["data"])


def test_a_cursor_of_another_key_shows_nothing_more(server: BackgroundServer) -> None:
    page = ask(server, "operator", USAGE, WHOLE | {"limit": 1}).json()
    assert page["has_more"]
    query = WHOLE | {"limit": 31, "page": page["next_page"], "group_by": "project_id"}
    seen = ask(server, "rival", USAGE, query).json()
    assert not any(bucket["results"] for bucket in seen["data"])


def test_nobody_without_a_key(server: BackgroundServer) -> None:
    answer = get(server, f"{USAGE}?start_time={START_S}")
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"
    assert ask(server, "wrong", COSTS, WHOLE).status_code == 401


def test_without_keys_the_machine_itself_is_the_operator(tmp_path: Path) -> None:
    with serving_books(tmp_path, keys=None) as server:
        found = get(server, f"{COSTS}?{urlencode(WHOLE | {'group_by': 'project_id'})}").json()
    tenants = {r["project_id"] for bucket in found["data"] for r in bucket["results"]}
    assert tenants == {"acme", "acme/search", "rival"}


def test_usage_fields(server: BackgroundServer) -> None:
    query = {"group_by[]": ["agent_id", "session_id", "batch", "api_source"], "bucket_width": "1d"}
    lead = next(r for r in results(server, "plain", **query) if r["agent_id"] == "s1")
    assert lead["object"] == "organization.usage.completions.result"
    assert (lead["input_tokens"], lead["input_cached_tokens"], lead["input_uncached_tokens"]) == (
        1000,
        600,
        400,
    )
    assert (lead["output_tokens"], lead["visible_tokens"], lead["intermediate_tokens"]) == (100, 100, 0)
    assert (lead["num_model_requests"], lead["recomputed_tokens"]) == (1, 7)
    assert (lead["batch"], lead["api_source"], lead["user_id"], lead["model"]) == (
        False,
        "unlabeled",
        None,
        None,
    )
    (reader,) = results(server, "plain", parent_agent_ids="s1", group_by="parent_agent_id")
    assert (reader["parent_agent_id"], reader["intermediate_tokens"]) == ("s1", 250)
    orphans = results(server, "plain", group_by="parent_agent_id")
    assert {r["parent_agent_id"] for r in orphans} == {None, "s1"}


def test_line_items(server: BackgroundServer) -> None:
    found = results(server, "operator", COSTS, group_by="line_item")
    assert {r["line_item"] for r in found} == {"tiny, priority", "tiny, default", "tiny, flex"}
    flex = results(server, "operator", COSTS, group_by="line_item", line_items="tiny, flex")
    assert [(r["quantity"], r["quantity_unit"]) for r in flex] == [(680, "tokens")]
    assert results(server, "operator", COSTS)[0]["quantity"] is None


def test_batch_jobs(server: BackgroundServer) -> None:
    assert results(server, "operator", batch="true") == []
    assert results(server, "operator", batch="false") == results(server, "operator")


def test_days_begin_where_the_reader_says(server: BackgroundServer) -> None:
    for name in ("timezone", "tz"):
        page = ask(server, "operator", COSTS, WHOLE | {name: "Asia/Kathmandu"}).json()
        starts = [bucket["start_time"] for bucket in page["data"]]
        assert starts[0] == START_S
        assert {(start + 20_700) % 86_400 for start in starts[1:]} == {0}  # 5:45 before UTC's
        charged = sum(r["amount"]["value"] for bucket in page["data"] for r in bucket["results"])
        assert charged == pytest.approx(0.013448)
    utc = ask(server, "operator", COSTS, WHOLE | {"timezone": "UTC"}).json()
    assert utc == ask(server, "operator", COSTS, WHOLE).json()


def test_pages_join_up(server: BackgroundServer) -> None:
    query = WHOLE | {"bucket_width": "1h", "limit": 7, "group_by": "agent_id"}
    whole = ask(server, "operator", USAGE, query | {"limit": 168}).json()
    assert (whole["object"], whole["has_more"], whole["next_page"]) == ("page", False, None)
    buckets: list[Any] = []
    page: dict[str, Any] = {"next_page": None}
    for _ in range(20):
        more = {"page": page["next_page"]} if page["next_page"] else {}
        page = ask(server, "operator", USAGE, query | more).json()
        buckets += page["data"]
        if not page["has_more"]:
            break
    assert buckets == whole["data"]
    assert len(buckets) == 72


BAD: list[tuple[str, dict[str, Any], str]] = [
    (USAGE, {"start_time": None}, "start_time"),
    (USAGE, {"start_time": "yesterday"}, "start_time"),
    (USAGE, {"start_time": -1}, "start_time"),
    (USAGE, {"start_time": [START_S, START_S]}, "start_time"),
    (USAGE, {"end_time": START_S}, "end_time"),
    (USAGE, {"end_time": "1e99"}, "end_time"),
    (USAGE, {"end_time": 10**13}, "end_time"),
    (USAGE, {"start_time": 9_000_000_000, "end_time": None}, "start_time"),
    (USAGE, {"bucket_width": "1w"}, "bucket_width"),
    (USAGE, {"limit": 0}, "limit"),
    (USAGE, {"limit": 32}, "limit"),
    (USAGE, {"limit": 169, "bucket_width": "1h"}, "limit"),
    (USAGE, {"limit": "٣"}, "limit"),
    (COSTS, {"limit": 181}, "limit"),
    (USAGE, {"group_by": "tenant"}, "group_by"),
    (USAGE, {"group_by[]": ["model", "line_item"]}, "group_by"),
    (COSTS, {"group_by": "batch"}, "group_by"),
    (COSTS, {"batch": "true"}, "batch"),
    (USAGE, {"batch": "maybe"}, "batch"),
    (USAGE, {"project_id": "acme"}, "project_id"),
    (USAGE, {"limit[]": 3}, "limit[]"),
    (USAGE, {"user_ids": "me"}, "user_ids"),
    (USAGE, {"models": "m\0"}, "models"),
    (USAGE, {"models": "m" * 513}, "models"),
    (USAGE, {"models": ["m"] * 101}, "models"),
    (USAGE, {"timezone": "Mars/Base"}, "timezone"),
    (COSTS, {"tz": ["UTC", "UTC"]}, "tz"),
    (USAGE, {"page": ""}, "page"),
    (USAGE, {"page": "x" * 5_000}, "page"),
    (USAGE, {"page": "WzEsMl0"}, "page"),
    (USAGE, {"page": "W3RydWUsIDBd"}, "page"),
]


@pytest.mark.parametrize(("path", "query", "param"), BAD)
def test_bad_parameters_are_named(server: BackgroundServer, path: str, query: Any, param: str) -> None:
    asked = {name: value for name, value in (WHOLE | query).items() if value is not None}
    answer = ask(server, "acme", path, asked)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == param


def test_the_end_is_now_by_default(server: BackgroundServer) -> None:
    now_s = int(server.service.now_s())
    answer = ask(server, "acme", USAGE, {"start_time": now_s - 100, "bucket_width": "1m"})
    last = answer.json()["data"][-1]
    assert now_s <= last["end_time"] <= now_s + 60


def test_a_server_without_a_ledger_says_so() -> None:
    with serving(FakeDriver(says("x")), keys=RING) as server:
        answer = ask(server, "acme", COSTS, WHOLE)
        assert error_of(ask(server, "acme", COSTS, {}))["param"] == "start_time"
    assert (answer.status_code, error_of(answer)["code"]) == (404, "ledger_off")


def test_a_ledger_that_cannot_be_read_is_a_503_without_its_path(tmp_path: Path) -> None:
    with serving_books(tmp_path) as server:
        assert server.service.books is not None
        server.service.books.store.close()
        answer = ask(server, "acme", COSTS, WHOLE)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "ledger_unavailable")
    assert "retry-after" in answer.headers
    assert str(tmp_path) not in answer.text


KNOWN = sorted({*USAGE_RULES.known, *COST_RULES.known})
NAMES = st.sampled_from([*KNOWN, *(f"{name}[]" for name in KNOWN), "tenant", "", "[]"])
VALUES = st.one_of(
    st.sampled_from([*COLUMNS, "1m", "1h", "1d", "true", "false", "acme", "search", "rival", "WzEsMl0"]),
    st.integers(-5, 2 * END_S).map(str),
    st.text(max_size=20),
)
START = st.sampled_from([[], [("start_time", str(START_S))]])


@given(START, st.lists(st.tuples(NAMES, VALUES), max_size=5), st.sampled_from([USAGE_RULES, COST_RULES]))
def test_whatever_is_asked_the_tenant_is_the_keys(
    start: list[tuple[str, str]], items: list[tuple[str, str]], rules: Rules
) -> None:
    """Anything but a question within bounds, about the key's own tenants, is a 400 that names a parameter."""
    key, refused = RING.find("Bearer sk-acme"), None
    try:
        asked = read(QueryParams([*start, *items]), rules, key, START_S + 100)
    except ApiError as error:
        refused = error
    if refused is not None:
        assert refused.status == 400
        assert refused.param is not None
        return
    assert asked.query.tenants == ["acme", "acme/search"]
    assert set(asked.query.group_by) <= COLUMNS.keys()
    assert 1 <= asked.query.limit <= 1_440
    assert asked.query.start_s < asked.query.end_s
    assert asked.cursor is None or valid_cursor(asked.query, asked.cursor)


def test_few_questions_at_once(tmp_path: Path) -> None:
    """A hundred customers who look at their bills leave the threads to those who ask for tokens."""
    asking, most = 0, 0
    lock = threading.Lock()

    def question(store: Any, number: int) -> int:
        nonlocal asking, most
        with lock:
            asking += 1
            most = max(most, asking)
        time.sleep(0.005)
        with lock:
            asking -= 1
        return number

    async def ask_all() -> list[int]:
        return await asyncio.gather(*(books.ask(question, number) for number in range(12)))

    books = Books(open_store(tmp_path / "ledger.db"))
    assert asyncio.run(ask_all()) == list(range(12))
    books.store.close()
    assert most <= QUESTIONS_AT_ONCE
