"""All nodes of a deployment: started or attached, watched, drained, restarted one after the other."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from stepwell.errors import StepwellError
from stepwell.fleet.routers import ROUTERS
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import NodeState
from stepwell.gateway.deployment import Deployment, NodePlan, node_environment, plans
from stepwell.gateway.health import NodeWatch
from stepwell.gateway.metrics import GatewayMetrics
from stepwell.gateway.processes import NodeProcess, Supervisor
from stepwell.gateway.relay import Relay
from stepwell.gateway.upstream import Upstream
from stepwell.server.callers.keys import KeyRing

log = logging.getLogger("stepwell.gateway")
READY_S = 300.0
"""How long a node may take to load its model."""
LOOK_S = 0.05
KILL_AFTER_S = 60.0


class Nodes:
    """The nodes, and what is needed to reach them."""

    def __init__(
        self,
        deployment: Deployment,
        keys: KeyRing,
        weights: Mapping[str, int],
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        read_keys: Callable[[], KeyRing] | None = None,
    ) -> None:
        """``weights`` of service tiers; ``transport`` for tests; ``read_keys`` reads them again."""
        front = deployment.front
        self.deployment, self.keys = deployment, keys
        self._read_keys = read_keys
        self.fleet = Fleet(weights=weights, max_agents=front.max_agents)
        self.metrics = GatewayMetrics(self.fleet)
        self.upstream = Upstream(front.silence_s, transport=transport)
        self.relay = Relay(
            self.fleet,
            ROUTERS[front.router],
            self.upstream,
            self.metrics,
            tries=front.tries,
            patience_s=front.patience_s,
            suspect=lambda node: self.watches[node].suspect(),
        )
        self.watches: dict[str, NodeWatch] = {}
        self.supervisors: dict[str, Supervisor] = {}
        self.restarting: str | None = None
        """The node that is being restarted on purpose."""
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._rolling: asyncio.Task[None] | None = None
        for plan in plans(deployment):
            self._add(plan)

    def _add(self, plan: NodePlan) -> None:
        front = self.deployment.front
        self.fleet.add(plan.name, plan.engine.weight, NodeState.STARTING)
        key = self.deployment.operator_key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.watches[plan.name] = NodeWatch(
            plan.name,
            self.fleet,
            self.upstream,
            every_s=front.health_every_s,
            timeout_s=front.health_timeout_s,
            failures=front.failures,
            headers=headers,
            keeps_disk=True,
            changed=self._changed.set,
        )
        if plan.url is not None:
            self.upstream.urls[plan.name] = plan.url
            return
        environment = node_environment(self.deployment, plan, os.environ)
        folder = self.deployment.dir / plan.name
        process = NodeProcess(plan.name, folder, plan.engine.host, plan.port, environment)
        watch = self.watches[plan.name]
        restarted = self.metrics.restarts.labels(plan.name).inc
        self.supervisors[plan.name] = Supervisor(process, watch.lost, restarted)

    async def start(self) -> None:
        """Nodes of an earlier front end are taken over; all others start now, and are watched from now on.
        Raises ``StepwellError``."""
        for name, supervisor in self.supervisors.items():
            process = supervisor.process
            if not await asyncio.to_thread(process.adopt):
                process.start()
            self.upstream.urls[name] = process.url
        for watch in self.watches.values():
            self._tasks.append(asyncio.create_task(watch.run(), name=f"watch {watch.name}"))
        for supervisor in self.supervisors.values():
            self._tasks.append(asyncio.create_task(supervisor.run(), name=f"keep {supervisor.process.name}"))

    async def ready(self, wanted: int = 1) -> None:
        """Returns when so many nodes take turns."""
        while sum(node.state is NodeState.READY for node in self.fleet.nodes.values()) < wanted:
            self._changed.clear()
            await self._changed.wait()

    async def stop(self, *, stop_nodes: bool = True) -> None:
        """Nodes that were started here end too, unless they are to be left for the next front end."""
        for supervisor in self.supervisors.values():
            supervisor.stopping = True
        if self._rolling is not None:
            self._rolling.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if stop_nodes:
            within_s = self.deployment.front.drain_s + KILL_AFTER_S
            await asyncio.gather(*(one.process.stop(within_s) for one in self.supervisors.values()))
        await self.upstream.close()

    def reload_keys(self) -> None:
        """Raises ``BadInput``, and nothing has changed."""
        if self._read_keys is not None:
            self.keys.replace(self._read_keys())

    # --- operators ---------------------------------------------------------------------------------

    def hold(self, node: str, *, held: bool) -> None:
        """Keep a node from new turns, or let it have them again. ``KeyError`` for one that is not there."""
        watch = self.watches[node]
        watch.held = held
        if held and self.fleet.nodes[node].state is NodeState.READY:
            self.fleet.state(node, NodeState.DRAINING)
        watch.suspect()

    def roll(self) -> bool:
        """Restart the nodes that were started here, one after the other. False: that is under way already."""
        if self._rolling is not None and not self._rolling.done():
            return False
        self._rolling = asyncio.create_task(self._roll(), name="rolling restart")
        return True

    async def _roll(self) -> None:
        for name in list(self.supervisors):
            others = [node for other, node in self.fleet.nodes.items() if other != name]
            if not any(node.state is NodeState.READY for node in others):
                log.warning("node %s is not restarted: no other node would take its turns", name)
                continue
            self.restarting = name
            try:
                await self.restart(name)
            except (StepwellError, TimeoutError) as error:
                log.warning(
                    "the rolling restart ends at node %s: %s", name, str(error) or "it did not get ready"
                )
                return
            finally:
                self.restarting = None

    async def restart(self, name: str) -> None:
        """Drain, stop, start, and wait until it takes turns. What it had on disk is there again."""
        supervisor, node = self.supervisors[name], self.fleet.nodes[name]
        self.hold(name, held=True)
        try:
            async with supervisor.lock:
                drain_until = asyncio.get_running_loop().time() + self.deployment.front.drain_s
                while node.in_flight and asyncio.get_running_loop().time() < drain_until:
                    await asyncio.sleep(LOOK_S)
                await supervisor.process.stop(self.deployment.front.drain_s + KILL_AFTER_S)
                self.watches[name].lost()
                supervisor.process.start()
                self.metrics.restarts.labels(name).inc()
        finally:
            self.hold(name, held=False)
        async with asyncio.timeout(READY_S):
            while node.state is not NodeState.READY:
                self._changed.clear()
                await self._changed.wait()

    def view(self) -> dict[str, Any]:
        """What ``GET /admin/fleet`` shows."""
        now = {}
        for name, node in self.fleet.nodes.items():
            watch, supervisor = self.watches[name], self.supervisors.get(name)
            now[name] = {
                "state": node.state.value,
                "url": self.upstream.urls.get(name),
                "models": sorted(watch.models),
                "held": watch.held,
                "pid": None if supervisor is None else supervisor.process.pid,
                "starts": None if supervisor is None else supervisor.process.starts,
                "in_flight": node.in_flight,
                "turns": node.turns,
                "reported_turns": node.reported_turns,
                "failures": node.failures,
            }
        places = self.fleet.places
        return {
            "object": "fleet",
            "router": self.relay.router.name,
            "agents": len(places),
            "restarting": self.restarting,
            "nodes": now,
        }
