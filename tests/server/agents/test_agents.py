"""``/v1/agents``: whose agents a key sees, where their KV lies, and hints between turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from stepwell.engines.null import NullConfig
from stepwell.loop.driver import Driver
from stepwell.policy.types import Hint, Wait
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from tests.server.fakes import MODEL, FakeDriver, null_driver, says, serving, until
from tests.server.wire import CHAT, error_of, get, http, post

RING = KeyRing(
    [
        KeyEntry(tenant="acme", key="sk-acme", projects=("search",)),
        KeyEntry(tenant="rival", key="sk-rival"),
        KeyEntry(tenant="house", key="sk-operator", operator=True),
    ]
)
CONFIG = NullConfig(model=MODEL, block_tokens=16, device_blocks=256, answer=b"abc")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{key}"}


@contextmanager
def node(
    keys: KeyRing | None = RING, max_agents: int | None = None
) -> Iterator[tuple[BackgroundServer, Driver]]:
    """A server on the null engine whose driver the test can look into."""
    driver = null_driver(CONFIG, max_agents=max_agents)
    driver.start()
    try:
        with serving(driver, driver.text, keys=keys) as server:
            yield server, driver
    finally:
        driver.stop(5.0)


def chat(server: BackgroundServer, key: str, agent: str, **headers: str) -> None:
    answer = post(server, "/v1/chat/completions", CHAT, **bearer(key), **{"x-session-id": agent}, **headers)
    assert answer.status_code == 200, answer.text


def at_rest(driver: Driver, tenant: str, agent: str) -> None:
    """The policy hears of a turn's end one step after the client."""
    until(lambda: (view := driver.agent(tenant, agent)) is not None and view.state == "idle")


def ids(server: BackgroundServer, key: str, query: str = "") -> list[str]:
    # A list may be ten times as old as it took to make: who wants to see a change asks until it is there.
    return [agent["id"] for agent in get(server, f"/v1/agents{query}", **bearer(key)).json()["data"]]


def hint_of(driver: Driver, tenant: str, agent: str) -> Hint:
    return driver.scheduler.agents.records[tenant, agent].hint


def test_one_agent_in_full() -> None:
    with node() as (server, driver):
        headers = {"x-agent-name": "planner", "x-parent-session-id": "lead"}
        chat(server, "acme", "run/planner", **headers)
        at_rest(driver, "acme", "run/planner")
        until(lambda: hint_of(driver, "acme", "run/planner").wait is Wait.PERSON)  # what the answer showed
        agent = get(server, "/v1/agents/run/planner", **bearer("acme")).json()
        quoted = get(server, "/v1/agents/run%2Fplanner", **bearer("acme")).json()
    for name in ("expected_at", "why"):  # what the policy makes of it is another test's
        assert name in agent
        del agent[name], quoted[name]
    assert agent == quoted
    assert agent.pop("last_ttft_ms") >= 0
    said = len("?user: hi\nassistant: abc")
    kv_tokens = agent.pop("kv_tokens")
    assert set(kv_tokens) == {"device", "host", "disk", "gone"}
    assert sum(kv_tokens.values()) == agent.pop("context_tokens") == said + 1  # the end token
    assert kv_tokens["device"] > 0
    assert agent == {
        "id": "run/planner",
        "object": "agent",
        "session_id": "lead",
        "parent_agent_id": "lead",
        "role": "planner",
        "model": MODEL,
        "service_tier": "default",
        "status": "idle",
        "turns": 1,
        "declared": dict.fromkeys(("expected_ms", "after_agent", "retain_s", "tool")) | {"next": "person"},
    }


def test_what_the_policy_expects_is_shown_as_a_time_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with node() as (server, driver):
        chat(server, "acme", "a")
        at_rest(driver, "acme", "a")
        eviction = driver.scheduler.block_manager.eviction
        why = "declared: a tool, about 9.0 s"
        monkeypatch.setattr(
            type(eviction), "expectation", lambda self, record, now_us: (now_us + 9_000_000, why)
        )
        server.service.now_s = lambda: 1_000.0
        agent = get(server, "/v1/agents/a", **bearer("acme")).json()
    assert agent["why"] == why
    assert 1_000 < agent["expected_at"] <= 1_009


def test_a_key_sees_its_own_tenants_agents_only() -> None:
    with node() as (server, driver):
        for key, agent in (("acme", "same"), ("rival", "same"), ("rival", "other")):
            chat(server, key, agent)
            at_rest(driver, key, agent)
        unknown = get(server, "/v1/agents/nobody", **bearer("acme"))
        foreign = get(server, "/v1/agents/other", **bearer("acme"))
        named = get(server, "/v1/agents/other?tenant=rival", **bearer("acme"))
        mine = get(server, "/v1/agents/same", **bearer("acme")).json()
        until(lambda: ids(server, "acme") == ["same"])
        assert ids(server, "acme", "?tenant=rival") == ["same"]
        until(lambda: ids(server, "rival") == ["other", "same"])
        assert get(server, "/v1/agents").status_code == 401
    for refused in (unknown, foreign, named):
        assert (refused.status_code, error_of(refused)["code"]) == (404, "agent_not_found")
    assert error_of(foreign)["message"].replace("other", "nobody") == error_of(unknown)["message"]
    assert "tenant" not in mine


def test_a_project_is_a_tenant_here_as_well() -> None:
    with node() as (server, driver):
        chat(server, "acme", "a", **{"openai-project": "search"})
        at_rest(driver, "acme/search", "a")
        assert get(server, "/v1/agents/a", **bearer("acme")).status_code == 404
        search = bearer("acme") | {"openai-project": "search"}
        assert get(server, "/v1/agents/a", **search).json()["turns"] == 1


def test_an_operator_sees_all_and_picks_a_tenant() -> None:
    with node() as (server, driver):
        for key in ("acme", "rival"):
            chat(server, key, "same")
            at_rest(driver, key, "same")
        until(lambda: len(ids(server, "operator")) == 2)
        listed = get(server, "/v1/agents?limit=1", **bearer("operator")).json()
        assert ids(server, "operator", "?tenant=rival") == ["same"]
        both = get(server, "/v1/agents/same", **bearer("operator"))
        one = get(server, "/v1/agents/same?tenant=rival", **bearer("operator")).json()
        none = get(server, "/v1/agents/same?tenant=house", **bearer("operator"))
    # Both stand on one page: a cursor could not say which of them came last.
    assert [(agent["id"], agent["tenant"]) for agent in listed["data"]] == [
        ("same", "acme"),
        ("same", "rival"),
    ]
    assert listed["has_more"] is False
    assert (both.status_code, error_of(both)["param"]) == (400, "tenant")
    assert (one["tenant"], none.status_code) == ("rival", 404)


def test_pages() -> None:
    with node() as (server, driver):
        for number in range(5):
            chat(server, "acme", f"a{number}")
            at_rest(driver, "acme", f"a{number}")
        until(lambda: len(ids(server, "acme")) == 5)
        first = get(server, "/v1/agents?limit=2", **bearer("acme")).json()
        second = get(server, f"/v1/agents?limit=3&after={first['last_id']}", **bearer("acme")).json()
        empty = get(server, "/v1/agents?after=a4", **bearer("acme")).json()
    assert [agent["id"] for agent in first["data"] + second["data"]] == [f"a{n}" for n in range(5)]
    assert (first["object"], first["has_more"], second["has_more"]) == ("list", True, False)
    assert (first["first_id"], first["last_id"]) == ("a0", "a1")
    assert (empty["data"], empty["first_id"], empty["last_id"], empty["has_more"]) == ([], None, None, False)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "²", "1" * 9])
def test_wrong_page_sizes(limit: str) -> None:
    with serving(FakeDriver(says("x"))) as server:
        refused = get(server, f"/v1/agents?limit={limit}")
    assert (refused.status_code, error_of(refused)["param"]) == (400, "limit")


def test_without_keys_everything_is_ones_own() -> None:
    with serving(FakeDriver(says("x"))) as server:
        (agent,) = get(server, "/v1/agents").json()["data"]
        assert (agent["id"], agent["tenant"]) == ("lead", "local")
        assert get(server, "/v1/agents", origin="https://evil.example").status_code == 403


# --- hints between turns -----------------------------------------------------------------------


def test_a_runtime_may_say_more_between_turns() -> None:
    with node() as (server, driver):
        chat(server, "acme", "a")
        at_rest(driver, "acme", "a")
        said = post(server, "/v1/agents/a/hint", {"next": "tool", "expected_ms": 9_000}, **bearer("acme"))
        until(lambda: hint_of(driver, "acme", "a") == Hint(Wait.TOOL, 9_000_000))
        wrapped = {"agent_hint": {"next": "done", "cache_control": {"ttl": "5m"}}}
        done = post(server, "/v1/agents/a/hint", wrapped, **bearer("acme"))
        until(lambda: hint_of(driver, "acme", "a") == Hint(Wait.DONE, retain_us=300_000_000))
        again = post(server, "/v1/agents/a/hint", {"next": "person"}, **bearer("acme"))
        until(lambda: hint_of(driver, "acme", "a").wait is Wait.PERSON)
        assert hint_of(driver, "acme", "a").retain_us == again.json()["retain_s"] * 1_000_000 == 300_000_000
    understood = {"id": "a", "object": "agent.hint", "after_agent": None, "tool": None}
    assert said.json() == {**understood, "next": "tool", "expected_ms": 9_000.0, "retain_s": None}
    assert done.json() == {**understood, "next": "done", "expected_ms": None, "retain_s": 300.0}


def test_an_agent_called_hint_is_an_agent() -> None:
    with node() as (server, driver):
        chat(server, "acme", "a/hint")
        at_rest(driver, "acme", "a/hint")
        assert get(server, "/v1/agents/a/hint", **bearer("acme")).json()["id"] == "a/hint"
        assert post(server, "/v1/agents/a/hint/hint", {"next": "done"}, **bearer("acme")).status_code == 200
        assert post(server, "/v1/agents/a/hint", {"next": "done"}, **bearer("acme")).status_code == 404
        assert post(server, "/v1/agents/a", {"next": "done"}, **bearer("acme")).status_code == 405


ABSURD: list[Any] = [
    {"next": "coffee", "expected_ms": -5},
    {"next": ["tool"], "expected_ms": 10**30, "after_agent": {"x": 1}},
    {"agent_hint": 7},
    {"cache_control": [], "context_management": {"edits": "all"}},
]


@pytest.mark.parametrize("body", ABSURD)
def test_absurd_hints_say_nothing(body: Any) -> None:
    with node() as (server, driver):
        chat(server, "acme", "a")
        at_rest(driver, "acme", "a")
        answer = post(server, "/v1/agents/a/hint", body, **bearer("acme"))
    assert answer.status_code == 200
    assert [answer.json()[name] for name in ("next", "expected_ms", "after_agent", "retain_s")] == [None] * 4


def test_what_is_no_hint_at_all_is_a_clear_error() -> None:
    with node() as (server, _), http(server, **bearer("acme")) as client:
        assert client.post("/v1/agents/a/hint", content=b"[").status_code == 400
        assert client.post("/v1/agents/a/hint", json=[1]).status_code == 400
        assert error_of(client.post("/v1/agents/a/hint", json={}))["code"] == "agent_not_found"


def test_nothing_that_one_tenant_says_touches_anothers_agent() -> None:
    """A hint, a POST or a name in ``after_agent``: same names, other tenant, no effect."""
    with node() as (server, driver):
        chat(server, "rival", "same", **{"x-agent-next": "tool; expected_ms=1000"})
        at_rest(driver, "rival", "same")
        before = driver.agent("rival", "same")
        assert post(server, "/v1/agents/same/hint", {"next": "done"}, **bearer("acme")).status_code == 404
        operator = bearer("operator")
        assert (
            post(server, "/v1/agents/same/hint?tenant=rival", {"next": "done"}, **operator).status_code == 404
        )
        chat(server, "acme", "same", **{"x-session-final": "true"})
        chat(server, "acme", "other", **{"x-agent-next": "agent; after=same; expected_ms=86400000"})
        at_rest(driver, "acme", "other")
        assert post(server, "/v1/agents/same/hint", {"next": "done"}, **bearer("acme")).status_code == 200
        until(lambda: hint_of(driver, "acme", "same").wait is Wait.DONE)
        assert hint_of(driver, "acme", "other").after_agent == "same"
        after = driver.agent("rival", "same")
    assert before is not None
    assert after is not None
    assert before.hint == Hint(Wait.TOOL, 1_000_000)
    # As time passes it may be expected at another time; nothing else has changed.
    assert replace(after, expected_us=before.expected_us) == before


def test_a_flood_of_agents_is_bounded() -> None:
    with node(max_agents=8) as (server, driver), http(server, **bearer("acme")) as client:
        for number in range(40):
            hint = {"agent_hint": {"next": "agent", "after_agent": "x" * 10_000, "expected_ms": 10**14}}
            answer = client.post(
                "/v1/chat/completions", json=CHAT | hint, headers={"x-session-id": f"a{number}"}
            )
            assert answer.status_code == 200
            client.post(f"/v1/agents/a{number}/hint", json={"next": "tool", "after_agent": "y" * 10_000})
        at_rest(driver, "acme", "a39")
        assert len(driver.scheduler.agents.records) <= 8
        assert len(driver.snapshot().agents) <= 8
        assert all(len(r.hint.after_agent or "") <= 255 for r in driver.scheduler.agents.records.values())


def test_a_flood_does_not_push_out_anothers_agent() -> None:
    with node(max_agents=8) as (server, driver), http(server, **bearer("acme")) as client:
        chat(server, "rival", "quiet", **{"x-agent-next": "tool; expected_ms=60000"})
        at_rest(driver, "rival", "quiet")
        for number in range(20):
            client.post("/v1/chat/completions", json=CHAT, headers={"x-session-id": f"a{number}"})
        at_rest(driver, "acme", "a19")
        assert hint_of(driver, "rival", "quiet") == Hint(Wait.TOOL, 60_000_000)
        assert len(driver.scheduler.agents.records) <= 8


def test_lists_are_not_taken_for_every_request() -> None:
    """Looking at all agents stops the loop meanwhile, so a flood of lists must not be a flood of looks."""

    class Slow(FakeDriver):
        looks = 0

        def snapshot(self) -> Any:
            self.looks += 1
            return super().snapshot()

    driver = Slow(says("x"))
    with serving(driver) as server:
        lists = server.service.agent_lists
        lists._good_until_s = float("inf")
        for _ in range(5):
            get(server, "/v1/agents")
        assert driver.looks == 0
        lists._good_until_s = 0.0
        get(server, "/v1/agents")
        assert driver.looks == 1
        assert lists._good_until_s > 0.0
