"""Watching a node: whether it takes turns, which models it has, and where its agents lie.

A closed port means that the process is gone, and everything under way there ends at once. A node that is only
slow to answer has several chances: under load that is normal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from stepwell.fleet.state import Fleet
from stepwell.fleet.types import NodeState
from stepwell.gateway.feed import Feed, frames
from stepwell.gateway.upstream import NodeLost, Upstream
from stepwell.loop.rarely import Rarely

log = logging.getLogger("stepwell.gateway")
FEED_SILENCE_S = 30.0
FEED_AGAIN_S = 1.0
NO_FEED_AGAIN_S = 60.0
"""A node that has no feed may be another program when it has been started again."""


class _NoFeed(Exception):
    """The node does not know where its agents lie (vLLM's does not)."""


class NodeWatch:
    """One node. ``models`` is what it serves, once it has said so."""

    def __init__(
        self,
        name: str,
        fleet: Fleet,
        upstream: Upstream,
        *,
        every_s: float,
        timeout_s: float,
        failures: int,
        headers: Mapping[str, str] | None,
        keeps_disk: bool,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``headers`` carry an operator's key; None: there is none, and where agents lie stays unknown.
        ``keeps_disk``: what it has on disk is there again after a restart. ``changed`` is told of every new
        state."""
        self.name, self._fleet, self._upstream = name, fleet, upstream
        self._every_s, self._timeout_s, self._most_failures = every_s, timeout_s, failures
        self._headers, self._keeps_disk, self._changed = headers, keeps_disk, changed
        self.models: frozenset[str] = frozenset()
        self.root = ""
        self.held = False
        """Kept from new turns by an operator, or for a restart; whatever its health says."""
        self._failures = 0
        self._wake = asyncio.Event()
        self._rarely = Rarely(log)

    def suspect(self) -> None:
        """A request got no answer: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        feed = asyncio.create_task(self._follow()) if self._headers is not None else None
        try:
            while True:
                await self.look()
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._every_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(min(0.05, self._every_s))  # many may suspect it at once
        finally:
            if feed is not None:
                feed.cancel()
                await asyncio.gather(feed, return_exceptions=True)

    async def look(self) -> None:
        """Ask it once."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status, _ = await self._upstream.get_json(self.name, "/health", timeout_s=self._timeout_s)
                if status == 200 and not self.models:
                    await self._ask_models()
        except NodeLost as error:
            if not error.connected:
                self.lost()
                return
            status = 0
        except TimeoutError:
            status = 0
        if status == 0:
            self._failures += 1
            if self._failures >= self._most_failures:
                self.lost()
            return
        self._failures = 0
        well = status == 200 and bool(self.models) and not self.held
        self._set(NodeState.READY if well else NodeState.DRAINING)

    def lost(self) -> None:
        """Its process has ended, or nothing of it can be reached."""
        self._failures = 0
        node = self._fleet.nodes[self.name]
        if node.state in (NodeState.DOWN, NodeState.STARTING):
            return
        self._fleet.lost(self.name, keep_disk=self._keeps_disk)
        self.models = frozenset()
        self._upstream.lose(self.name)
        log.warning("node %s is lost: what it was doing goes on elsewhere", self.name)
        self._changed()

    def _set(self, state: NodeState) -> None:
        if self._fleet.nodes[self.name].state is not state:
            self._fleet.state(self.name, state)
            log.info("node %s is %s", self.name, state.value)
            self._changed()

    async def _ask_models(self) -> None:
        status, listed = await self._upstream.get_json(
            self.name, "/v1/models", self._headers, self._timeout_s
        )
        if status != 200 or not isinstance(listed, dict):
            self._complain(f"/v1/models answered {status}: is [front] operator_key an operator's key of it?")
            return
        self.models = frozenset(str(one["id"]) for one in listed["data"])
        self.root = str(listed["data"][0].get("root", "")) if listed["data"] else ""

    async def _follow(self) -> None:
        """Its agents, for as long as it tells. Where it never does, agents have their node by their names."""
        feed, told = Feed(self._fleet, self.name), True
        while True:
            if self._fleet.nodes[self.name].state is NodeState.READY:
                try:
                    await self._read(feed)
                except _NoFeed:
                    if told:
                        log.info("node %s does not say where its agents lie", self.name)
                    told = False
                except (NodeLost, ValueError, KeyError, TypeError) as error:
                    self._complain(f"/v1/watch ended: {error}")
                else:
                    told = True
            await asyncio.sleep(FEED_AGAIN_S if told else NO_FEED_AGAIN_S)

    async def _read(self, feed: Feed) -> None:
        assert self._headers is not None
        opened = self._upstream.open(
            self.name, "GET", "/v1/watch", self._headers.items(), timeout_s=FEED_SILENCE_S
        )
        async with opened as response:
            if response.status_code == 404:
                raise _NoFeed
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            async for kind, frame in frames(response.aiter_raw()):
                feed.take(kind, frame)

    def _complain(self, what: str) -> None:
        self._rarely.warning(time.monotonic_ns() // 1_000, f"node {self.name}", ValueError(what))
