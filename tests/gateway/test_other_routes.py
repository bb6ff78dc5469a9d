"""What is no turn: lists of all nodes, operators' requests, the front end's own, and who may ask for them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.gateway.merge import merged_models, merged_page
from stepwell.gateway.routes import RouteKind, kind_of, named_in
from stepwell.server.app import ROUTES
from stepwell.server.run import BackgroundServer
from tests.gateway.fakes import World, body_of, sse, world
from tests.server.fakes import INFO, FakeDriver, FakeText, says

OPS = {"authorization": "Bearer sk-ops"}
ACME = {"authorization": "Bearer sk-acme"}
SAME_EVERYWHERE = {
    "/", "/docs", "/openapi.json", "/page", "/page/", "/page/key", "/page/leave", "/page/{path:path}",
    "/admin/margin", "/admin/keys", "/admin/budgets", "/v1/models/{model:path}", "/v1/watch",
    "/v1/organization/usage/completions", "/v1/organization/costs",
}  # fmt: skip


def test_every_route_of_a_node_has_a_kind_that_somebody_has_thought_about() -> None:
    """A new route is one of all nodes' shared things only if it is listed here."""
    for route in ROUTES:
        for method in route.methods or ():
            kind = kind_of(method, route.path)
            assert (kind is RouteKind.ANY) <= (route.path in SAME_EVERYWHERE), (method, route.path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/agents/run-42/planner/hint", "run-42/planner"),
        ("/v1/agents/a%2Fb", "a/b"),
        ("/v1/responses/resp_1/cancel", "resp_1"),
        ("/v1/sessions/run-42", "run-42"),
    ],
)
def test_names_in_paths(path: str, name: str) -> None:
    assert named_in(path) == name


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin/fleet", 403),
        ("POST", "/admin/fleet/restart", 403),
        ("POST", "/admin/fleet/a/drain", 403),
        ("GET", "/metrics", 403),
        ("GET", "/admin/snapshot", 403),
        ("POST", "/admin/budgets", 403),
        ("POST", "/admin/keys/reload", 403),
    ],
)
def test_operators_alone_see_and_move_the_fleet(method: str, path: str, status: int) -> None:
    async def go() -> None:
        async with world() as one:
            assert (await one.client.request(method, path, headers=ACME)).status_code == status
            assert (await one.client.request(method, path)).status_code == 401
            assert one.fakes.seen == []

    asyncio.run(go())


def test_nobody_without_a_key_reaches_a_node() -> None:
    async def go() -> None:
        async with world() as one:
            for path in ("/v1/chat/completions", "/v1/messages", "/v1/files", "/tokenize"):
                assert (await one.client.post(path, json={})).status_code == 401
            assert one.fakes.seen == []

    asyncio.run(go())


def test_without_keys_pages_of_other_sites_reach_no_node() -> None:
    async def go() -> None:
        async with world(keys=(), operator_key=None) as one:
            stranger = {"origin": "https://evil.example"}
            for path in ("/v1/models", "/v1/agents", "/admin/fleet", "/page"):
                assert (await one.client.get(path, headers=stranger)).status_code == 403
                assert (await one.client.get(path, headers={"host": "evil.example"})).status_code == 403
            assert one.fakes.seen == []

    asyncio.run(go())


def test_a_node_without_keys_tells_nothing_to_who_comes_through_a_front_end_with_keys() -> None:
    transport = httpx2.ASGITransport(BackgroundServer(FakeDriver(says("x")), FakeText(INFO)).app)

    async def node(request: httpx2.Request) -> httpx2.Response:
        """As a node on this machine sees it."""
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"host"]
        url = request.url.copy_with(host="127.0.0.1")
        asked = httpx2.Request(request.method, url, headers=headers, content=request.content)
        answer = await transport.handle_async_request(asked)
        await answer.aread()
        return answer

    async def go() -> None:
        async with world("a") as one:
            paths = ("/admin/margin", "/admin/keys", "/admin/budgets", "/v1/watch", "/v1/organization/costs")
            for path in paths:
                one.fakes.then("a", node)
                assert (await one.client.get(path)).status_code == 403, path
            one.fakes.then("a", node)
            assert (await one.chat()).status_code == 403
        async with world("a", keys=(), operator_key=None) as one:
            one.fakes.then("a", node)
            assert (await one.client.get("/admin/budgets")).status_code != 403

    asyncio.run(go())


def test_googles_clients_say_their_key_in_a_header_of_their_own() -> None:
    async def go() -> None:
        async with world() as one:
            path, key = "/v1beta/models/m:generateContent", {"x-goog-api-key": "sk-acme"}
            assert (await one.client.post(path, json={}, headers=key)).status_code == 200
            assert one.fakes.seen[-1][1].headers["x-goog-api-key"] == "sk-acme"
            wrong = await one.client.post(path, json={}, headers={"x-goog-api-key": "sk-no"})
            assert wrong.status_code == 401

    asyncio.run(go())


def test_agents_of_all_nodes_are_one_list_and_only_operators_see_nodes() -> None:
    rows = {"a": ["s/1", "s/3"], "b": ["s/2", "s/1"], "c": []}

    async def go() -> None:
        async with world() as one:
            for who, seen in ((ACME, False), (OPS, True)):
                for node, names in rows.items():
                    data = [
                        {"id": n, "context_tokens": len(node + n), "status": "idle"} for n in sorted(names)
                    ]
                    one.fakes.then(node, httpx2.Response(200, json={"data": data, "has_more": False}))
                page = (await one.client.get("/v1/agents?limit=2", headers=who)).json()
                assert [row["id"] for row in page["data"]] == ["s/1", "s/2"] and page["has_more"]
                assert all(("node" in row) is seen for row in page["data"])

    asyncio.run(go())


def test_an_error_of_a_node_is_the_lists() -> None:
    async def go() -> None:
        async with world() as one:
            one.fakes.then("b", httpx2.Response(400, json={"error": {"code": "invalid_value"}}))
            found = await one.client.get("/v1/agents?limit=0", headers=ACME)
            assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_value")

    asyncio.run(go())


def test_a_budget_goes_to_every_node() -> None:
    async def go() -> None:
        async with world() as one:
            said = {"spend_control": {"limit": 250}}
            await one.client.post("/v1/sessions/run-42", json=said, headers=ACME)
            assert sorted(one.fakes.asked) == ["a", "b", "c"]
            assert all(body_of(request) == said for _, request in one.fakes.seen)
            one.fakes.seen.clear()
            found = (await one.client.post("/admin/budgets", json={"tenant": "acme"}, headers=OPS)).json()
            assert {name: one["status"] for name, one in found["nodes"].items()} == dict.fromkeys("abc", 200)

    asyncio.run(go())


def test_a_drained_node_gets_nothing_new_until_it_is_resumed() -> None:
    async def go() -> None:
        async with world("a", "b") as one:
            assert (await one.client.post("/admin/fleet/a/drain", headers=OPS)).json()["state"] == "draining"
            for n in range(8):
                await one.chat(agent=f"{n}")
            assert set(one.fakes.asked) == {"b"}
            one.fakes.then("a", httpx2.Response(200, json={"status": "ok"}))
            await one.client.post("/admin/fleet/a/resume", headers=OPS)
            await one.nodes.watches["a"].look()
            assert (await one.client.get("/admin/fleet", headers=OPS)).json()["nodes"]["a"][
                "state"
            ] == "ready"
            assert (await one.client.post("/admin/fleet/x/drain", headers=OPS)).status_code == 404
            assert (await one.client.post("/admin/fleet/restart", headers=OPS)).status_code == 400

    asyncio.run(go())


def test_an_agent_is_asked_for_where_it_lies() -> None:
    async def go() -> None:
        async with world() as one:
            node = await _home(one)
            await one.client.get("/v1/agents/s/1", headers=ACME)
            await one.client.post("/v1/agents/s/1/hint", json={"next": "tool"}, headers=ACME)
            assert one.fakes.asked[1:] == [node, node]

    asyncio.run(go())


async def _home(one: World) -> str:
    await one.chat()
    return one.fakes.asked[0]


def test_uploads_go_through_in_pieces() -> None:
    async def go() -> None:
        async with world() as one:
            files = {"file": ("a.txt", b"x" * 50_000, "text/plain")}
            await one.client.post("/v1/files", files=files, data={"purpose": "user_data"}, headers=ACME)
            _, request = one.fakes.seen[-1]
            assert b"x" * 50_000 in request.content and int(request.headers["content-length"]) > 50_000

    asyncio.run(go())


@pytest.mark.parametrize(
    "path", ["/v1/agents/s/1", "/v1/organization/costs", "/v1/files/file-1", "/v1/sessions/s"]
)
def test_a_node_that_is_lost_before_a_word_is_a_503_and_in_a_watch_the_end(path: str) -> None:
    async def go() -> None:
        async with world() as one:
            for fault in (httpx2.ConnectError("x"), httpx2.ReadError("x")):
                for node in one.nodes.watches:
                    one.fakes.then(node, fault)
                assert (await one.client.get(path, headers=ACME)).status_code == 503
                one.fakes.scripts.clear()
            for node in one.nodes.watches:
                one.fakes.then(node, sse(b"event: full\n\n", httpx2.ReadError("x")))
            assert (await one.client.get("/v1/watch", headers=ACME)).content == b"event: full\n\n"

    asyncio.run(go())


def test_a_watcher_that_leaves_ends_its_request_at_the_node() -> None:
    async def go() -> None:
        async with world("a") as one:
            asked, never, left = asyncio.Event(), asyncio.Event(), []

            async def watch(request: httpx2.Request) -> httpx2.Response:
                asked.set()
                try:
                    await never.wait()
                finally:
                    left.append(request.url.path)
                raise AssertionError

            one.fakes.then("a", watch)
            watcher = asyncio.create_task(one.client.get("/v1/watch", headers=ACME))
            await asked.wait()
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            assert left == ["/v1/watch"]

    asyncio.run(go())


pages = st.dictionaries(
    st.sampled_from("abc"), st.sets(st.integers(0, 30), max_size=12), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None)
@given(pages, st.integers(1, 5))
def test_pages_one_after_the_other_are_the_whole(agents: dict[str, set[int]], limit: int) -> None:
    """Every node pages as nodes do; following ``after`` shows each agent once, in order."""
    after, seen = "", list[str]()
    for _ in range(40):
        answers: dict[str, Any] = {}
        for node, numbers in agents.items():
            names = sorted(f"{n:02}" for n in numbers if f"{n:02}" > after)
            rows = [{"id": name, "context_tokens": 1} for name in names]
            answers[node] = {"data": rows[:limit], "has_more": len(rows) > limit}
        page = merged_page(answers, limit, operator=False)
        seen += [row["id"] for row in page["data"]]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert seen == sorted({f"{n:02}" for numbers in agents.values() for n in numbers})


def test_an_agent_that_has_moved_is_shown_where_it_is_at_work() -> None:
    old = {"id": "1", "status": "idle", "context_tokens": 900}
    new = {"id": "1", "status": "running", "context_tokens": 20}
    for pages in ({"a": {"data": [old]}, "b": {"data": [new]}}, {"a": {"data": [new]}, "b": {"data": [old]}}):
        assert merged_page(pages, 5, operator=False)["data"] == [new]


def test_models_are_listed_once() -> None:
    assert [
        m["id"]
        for m in merged_models([{"data": [{"id": "x"}]}, {"data": [{"id": "y"}, {"id": "x"}]}])["data"]
    ] == [
        "x",
        "y",
    ]
