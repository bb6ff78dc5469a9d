"""What a node tells in ``/v1/watch`` is what the front end knows of it, also after broken frames."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import HeldTokens, NodeState
from stepwell.gateway import health
from stepwell.gateway.feed import Feed, frames
from stepwell.server.watch.frames import differences
from tests.gateway.fakes import sse, world

names = st.sampled_from([("acme", "s/1"), ("acme", "s/2"), ("acme", "t/1"), ("blue", "s/1")])
counts = st.integers(0, 3)
pictures = st.lists(
    st.dictionaries(names, st.tuples(counts, counts, counts), max_size=4), min_size=1, max_size=6
)


def row(name: tuple[str, str], kv: tuple[int, int, int]) -> dict[str, Any]:
    tokens = dict(zip(("device", "host", "disk"), kv, strict=True))
    return {
        "id": name[1],
        "tenant": name[0],
        "session_id": name[1].split("/")[0],
        "context_tokens": sum(kv),
        "kv_tokens": {**tokens, "gone": 0},
    }


@settings(max_examples=60, deadline=None)
@given(pictures, st.integers(0, 5))
def test_after_every_frame_the_places_are_the_pictures(
    told: list[dict[tuple[str, str], tuple[int, int, int]]], missed: int
) -> None:
    """Differences are made by the server's own code; a frame that was missed is followed by a full one."""
    fleet = Fleet(("a", "b"))
    fleet.places.put(("acme", "s/1"), "s", 5, "b", NOTHING._replace(disk=5))
    feed, before = Feed(fleet, "a"), {}
    for number, picture in enumerate(told):
        rows = {name: row(name, kv) for name, kv in picture.items()}
        if number in (0, missed):
            feed.take("full", {"agents": list(rows.values())})
        else:
            changed, gone = differences(before, rows, with_tenant=True)
            feed.take("diff", {"agents": {"changed": changed, "gone": gone}})
        before = rows
        for name in [("acme", "s/1"), ("acme", "s/2"), ("acme", "t/1"), ("blue", "s/1")]:
            place = fleet.places.find(name)
            held = place.held.get("a", NOTHING) if place else NOTHING
            assert held == HeldTokens(*picture.get(name, (0, 0, 0)))
    other = fleet.places.find(("acme", "s/1"))
    assert other is not None and other.held["b"] == NOTHING._replace(disk=5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_events_are_read_however_they_are_cut(sizes: list[int]) -> None:
    text = b': hi\n\nevent: full\nid: 1\ndata: {"seq":1}\n\nevent: diff\nid: 2\ndata: {"seq":2,"x":"\\n"}\n\n'

    async def cut() -> AsyncIterator[bytes]:
        at = 0
        for size in [*sizes, len(text)]:
            yield text[at : at + size]
            at += size

    async def go() -> list[tuple[str, dict[str, Any]]]:
        return [frame async for frame in frames(cut())]

    assert asyncio.run(go()) == [("full", {"seq": 1}), ("diff", {"seq": 2, "x": "\n"})]


def test_a_new_front_end_knows_where_agents_lie_after_one_frame_and_what_a_node_has_to_do() -> None:
    told = b'event: full\ndata: {"agents":[{"id":"s/1","tenant":"acme","session_id":"s","context_tokens":9,'
    told += b'"kv_tokens":{"device":0,"host":0,"disk":9,"gone":0}}],"requests":{"running":2,"waiting":3}}\n\n'

    async def go() -> None:
        async with world() as one:
            one.fakes.then("b", sse(told))
            watch = one.nodes.watches["b"]
            await watch._read(Feed(one.nodes.fleet, "b"))
            await one.chat()
            assert one.nodes.fleet.nodes["b"].reported_turns == 5
            place = one.nodes.fleet.places.find(("acme", "s/1"))
            assert place is not None and place.held["b"] == NOTHING._replace(disk=9)
            assert one.fakes.seen[0][1].headers["authorization"] == "Bearer sk-ops"

    asyncio.run(go())


def test_a_node_without_a_feed_takes_turns_and_is_not_complained_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As vLLM behind a front end of ours: an agent has its node all the same, by its name."""
    monkeypatch.setattr(health, "FEED_AGAIN_S", 0)
    monkeypatch.setattr(health, "NO_FEED_AGAIN_S", 0)
    caplog.set_level(logging.INFO, "stepwell.gateway")

    async def go() -> None:
        async with world("a") as one:
            tried, enough = 0, asyncio.Event()

            async def none(request: httpx2.Request) -> httpx2.Response:
                nonlocal tried
                tried += 1
                if tried == 3:
                    enough.set()
                return httpx2.Response(404, json={})

            one.fakes.then("a", *[none] * 50)
            follower = asyncio.create_task(one.nodes.watches["a"]._follow())
            await enough.wait()
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            one.fakes.scripts.clear()
            assert (await one.chat()).status_code == 200

    asyncio.run(go())
    said = [record.getMessage() for record in caplog.records if record.name == "stepwell.gateway"]
    assert said == ["node a does not say where its agents lie"]


@pytest.mark.parametrize("bad", [b"event: full\ndata: [1]\n\n", b"event: full\ndata: {\n\n"])
def test_what_is_no_frame_ends_the_feed_and_nothing_else(bad: bytes) -> None:
    async def go() -> None:
        async with world() as one:
            one.fakes.then("a", sse(bad))
            with pytest.raises(ValueError):
                await one.nodes.watches["a"]._read(Feed(one.nodes.fleet, "a"))
            assert (await one.chat()).status_code == 200

    asyncio.run(go())


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ([httpx2.ConnectError("x")], NodeState.DOWN),
        ([httpx2.ReadTimeout("x")] * 2, NodeState.READY),
        ([httpx2.ReadTimeout("x")] * 3, NodeState.DOWN),
        ([httpx2.Response(503, json={"status": "draining"})], NodeState.DRAINING),
        ([httpx2.Response(503, json={}), httpx2.Response(200, json={})], NodeState.READY),
    ],
)
def test_health(answers: list[Any], state: NodeState) -> None:
    async def go() -> None:
        async with world() as one:
            one.fakes.then("a", *answers)
            for _ in answers:
                await one.nodes.watches["a"].look()
            assert one.nodes.fleet.nodes["a"].state is state

    asyncio.run(go())


def test_a_node_that_comes_back_says_its_models_first() -> None:
    async def go() -> None:
        async with world("a") as one:
            watch = one.nodes.watches["a"]
            one.fakes.then("a", httpx2.ConnectError("x"))
            await watch.look()
            models = httpx2.Response(200, json={"data": [{"id": "new", "root": "new"}]})
            one.fakes.then("a", httpx2.Response(200, json={}), models)
            await watch.look()
            assert one.nodes.fleet.nodes["a"].state is NodeState.READY and watch.models == {"new"}

    asyncio.run(go())


@pytest.mark.parametrize(
    ("token_bytes", "tiers", "expected"),
    [
        (
            10,
            {"device": {"limit_bytes": 1_000}, "host": {"limit_bytes": 505}, "disk": {"agent_tokens": 0}},
            150,
        ),
        (0, {"device": {"limit_bytes": 1_000}}, None),
        (10, {"device": {"limit_bytes": 0}}, None),
        ("10", [], None),
    ],
)
def test_the_room_for_kv_is_what_the_node_says(token_bytes: Any, tiers: Any, expected: int | None) -> None:
    fleet = Fleet(("a",))
    Feed(fleet, "a").take("full", {"agents": [], "kv_tiers": tiers, "kv_token_bytes": token_bytes})
    assert fleet.nodes["a"].kv_tokens == expected
