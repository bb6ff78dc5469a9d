"""A turn through the front end, when nodes answer, refuse, die before a word and die in the middle of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.types import NodeState
from tests.gateway.fakes import World, answer, sse, world

FIRST, SECOND = b'data: {"delta":1}\n\n', b"data: [DONE]\n\n"
DIED = httpx2.ReadError("reset")
NO_PORT = httpx2.ConnectError("refused")


def run(work: Callable[[World], Awaitable[None]], *names: str) -> None:
    async def go() -> None:
        async with world(*names) as one:
            await work(one)

    asyncio.run(go())


async def home(one: World) -> str:
    """Where the session of ``World.chat`` goes first."""
    await one.chat()
    found = one.fakes.asked[-1]
    one.fakes.seen.clear()
    return found


def test_an_agent_stays_where_it_was_and_its_headers_go_on() -> None:
    async def work(one: World) -> None:
        first = await home(one)
        for _ in range(3):
            assert (await one.chat()).json()["node"] == first
        _, request = one.fakes.seen[-1]
        assert request.headers["authorization"] == "Bearer sk-acme"
        assert (request.headers["x-session-id"], request.headers["x-agent-id"]) == ("s", "1")
        place = one.nodes.fleet.places.find(("acme", "s/1"))
        assert place is not None and place.context_tokens == 42 and set(place.held) == {first}

    run(work)


@pytest.mark.parametrize(
    "fault", [DIED, NO_PORT, httpx2.Response(503, json={}), httpx2.Response(529, json={})]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_was_not_begun_is_answered_by_another_node(fault: object, *, stream: bool) -> None:
    async def work(one: World) -> None:
        first = await home(one)
        one.fakes.then(first, fault)  # type: ignore[arg-type]
        found = await one.chat(stream=stream)
        assert found.status_code == 200 and found.json()["node"] != first
        assert len(one.fakes.asked) == 2
        assert all(node.in_flight == 0 for node in one.nodes.fleet.nodes.values())

    run(work)


def test_a_stream_that_has_sent_only_comments_goes_on_elsewhere() -> None:
    async def work(one: World) -> None:
        first = await home(one)
        for node in one.nodes.watches:
            one.fakes.then(node, sse(b": keep-alive\n\n", DIED) if node == first else sse(FIRST, SECOND))
        found = await one.chat(stream=True)
        assert found.content == b": keep-alive\n\n" + FIRST + SECOND
        assert found.headers["content-type"].startswith("text/event-stream")

    run(work)


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/v1/chat/completions", b'"code":"node_lost"}}\n\ndata: [DONE]\n\n'),
        ("/v1/completions", b'"code":"node_lost"}}\n\ndata: [DONE]\n\n'),
        ("/v1/responses", b'"param":null}\n\n'),
        ("/v1/messages", b'"The node that served this request was lost; please send it again."}}\n\n'),
    ],
)
def test_a_stream_that_has_begun_ends_with_an_error_and_is_sent_once(path: str, end: bytes) -> None:
    async def work(one: World) -> None:
        for node in one.nodes.watches:
            one.fakes.then(node, sse(FIRST, DIED))
        found = await one.client.post(path, json={"stream": True}, headers={"x-api-key": "sk-acme"})
        assert found.content.startswith(FIRST) and found.content.endswith(end)
        assert len(one.fakes.asked) == 1
        assert b"broken_streams_total 1.0" in one.nodes.metrics.text()

    run(work)


def test_where_every_node_fails_the_last_word_is_retryable_and_tries_are_bounded() -> None:
    async def work(one: World) -> None:
        for node in one.nodes.watches:
            one.fakes.then(node, *[DIED] * 9)
        found = await one.chat()
        assert found.status_code == 503 and found.headers["retry-after-ms"]
        assert len(one.fakes.asked) == 3

    run(work)


def test_a_customers_own_errors_are_not_tried_elsewhere() -> None:
    async def work(one: World) -> None:
        first = await home(one)
        for status in (400, 401, 404, 413, 429):
            one.fakes.then(first, httpx2.Response(status, json={"error": {"code": "x"}}))
            assert (await one.chat()).status_code == status
        assert one.fakes.asked == [first] * 5
        assert one.nodes.fleet.nodes[first].takes(0)

    run(work)


def test_a_lost_node_ends_tries_that_hear_nothing() -> None:
    async def work(one: World) -> None:
        first, silence = await home(one), asyncio.Event()

        async def silent(request: httpx2.Request) -> httpx2.Response:
            one.nodes.watches[first].lost()
            await silence.wait()
            raise AssertionError

        one.fakes.then(first, silent)
        assert (await one.chat()).json()["node"] != first
        assert one.nodes.fleet.nodes[first].state is NodeState.DOWN

    run(work)


def test_a_client_that_leaves_ends_the_work_and_blames_nobody() -> None:
    async def work(one: World) -> None:
        first, begun = await home(one), asyncio.Event()

        async def slow(request: httpx2.Request) -> httpx2.Response:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        one.fakes.then(first, slow)
        asked = asyncio.create_task(one.chat())
        await begun.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        node = one.nodes.fleet.nodes[first]
        assert (node.in_flight, node.failures) == (0, 0)

    run(work)


def test_no_node_at_all_is_one_clear_sentence() -> None:
    async def work(one: World) -> None:
        for name in one.nodes.watches:
            one.nodes.hold(name, held=True)
        found = await one.chat()
        assert found.status_code == 503 and "please try again" in found.json()["error"]["message"]
        assert (await one.client.get("/health")).status_code == 503
        assert one.fakes.seen == []

    run(work)


def test_models_decide_which_nodes_there_are() -> None:
    async def work(one: World) -> None:
        one.nodes.watches["b"].models = frozenset({"other"})
        for n in range(12):
            await one.chat(agent=f"s{n}/1", model="other")
        assert set(one.fakes.asked) == {"b"}
        found = await one.chat(model="unknown")
        assert found.status_code == 404 and found.json()["error"]["code"] == "model_not_found"

    run(work)


def test_one_tenants_agents_say_nothing_of_anothers() -> None:
    async def work(one: World) -> None:
        one.nodes.fleet.places.put(("acme", "s/1"), "s", 900, "b", NOTHING._replace(device=900))
        await one.chat(key="sk-acme")
        assert one.fakes.asked == ["b"]
        metrics = one.nodes.metrics.text()
        assert b"stepwell_router_held_tokens_total 900.0" in metrics
        await one.chat(key="sk-blue")
        assert b"stepwell_router_left_tokens_total 0.0" in one.nodes.metrics.text()

    run(work)


def test_a_stored_response_is_continued_where_it_lies_also_after_a_restart() -> None:
    async def made(request: httpx2.Request) -> httpx2.Response:
        return answer(request.url.host, id="resp_1")

    async def work(one: World) -> None:
        headers = {"authorization": "Bearer sk-acme"}
        for node in one.nodes.watches:
            one.fakes.then(node, made)
        node = (await one.client.post("/v1/responses", json={"input": "x"}, headers=headers)).json()["node"]
        one.fakes.scripts.clear()
        for _ in range(4):
            more = {"input": "y", "previous_response_id": "resp_1"}
            assert (await one.client.post("/v1/responses", json=more, headers=headers)).json()["node"] == node
        one.nodes.relay.responses.clear()
        one.fakes.seen.clear()
        for other in one.nodes.watches:
            one.fakes.then(other, answer(other) if other == node else httpx2.Response(404, json={}))
        more = {"input": "z", "previous_response_id": "resp_1"}
        assert (await one.client.post("/v1/responses", json=more, headers=headers)).json()["node"] == node
        looked = [request for _, request in one.fakes.seen if request.method == "GET"]
        assert {request.headers["authorization"] for request in looked} == {"Bearer sk-acme"}

    run(work)


def test_documents_have_one_home_and_requests_that_name_them_go_there() -> None:
    async def work(one: World) -> None:
        headers = {"authorization": "Bearer sk-acme"}
        await one.client.get("/v1/files", headers=headers)
        where = one.fakes.asked[0]
        part = {"type": "file", "file": {"file_id": "file-1"}}
        for n in range(6):
            await one.chat(agent=f"x{n}/1", messages=[{"role": "user", "content": [part]}])
            await one.client.post("/v1/batches", json={}, headers=headers)
            await one.client.post("/v1/conversations", json={}, headers=headers)
            named = {"input": "x", "conversation": f"conv_{n}"}
            await one.client.post("/v1/responses", json=named, headers=headers)
            await one.client.post("/v1beta/cachedContents", json={}, headers=headers)
            await one.client.post("/v1beta/models/null:generateContent", json={}, headers=headers)
        assert set(one.fakes.asked) == {where}
        one.nodes.hold(where, held=True)
        found = await one.chat(messages=[{"role": "user", "content": [part]}])
        assert found.status_code == 503 and "holds what this request names" in found.text

    run(work)
