"""The queue: which turn goes next.

    leader        of the turns that have waited for ``max_wait_us`` of their contract in all the one that goes
                  first (``at_bound``)
    owed          one turn of each service tier that has fewer places than its guarantee of compute
    service tier  the heaviest first
    aged          the others that have waited for so long, in the order in which they came to that
    tenant        the one with the least attained service
    session       of that tenant the one with the least; then in order of arrival

Preempted turns stand before the new ones of their tenant. Without contracts: order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain, islice
from operator import itemgetter
from typing import Final

from stepwell.policy.at_bound import AtBound
from stepwell.policy.contracts import ContractBook
from stepwell.policy.fairness import Attained
from stepwell.policy.turns import Turn
from stepwell.policy.types import RequestId

_SORTED_WHOLE: Final = 16  # a tenant's line of so many turns is sorted; of a longer one sessions are merged

Line = dict[RequestId, Turn]
Order = tuple[int, RequestId]


class Queue:
    """Turns that wait for a place, by service tier and tenant."""

    def __init__(self, book: ContractBook) -> None:
        self._book = book
        self.attained = Attained(book)
        self._lines: dict[str, dict[str, Line]] = {}
        self._by_session: dict[str, dict[str, dict[str | None, Line]]] = {}
        """By service tier, tenant and session, in order of arrival; None: those of all sessions that had a
        place."""
        self._by_age: Line = {}
        """All of them, the longest waiting first; what a preempted turn waited before counts."""
        self._aged: dict[str, Line] = {}
        """By service tier: those that have waited for their bound."""
        self.at_bound = AtBound()
        """Those, and the ones that run."""

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
        lines.setdefault(self._tenant(turn), {})[turn.id] = turn
        self._session_line(turn)[turn.id] = turn
        self._by_age[turn.id] = turn

    def add_first(self, turn: Turn) -> None:
        """A turn that had a place goes before those that had none."""
        lines = self._lines.setdefault(turn.contract.name, {})
        tenant = self._tenant(turn)
        lines[tenant] = {turn.id: turn, **lines.get(tenant, {})}
        line = self._session_line(turn)
        later = [line.pop(request) for request in [*line] if request > turn.id]
        line.update((one.id, one) for one in [turn, *later])
        since_us = turn.waiting_since_us
        younger = [one for one in self._by_age.values() if one.waiting_since_us > since_us]
        self._by_age[turn.id] = turn
        for one in younger:
            self._by_age[one.id] = self._by_age.pop(one.id)
        if turn.aged:  # it had its place, so it came to its bound before those that wait
            name = turn.contract.name
            self._aged[name] = {turn.id: turn, **self._aged.get(name, {})}

    def remove(self, turn: Turn) -> None:
        lines, tenant = self._lines[turn.contract.name], self._tenant(turn)
        del lines[tenant][turn.id]
        if not lines[tenant]:
            del lines[tenant]
        self._leave_session(turn, tenant)
        del self._by_age[turn.id]
        if turn.aged:
            self._aged.get(turn.contract.name, {}).pop(turn.id, None)

    def _session_line(self, turn: Turn) -> Line:
        sessions = self._by_session.setdefault(turn.contract.name, {}).setdefault(self._tenant(turn), {})
        return sessions.setdefault(_session(turn), {})

    def _leave_session(self, turn: Turn, tenant: str) -> None:
        tenants, session = self._by_session[turn.contract.name], _session(turn)
        del tenants[tenant][session][turn.id]
        if not tenants[tenant][session]:
            del tenants[tenant][session]
        if not tenants[tenant]:
            del tenants[tenant]

    def _tenant(self, turn: Turn) -> str:
        return turn.arrival.tenant if self._book.ordered else ""

    def demands(self, service_tier: str) -> bool:
        return bool(self._lines.get(service_tier))

    def age(self, now_us: int) -> None:
        """A turn that has waited for the bound stands first in its service tier from now on, and goes before
        all others once it leads."""
        if not self._book.ordered:
            return
        shortest_wait_us = self._shortest_wait_us()
        for turn in self._by_age.values():
            if now_us - turn.waiting_since_us < shortest_wait_us:
                break  # in order of age: none behind has waited longer
            if now_us - turn.waiting_since_us >= turn.contract.max_wait_us:
                self.at_bound.add(turn)
                self._aged.setdefault(turn.contract.name, {})[turn.id] = turn
        self.at_bound.choose()

    def _shortest_wait_us(self) -> int:
        return min(self._book.of(name).max_wait_us for name in self._book.names)

    def window(self, count: int, owed: Iterable[str] = ()) -> list[Turn]:
        """The next ``count`` turns, in order; ``owed``: service tiers with fewer places than guaranteed."""
        window = dict.fromkeys(self.at_bound.front(count))
        for name in owed:
            window.update(dict.fromkeys(self._of_service_tier(name, 1)))
        for name in self._book.names:
            if len(window) >= count:
                break
            window.update(dict.fromkeys(self._of_service_tier(name, count)))
        return list(window)[:count]

    def least_wanted(self, weight: int) -> Turn | None:
        """What a turn of that weight may push out of a full queue: the youngest of the lightest service tier
        below it. A turn that had a place already, or has waited for too long, stays."""
        for name in reversed(self._book.names):
            if self._book.of(name).weight >= weight:
                return None
            lines = self._lines.get(name, {})
            new = [t for line in lines.values() for t in line.values() if not (t.had_place or t.aged)]
            if new:
                return max(new, key=lambda turn: turn.id)
        return None

    def _of_service_tier(self, name: str, count: int) -> list[Turn]:
        lines, aged = self._lines.get(name, {}), self._aged.get(name)
        if not self._book.ordered:
            return [turn for line in lines.values() for turn in islice(line.values(), count)][:count]
        heads = [self._of_tenant(name, tenant, count) for tenant in lines]
        heads.sort(key=lambda turns: (self.attained.rank(turns[0]), turns[0].id) if turns else (0, 0))
        window = list(islice(aged.values(), count)) if aged else []
        for position in range(count):  # one of every tenant, then the second of every tenant, ...
            window += [turns[position] for turns in heads if len(turns) > position]
            if len(window) >= count:
                break
        return window[:count]

    def _of_tenant(self, name: str, tenant: str, count: int) -> list[Turn]:
        line, aged = self._lines[name][tenant], self._aged.get(name)
        if len(line) == 1 and not aged:
            return list(line.values())
        if len(line) > max(count, _SORTED_WHOLE):
            return self._of_long_line(name, tenant, count)
        seen = [turn for turn in line.values() if not turn.aged]
        if len(seen) > 1:
            rank = self.attained.session_rank
            seen.sort(key=lambda turn: (not turn.had_place, rank(turn), turn.id))
        return seen[:count]

    def _of_long_line(self, name: str, tenant: str, count: int) -> list[Turn]:
        """The same order in a time that grows with the sessions that wait, not with their turns: however many
        turns of one session stand before it, another session's is found."""
        sessions = self._by_session[name][tenant]
        returning = sorted(self._ranked(sessions.get(None, {})), key=itemgetter(0))
        lines = [self._ranked(line) for session, line in sessions.items() if session is not None]
        ranked = chain(returning, merge(*lines, key=itemgetter(0)))
        return [turn for _, turn in islice(ranked, count)]

    def _ranked(self, line: Line) -> Iterator[tuple[Order, Turn]]:
        for turn in line.values():
            if not turn.aged:
                yield (self.attained.session_rank(turn), turn.id), turn


def _session(turn: Turn) -> str | None:
    return None if turn.had_place else turn.arrival.session
