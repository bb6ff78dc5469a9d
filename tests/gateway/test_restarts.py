"""A rolling restart: one node at a time, drained before and ready again after, and turns go on meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.types import NodeState
from stepwell.gateway.deployment import Deployment, EngineTable, FrontTable
from stepwell.gateway.nodes import Nodes
from stepwell.gateway.processes import NodeProcess
from stepwell.server.callers.keys import KeyRing
from tests.gateway.fakes import WEIGHTS, FakeNodes

MODELS = {"data": [{"id": "m", "root": "m"}]}


class FakeProcess(NodeProcess):
    """Runs at once, and notes what the fleet looked like when it was stopped."""

    running = False
    world: tuple[Nodes, list[Any]]

    def start(self) -> None:
        self.running, self.starts = True, self.starts + 1

    def alive(self) -> bool:
        return self.running

    async def stop(self, within_s: float) -> None:
        nodes, log = self.world
        states = {name: node.state for name, node in nodes.fleet.nodes.items()}
        log.append((self.name, states, nodes.fleet.nodes[self.name].in_flight))
        self.running = False


def started(tmp_path: Path, names: tuple[str, ...]) -> tuple[Nodes, list[Any]]:
    fakes, log = FakeNodes(), list[Any]()

    async def answer(request: httpx2.Request) -> httpx2.Response:
        process = nodes.supervisors[request.url.host].process
        if not process.alive():
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, json=MODELS if request.url.path == "/v1/models" else {})

    engines = tuple(EngineTable(name, kind="null") for name in names)
    front = FrontTable(operator_key="sk-ops", health_every_s=0.01)
    nodes = Nodes(Deployment(engines, front, dir=tmp_path), KeyRing(), WEIGHTS, transport=fakes)
    for name in names:
        fakes.then(name, *[answer] * 10_000)
        process = FakeProcess(name, tmp_path, "127.0.0.1", 1, {})
        process.world = (nodes, log)
        process.start()
        nodes.supervisors[name].process = process
        nodes.upstream.urls[name] = f"http://{name}:1"
    return nodes, log


async def watched(nodes: Nodes) -> list[asyncio.Task[None]]:
    for watch in nodes.watches.values():
        watch._headers = None  # no feed: this is about health
        await watch.look()
    return [asyncio.create_task(watch.run()) for watch in nodes.watches.values()]


async def ended(nodes: Nodes, tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await nodes.upstream.close()


def test_nodes_are_restarted_one_after_the_other(tmp_path: Path) -> None:
    async def go() -> None:
        nodes, log = started(tmp_path, ("a", "b", "c"))
        tasks = await watched(nodes)
        nodes.fleet.places.put(("acme", "1"), "s", 10, "a", NOTHING._replace(device=4, disk=6))
        assert nodes.roll() and not nodes.roll()
        assert nodes._rolling is not None
        await asyncio.wait_for(nodes._rolling, 60)
        assert [name for name, _, _ in log] == ["a", "b", "c"]
        for name, states, in_flight in log:
            assert states[name] is NodeState.DRAINING and in_flight == 0
            assert all(state is NodeState.READY for other, state in states.items() if other != name)
        assert all(node.state is NodeState.READY for node in nodes.fleet.nodes.values())
        assert all(one.process.starts == 2 for one in nodes.supervisors.values())
        place = nodes.fleet.places.find(("acme", "1"))
        assert place is not None and place.held == {"a": NOTHING._replace(disk=6)}
        await ended(nodes, tasks)

    asyncio.run(go())


def test_the_only_node_is_not_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        nodes, log = started(tmp_path, ("a",))
        tasks = await watched(nodes)
        assert nodes.roll() and nodes._rolling is not None
        await asyncio.wait_for(nodes._rolling, 60)
        assert log == [] and "no other node would take its turns" in caplog.text
        await ended(nodes, tasks)

    asyncio.run(go())
