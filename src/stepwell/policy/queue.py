"""The queue: who goes next.

    aged          turns that have waited for ``max_wait_us`` of their contract, in order of arrival
    owed          one turn of each service tier that has fewer places than its guarantee of compute
    service tier  the heaviest first
    tenant        the one with the least attained service
    session       of that tenant the one with the least; then in order of arrival

Preempted turns stand before the new ones of their tenant. Without contracts: order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice

from stepwell.policy.contracts import ContractBook
from stepwell.policy.fairness import Attained
from stepwell.policy.turns import Turn
from stepwell.policy.types import RequestId

_SORTED_WHOLE = 16  # a tenant's line of so many turns is sorted; of a longer one only its sessions are merged

Line = dict[RequestId, Turn]
Order = tuple[int, RequestId]


class Queue:
    """Turns that wait for a place, by service tier and tenant."""

    def __init__(self, book: ContractBook) -> None:
        self._book = book
        self.attained = Attained(book)
        self._lines: dict[str, dict[str, Line]] = {}
        self._sessions: dict[str, dict[str, dict[str, Line]]] = {}
        """By service tier, tenant and session: the turns that never had a place, in order of arrival."""
        self._by_age: Line = {}
        """All of them, the longest waiting first; a preempted turn waits from then on."""
        self._aged: Line = {}

    def __len__(self) -> int:
        return len(self._by_age)

    def __contains__(self, turn: Turn) -> bool:
        return turn.id in self._by_age

    def __iter__(self) -> Iterator[Turn]:
        return iter(self._by_age.values())

    def add(self, turn: Turn) -> None:
        """A new turn goes to the end of its tenant's line."""
        lines = self._lines.setdefault(turn.contract.name, {})
        self.attained.arrived(turn, lines)
        tenant = self._tenant(turn)
        lines.setdefault(tenant, {})[turn.id] = turn
        sessions = self._sessions.setdefault(turn.contract.name, {}).setdefault(tenant, {})
        sessions.setdefault(turn.arrival.session, {})[turn.id] = turn
        self._by_age[turn.id] = turn

    def add_first(self, turn: Turn) -> None:
        """A turn that had a place goes before those that had none."""
        lines = self._lines.setdefault(turn.contract.name, {})
        tenant = self._tenant(turn)
        lines[tenant] = {turn.id: turn, **lines.get(tenant, {})}
        self._by_age[turn.id] = turn

    def remove(self, turn: Turn) -> None:
        lines, tenant = self._lines[turn.contract.name], self._tenant(turn)
        del lines[tenant][turn.id]
        if not lines[tenant]:
            del lines[tenant]
        self._leave_session(turn, tenant)
        del self._by_age[turn.id]
        self._aged.pop(turn.id, None)

    def _leave_session(self, turn: Turn, tenant: str) -> None:
        tenants = self._sessions.get(turn.contract.name, {})
        sessions = tenants.get(tenant, {})
        line = sessions.get(turn.arrival.session, {})
        if line.pop(turn.id, None) is not None and not line:
            del sessions[turn.arrival.session]
            if not sessions:
                del tenants[tenant]

    def _tenant(self, turn: Turn) -> str:
        return turn.arrival.tenant if self._book.ordered else ""

    def demands(self, service_tier: str) -> bool:
        return bool(self._lines.get(service_tier))

    def age(self, now_us: int) -> None:
        """A turn that has waited for the bound goes before all others from now on."""
        if not self._book.ordered:
            return
        shortest_wait_us = self._shortest_wait_us()
        for turn in self._by_age.values():
            if now_us - turn.waiting_since_us < shortest_wait_us:
                break  # in order of age: nobody behind has waited longer
            if now_us - turn.waiting_since_us >= turn.contract.max_wait_us:
                turn.aged = True
                self._aged[turn.id] = turn

    def _shortest_wait_us(self) -> int:
        return min(self._book.of(name).max_wait_us for name in self._book.names)

    def window(self, count: int, owed: Iterable[str] = ()) -> list[Turn]:
        """The next ``count`` turns, in order; ``owed``: service tiers with fewer places than guaranteed."""
        window = dict.fromkeys(islice(self._aged.values(), count))
        for name in owed:
            window.update(dict.fromkeys(self._of_service_tier(name, 1)))
        for name in self._book.names:
            if len(window) >= count:
                break
            window.update(dict.fromkeys(self._of_service_tier(name, count)))
        return list(window)[:count]

    def least_wanted(self, weight: int) -> Turn | None:
        """What a turn of that weight may push out of a full queue: the youngest of the lightest service tier
        below it. Who had a place already, or has waited for too long, stays."""
        for name in reversed(self._book.names):
            if self._book.of(name).weight >= weight:
                return None
            lines = self._lines.get(name, {})
            new = [t for line in lines.values() for t in line.values() if not (t.had_place or t.aged)]
            if new:
                return max(new, key=lambda turn: turn.id)
        return None

    def _of_service_tier(self, name: str, count: int) -> list[Turn]:
        lines = self._lines.get(name, {})
        if not self._book.ordered:
            return [turn for line in lines.values() for turn in islice(line.values(), count)][:count]
        heads = [self._of_tenant(name, tenant, count) for tenant in lines]
        heads.sort(key=lambda turns: (self.attained.rank(turns[0]), turns[0].id) if turns else (0, 0))
        window: list[Turn] = []
        for position in range(count):  # one of every tenant, then the second of every tenant, ...
            window += [turns[position] for turns in heads if len(turns) > position]
            if len(window) >= count:
                break
        return window[:count]

    def _of_tenant(self, name: str, tenant: str, count: int) -> list[Turn]:
        line = self._lines[name][tenant]
        if len(line) == 1 and not self._aged:
            return list(line.values())
        if len(line) > max(count, _SORTED_WHOLE):
            return self._of_long_line(name, tenant, count)
        seen = (
            [turn for turn in line.values() if turn.id not in self._aged] if self._aged else [*line.values()]
        )
        if len(seen) > 1:
            rank = self.attained.session_rank
            seen.sort(key=lambda turn: (not turn.had_place, rank(turn), turn.id))
        return seen[:count]

    def _of_long_line(self, name: str, tenant: str, count: int) -> list[Turn]:
        """The same order in a time that grows with the sessions that wait, not with their turns: however many
        turns of one session stand before it, another session's is found."""
        rank = self.attained.session_rank
        returning: list[tuple[Order, Turn]] = []
        for turn in self._lines[name][tenant].values():
            if not turn.had_place:
                break  # those that had a place stand at the front
            if turn.id not in self._aged:
                returning.append(((rank(turn), turn.id), turn))
        returning.sort(key=lambda entry: entry[0])
        first = [turn for _, turn in returning[:count]]
        sessions = self._sessions.get(name, {}).get(tenant, {})
        merged = merge(*[self._of_session(turns) for turns in sessions.values()], key=lambda entry: entry[0])
        return first + [turn for _, turn in islice(merged, count - len(first))]

    def _of_session(self, line: Line) -> Iterator[tuple[Order, Turn]]:
        for turn in line.values():
            if turn.id not in self._aged:
                yield (self.attained.session_rank(turn), turn.id), turn
