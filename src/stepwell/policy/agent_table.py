"""What is remembered of agents between their turns, and where their KV lies now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from stepwell.policy.block_index import Match
from stepwell.policy.turn_table import TurnTable
from stepwell.policy.turns import AgentRecord, Turn, TurnState
from stepwell.policy.types import Hint, Hinted, KvTier, RequestArrived

AgentKey = tuple[str, str]


class AgentTable:
    """Agents by (tenant, name), the longest unheard of first; bounded by ``max_agents``.

    A turn that does not name its agent belongs to the agent whose last prompt it goes on from, or to
    a new one called ``request-N``.
    """

    def __init__(self, table: TurnTable) -> None:
        self.table = table
        self.records: OrderedDict[AgentKey, AgentRecord] = OrderedDict()
        self._of_tenant: dict[str, OrderedDict[AgentKey, None]] = {}
        self._by_prompt: OrderedDict[bytes, AgentKey] = OrderedDict()
        """Agents without a name, by the hash of their last prompt."""

    def arrived(self, turn: Turn) -> None:
        record = turn.record
        record.hint, record.kept_by = turn.arrival.hint, None
        if record.idle_since_us is not None:
            record.idle_us += self.table.now_us - record.idle_since_us
        if not record.open_turns:
            record.last_use_us = self.table.now_us
            self.table.block_manager.eviction.agent_active(record)
        record.idle_since_us = None
        record.open_turns[turn.id] = None

    def ended(self, turn: Turn, *, served: bool) -> None:
        """Keep what the agent's next turn may continue. A turn that was not ``served`` is not paid for, and
        buys its context no time."""
        record = turn.record
        record.open_turns.pop(turn.id, None)
        if served:
            record.paid_us = turn.arrival.hint.retain_us
        kept_us = record.paid_us if record.kept_by is None else self._asked_us(record, record.kept_by)
        if kept_us != record.hint.retain_us:
            record.hint = replace(record.hint, retain_us=kept_us)
        record.turns += 1
        record.tokens, record.units, record.tail = turn.total, tuple(turn.units), turn.tail
        if not record.open_turns:
            record.active_us += self.table.now_us - record.last_use_us
            record.idle_since_us = record.last_use_us = self.table.now_us
            self.table.block_manager.eviction.agent_idle(record)

    def hinted(self, event: Hinted) -> None:
        """More is known about what an agent waits for."""
        record = self.records.get((event.tenant, event.agent)) if event.agent else self._last(event)
        if record is not None:
            record.hint = self._followed(record, event)
            if record.idle_since_us is not None:
                self.table.block_manager.eviction.agent_idle(record)

    def _followed(self, record: AgentRecord, event: Hinted) -> Hint:
        """What it says. For how long the context is kept, only turns and hints between them can say."""
        if event.request:
            return replace(event.hint, retain_us=record.hint.retain_us)
        record.kept_by = event
        return replace(event.hint, retain_us=self._asked_us(record, event))

    def _asked_us(self, record: AgentRecord, event: Hinted) -> int | None:
        """How long a hint keeps the context."""
        asked_us = event.hint.retain_us
        if asked_us is None or not event.paid_only:
            return asked_us
        return min(asked_us, self.paid_us(record) or 0) or None

    def paid_us(self, record: AgentRecord) -> int | None:
        """How long an agent's context is paid for: by all of its open turns, else by the latest one."""
        if not record.open_turns:
            return record.paid_us
        turns = [self.table.turns[request] for request in record.open_turns]
        return min(turn.arrival.hint.retain_us or 0 for turn in turns) or None

    def _last(self, event: Hinted) -> AgentRecord | None:
        """The agent without a name whose latest turn was ``event.request``: it has just been heard of."""
        for key in reversed(self._of_tenant.get(event.tenant, ())):
            if self.records[key].last_request == event.request:
                return self.records[key]
        return None

    def record_of(self, arrival: RequestArrived) -> AgentRecord:
        """The agent that calls; a new record if it is not known."""
        caller = arrival.caller
        key = (caller.tenant, caller.agent) if caller.agent else self._continued(arrival)
        record = self.records.get(key)
        if record is None:
            record = AgentRecord(
                caller.tenant, caller.service_tier, caller.session, key[1], caller.parent_agent
            )
            self.records[key] = record
            self._forget_oldest_agents(caller.tenant)
        record.service_tier, record.role = caller.service_tier, caller.role or record.role
        record.last_request = arrival.request
        record.unknown = not caller.agent and not record.role
        self.records.move_to_end(key)
        mine = self._of_tenant.setdefault(caller.tenant, OrderedDict())
        mine[key] = None
        mine.move_to_end(key)
        return record

    def _continued(self, arrival: RequestArrived) -> AgentKey:
        """The agent without a name whose last prompt this one begins with. Hashes are salted per tenant,
        so it is the same tenant's."""
        found = None
        for unit in reversed(arrival.units):
            found = self._by_prompt.pop(unit, None)
            if found is not None:
                break
        if found is None or found not in self.records:
            found = (arrival.caller.tenant, f"request-{arrival.request}")
        if arrival.units:
            self._by_prompt[arrival.units[-1]] = found
            while len(self._by_prompt) > self.table.config.max_agents:
                self._by_prompt.popitem(last=False)
        return found

    def _forget_oldest_agents(self, newcomer: str) -> None:
        """The tenant with the most agents loses its oldest: a flood of agents costs its sender."""
        while len(self.records) > self.table.config.max_agents:
            largest = max(self._of_tenant, key=lambda t: len(self._of_tenant[t]), default=newcomer)
            ours = self._of_tenant.get(largest, ())
            oldest = next((key for key in ours if not self.records[key].open_turns), None)
            if oldest is None:
                return  # all of them have open turns, and those are bounded
            self._forget(oldest)

    def _forget(self, key: AgentKey) -> None:
        record = self.records.pop(key)
        mine = self._of_tenant[record.tenant]
        del mine[key]
        if not mine:
            del self._of_tenant[record.tenant]
        self.table.block_manager.eviction.agent_forgotten(record)

    def state_of(self, record: AgentRecord) -> str:
        """``idle`` between turns, else the state of the agent's oldest open turn."""
        for request in record.open_turns:
            return self.table.turns[request].state.value
        return "idle"

    def where(self, record: AgentRecord) -> tuple[int, dict[KvTier, int]]:
        """An agent's context in tokens, and in which KV tier they lie (each counted once)."""
        for request in record.open_turns:
            turn = self.table.turns[request]
            if turn.state is TurnState.RUNNING:
                return turn.total, {**dict.fromkeys(KvTier, 0), KvTier.DEVICE: turn.computed}
            return turn.total, self._spread(self.table.stored_path(turn))
        return record.tokens, self._spread(self._remembered_path(record))

    def _spread(self, path: Iterable[Match]) -> dict[KvTier, int]:
        counts = dict.fromkeys(KvTier, 0)
        for match in path:
            counts[match.block.fastest()] += match.n_tokens
        return counts

    def _remembered_path(self, record: AgentRecord) -> list[Match]:
        path = self.table.block_manager.index.walk(record.units, record.tokens)
        tail = self.table.block_manager.index.get(record.tail)
        if tail is not None and len(path) > tail.meta.depth:
            path[tail.meta.depth :] = [Match(tail, tail.meta.n_tokens)]
        return path
