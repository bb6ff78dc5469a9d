"""Steps to execution: an agent's blocks are worth the more the fewer turns stand before its own."""

from __future__ import annotations

from typing import Final

from stepwell.policy.eviction.base import EvictionContext
from stepwell.policy.eviction.baselines.by_agent import AgentHolder, AgentKey, ByAgent
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import Wait

_LONGEST_CHAIN: Final = 16
_PERSON_STEPS: Final = 1_000
_FINISHED, _UNKNOWN, _KNOWN = 0, 1, 2


class Steps(ByAgent):
    """KVFlow, fed by hints: finished agents first, then agents without a hint, least recently
    used; then the agent with most steps before it. A waiting tool is one step, a person very many, and
    an agent that is called after another one comes one step after it."""

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self._awaits: dict[AgentKey, AgentKey] = {}
        self._followers: dict[AgentKey, dict[AgentKey, None]] = {}

    def agent_active(self, holder: AgentRecord) -> None:
        key = (holder.tenant, holder.agent)
        self._unfollow(key)
        super().agent_active(holder)
        self._tell_followers(key)

    def agent_idle(self, holder: AgentRecord) -> None:
        key = (holder.tenant, holder.agent)
        self._unfollow(key)
        if holder.hint.wait in (Wait.AGENT, Wait.CHILD) and holder.hint.after_agent:
            awaited = (holder.tenant, holder.hint.after_agent)
            self._awaits[key] = awaited
            self._followers.setdefault(awaited, {})[key] = None
        super().agent_idle(holder)
        self._tell_followers(key)

    def agent_forgotten(self, holder: AgentRecord) -> None:
        self._unfollow((holder.tenant, holder.agent))
        super().agent_forgotten(holder)

    def warmth(self, holder: AgentHolder) -> tuple[int, ...]:
        used_us = holder.record.last_use_us
        if holder.active:
            return _KNOWN, 0, used_us
        if holder.record.hint.wait is Wait.DONE:
            return _FINISHED, 0, used_us
        steps = self._steps_of(holder)
        return (_UNKNOWN, 0, used_us) if steps is None else (_KNOWN, -steps, used_us)

    def _steps_of(self, holder: AgentHolder) -> int | None:
        """Turns before the agent's own, along the chain of waits; None: not known."""
        chain = [holder.key]
        while not holder.active and len(chain) <= _LONGEST_CHAIN:
            awaited = self._awaits.get(holder.key)
            if awaited is None or awaited not in self.holders or awaited in chain:
                return _end_of_chain(len(chain), holder.record.hint.wait)
            chain.append(awaited)
            holder = self.holders[awaited]
        return len(chain) - 1

    def _unfollow(self, key: AgentKey) -> None:
        awaited = self._awaits.pop(key, None)
        if awaited is not None:
            del self._followers[awaited][key]
            if not self._followers[awaited]:
                del self._followers[awaited]

    def _tell_followers(self, key: AgentKey) -> None:
        """Rank anew the agents that wait for this one, and the agents that wait for those."""
        told, latest = {key: None}, [key]
        for _ in range(_LONGEST_CHAIN):
            latest = [f for one in latest for f in self._followers.get(one, ()) if f not in told]
            for follower in latest:
                told[follower] = None
                if follower in self.holders:
                    self.rerank(self.holders[follower])


def _end_of_chain(length: int, wait: Wait) -> int | None:
    """Steps when the last of ``length`` agents waits for no agent that is known here."""
    if wait is Wait.UNKNOWN:
        return None if length == 1 else length
    return length - 1 + (_PERSON_STEPS if wait in (Wait.PERSON, Wait.DONE) else 1)
