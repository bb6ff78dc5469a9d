"""Bodies that come in slowly, or in masses, keep neither memory nor a place of others at the front end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2

from stepwell.gateway.front import Front
from stepwell.server.settings import ServerSettings
from tests.gateway.fakes import World, world

MIB = 2**20
LIMITS = ServerSettings(
    max_body_bytes=2 * MIB, max_bodies_bytes=4 * MIB, max_bodies_per_tenant=6, body_timeout_s=600.0
)
URL = "/v1/chat/completions"


def who(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{tenant}"}


async def slow(size: int, begun: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """A body of which all but the end comes at once."""
    yield b'{"model":"m","messages":[],"zzz":"' + b"x" * size
    begun.set()
    await go_on.wait()
    yield b'"}'


async def begun(one: World, tenant: str, size: int, go_on: asyncio.Event) -> asyncio.Task[httpx2.Response]:
    """A request whose body has come in but for its end, or that was refused."""
    event = asyncio.Event()
    post = one.client.post(URL, content=slow(size, event, go_on), headers=who(tenant))
    task = asyncio.ensure_future(post)
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return task


def front_of(one: World) -> Front:
    transport = one.client._transport
    assert isinstance(transport, httpx2.ASGITransport)
    front = transport.app.state.service  # type: ignore[attr-defined]
    assert isinstance(front, Front)
    return front


def test_bodies_of_one_tenant_leave_room_for_the_others() -> None:
    async def go() -> None:
        async with world(limits=LIMITS) as one:
            go_on = asyncio.Event()
            tasks = [await begun(one, "acme", MIB, go_on) for _ in range(4)]
            assert front_of(one).bodies.used_bytes <= 2 * MIB
            other = await one.client.post(URL, json={"zzz": "x" * MIB}, headers=who("blue"))
            assert other.status_code == 200
            go_on.set()
            statuses = sorted([(await task).status_code for task in tasks])
            assert statuses == [200, 200, 429, 429]
            assert front_of(one).bodies.used_bytes == 0

    asyncio.run(go())


def test_slow_bodies_of_one_tenant_are_counted_however_small() -> None:
    async def go() -> None:
        async with world(limits=LIMITS) as one:
            go_on = asyncio.Event()
            tasks = [await begun(one, "acme", 1, go_on) for _ in range(8)]
            assert (await one.chat(key="sk-blue")).status_code == 200
            go_on.set()
            statuses = sorted([(await task).status_code for task in tasks])
            assert statuses == [200] * 6 + [429] * 2
            assert (await one.chat()).status_code == 200

    asyncio.run(go())


def test_a_turn_that_has_a_node_takes_no_room_and_one_without_does() -> None:
    async def go() -> None:
        async with world("a", limits=LIMITS) as one:
            asked, hold = asyncio.Event(), asyncio.Event()

            async def held(request: httpx2.Request) -> httpx2.Response:
                asked.set()
                await hold.wait()
                return httpx2.Response(200, json={})

            one.fakes.then("a", held)
            body = json.dumps({"model": "m", "zzz": "x" * MIB}).encode()
            task = asyncio.ensure_future(one.client.post(URL, content=body, headers=who("acme")))
            await asked.wait()
            assert front_of(one).bodies.used_bytes == 0
            hold.set()
            assert (await task).status_code == 200

    asyncio.run(go())


def test_bodies_that_are_too_large_or_too_slow_are_refused_in_the_words_of_a_node() -> None:
    async def go() -> None:
        soon = ServerSettings(max_body_bytes=2 * MIB, body_timeout_s=0.01)
        async with world(limits=soon) as one:
            large = await one.client.post(URL, content=b"x" * (2 * MIB + 1), headers=who("acme"))
            assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
            late = await (await begun(one, "acme", 1, asyncio.Event()))
            assert (late.status_code, late.json()["error"]["code"]) == (408, "request_timeout")
            assert one.fakes.asked == [] and front_of(one).bodies.used_bytes == 0
            budget = {"content": b"x" * (2 * MIB + 1), "headers": who("ops")}
            assert (await one.client.post("/admin/budgets", **budget)).status_code == 413

    asyncio.run(go())
