"""Where the agents' KV lies. What nodes report replaces what was assumed since the last report."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.types import AgentName, HeldTokens

Session = tuple[str, str]
_SHARED_AT_FIRST = 0.5
_LEARN = 0.1


@dataclass(slots=True)
class AgentPlace:
    """One agent."""

    session: str = ""
    context_tokens: int = 0
    held: dict[str, HeldTokens] = field(default_factory=dict)
    """By node."""


class Places:
    """At most ``max_agents`` agents; the one that was heard of longest ago is forgotten first. Forgetting one
    costs a worse choice and never a wrong answer."""

    def __init__(self, max_agents: int = 1_000_000) -> None:
        self._max_agents = max_agents
        self._agents: OrderedDict[AgentName, AgentPlace] = OrderedDict()
        self._sessions: dict[Session, dict[str, int]] = {}
        """How many of a session's agents have KV on each node."""
        self._on: dict[str, dict[AgentName, None]] = {}
        """The agents with KV on each node, so that what one node says costs nothing for the others'."""
        self._shared: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._agents)

    def find(self, name: AgentName) -> AgentPlace | None:
        return self._agents.get(name)

    def of_session(self, tenant: str, session: str) -> Mapping[str, int]:
        """Agents with KV, by node."""
        return self._sessions.get((tenant, session), {})

    def shared_fraction(self, tenant: str) -> float:
        """Of a new agent's first prompt, what a node that knows its session is likely to have."""
        return self._shared.get(tenant, _SHARED_AT_FIRST)

    def learn_shared(self, tenant: str, cached_tokens: int, prompt_tokens: int) -> None:
        """A new agent's first turn ended on a node that knew its session."""
        seen = min(1.0, cached_tokens / max(1, prompt_tokens))
        self._shared[tenant] = (1 - _LEARN) * self.shared_fraction(tenant) + _LEARN * seen

    def put(self, name: AgentName, session: str, context_tokens: int, node: str, held: HeldTokens) -> None:
        """The agent has ``held`` on ``node``; what it has elsewhere stays as it was."""
        place = self._agents.get(name)
        if place is None:
            place = self._agents[name] = AgentPlace(session)
            while len(self._agents) > self._max_agents:
                self._forget(next(iter(self._agents)))
        else:
            self._agents.move_to_end(name)
        if place.session != session:
            for there in place.held:
                self._count(name[0], place.session, there, -1)
                self._count(name[0], session, there, +1)
            place.session = session
        place.context_tokens = context_tokens
        self._set(name, place, node, held)

    def gone(self, name: AgentName, node: str) -> None:
        """The node no longer knows the agent."""
        place = self._agents.get(name)
        if place is not None:
            self._set(name, place, node, NOTHING)
            if not place.held:
                self._forget(name)

    def replace(self, node: str, rows: Iterable[tuple[AgentName, str, int, HeldTokens]]) -> None:
        """All that a node has: name, session, context tokens, held. What is not named is not there."""
        told = set()
        for name, session, context_tokens, held in rows:
            told.add(name)
            self.put(name, session, context_tokens, node, held)
        for name in [name for name in self._on.get(node, ()) if name not in told]:
            self.gone(name, node)

    def lost(self, node: str, *, keep_disk: bool = False) -> None:
        """The node's process is gone, and with it device and host; its disk may come back with it."""
        for name in list(self._on.get(node, ())):
            place = self._agents[name]
            disk = place.held[node].disk if keep_disk else 0
            self._set(name, place, node, NOTHING._replace(disk=disk))

    def _set(self, name: AgentName, place: AgentPlace, node: str, held: HeldTokens) -> None:
        was = node in place.held
        if any(held):
            place.held[node] = held
            if not was:
                self._on.setdefault(node, {})[name] = None
                self._count(name[0], place.session, node, +1)
        elif was:
            del place.held[node]
            del self._on[node][name]
            self._count(name[0], place.session, node, -1)

    def _count(self, tenant: str, session: str, node: str, change: int) -> None:
        if not session:
            return
        key = (tenant, session)
        counts = self._sessions.setdefault(key, {})
        counts[node] = counts.get(node, 0) + change
        if counts[node] <= 0:
            del counts[node]
        if not counts:
            del self._sessions[key]

    def _forget(self, name: AgentName) -> None:
        place = self._agents.pop(name)
        for node in place.held:
            del self._on[node][name]
            self._count(name[0], place.session, node, -1)
