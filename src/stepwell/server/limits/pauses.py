"""Sessions that have reached their budget: paused, with everything kept, until it is raised."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from stepwell.loop.port import LoopPort
from stepwell.loop.requests import Generation
from stepwell.loop.snapshot import AgentView
from stepwell.policy.types import Hint, Wait
from stepwell.server.backends.agent_lists import AgentLists

REFUSED = "session_budget_exceeded"
MAX_PAUSED = 10_000
SETTLED = (Wait.PERSON, Wait.DONE)


class Pauses:
    """Which sessions were refused something since their budget was raised last. Lives in the event loop.

    In memory only: after a restart a session counts as paused once its whole budget is spent, or when it is
    refused again.
    """

    def __init__(self, driver: LoopPort, agents: AgentLists) -> None:
        self._driver = driver
        self._agents = agents
        self._told: OrderedDict[tuple[str, str], set[str]] = OrderedDict()
        """By tenant and session: the agents of which the policy was told."""

    def __contains__(self, session: tuple[str, str]) -> bool:
        return session in self._told

    def over(self, tenant: str, session: str) -> None:
        """The session goes on."""
        self._told.pop((tenant, session), None)

    async def refused(self, turn: Generation) -> None:
        """A turn was refused for want of its session's budget: its agents wait for a person now, and their
        KV may sink. Nothing is dropped that would not be dropped for any agent that waits so."""
        caller = turn.caller
        name = caller.tenant, caller.session
        first = name not in self._told
        told = self._told.setdefault(name, set())
        self._told.move_to_end(name)
        while len(self._told) > MAX_PAUSED:
            self._told.popitem(last=False)
        for view in await self._whom(turn, first=first):
            if view.agent not in told and self._tell(view, came_back=view.agent == caller.agent):
                told.add(view.agent)

    async def _whom(self, turn: Generation, *, first: bool) -> Sequence[AgentView]:
        """All agents of the session, or, when they know already, the one that has tried again."""
        caller = turn.caller
        if first:
            views = await self._agents.all()
            return [v for v in views if (v.tenant, v.session) == (caller.tenant, caller.session)]
        view = (
            await asyncio.to_thread(self._driver.agent, caller.tenant, caller.agent) if caller.agent else None
        )
        return [] if view is None else [view]

    def _tell(self, view: AgentView, *, came_back: bool) -> bool:
        """What is said about an agent counts, unless it has come back from what it waited for."""
        wait = view.hint.wait
        if view.state != "idle" or wait in SETTLED or not (came_back or wait is Wait.UNKNOWN):
            return False
        hint: Hint = replace(view.hint, wait=Wait.PERSON, expected_us=None, after_agent=None)
        self._driver.hint(0, view.tenant, view.agent, hint)
        return True
