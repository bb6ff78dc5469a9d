"""Which groups look to which agent: those it will wake when it answers, and its children."""

from __future__ import annotations

from typing import Final

from stepwell.policy.eviction.agent_groups import Group

_MAX_FOLLOWERS: Final = 64


class Kin:
    """Groups by the agent they look to, of one tenant. Bounded both ways: the oldest agents go, and of more
    than a few that look to one agent the first are remembered."""

    def __init__(self, most_agents: int) -> None:
        self._most_agents = most_agents
        self._of: dict[tuple[str, str], list[Group]] = {}

    def add(self, tenant: str, agent: str, group: Group) -> None:
        """The group looks to that agent from now on."""
        key = (tenant, agent)
        if key not in self._of and len(self._of) >= self._most_agents:
            del self._of[next(iter(self._of))]
        known = self._of.setdefault(key, [])
        if group not in known and len(known) < _MAX_FOLLOWERS:
            known.append(group)

    def take(self, tenant: str, agent: str) -> list[Group]:
        """Take out all groups that look to the agent."""
        return self._of.pop((tenant, agent), [])
