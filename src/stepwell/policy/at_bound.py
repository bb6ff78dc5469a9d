"""Turns that have waited for their bound, and which one of them leads.

Age gives a turn its place and keeps it there, but to one turn at a time: the *leader*. Were all of them to
go before heavier turns, a flood would fill the device with turns that share a fifth of the compute, and those
that paid would find no room. The others stand first in the lines of their own service tiers.

The order is that in which they would have come to their bounds had they waited ever since they came.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from stepwell.policy.turns import Turn, TurnState
from stepwell.policy.types import RequestId


class AtBound:
    """All turns at their bound, until they end."""

    def __init__(self) -> None:
        self.leader: Turn | None = None
        """Goes first in the queue and in the batch, and is not displaced, until it ends."""
        self._order: list[tuple[int, RequestId]] = []
        self._turns: dict[RequestId, Turn] = {}
        self._passed: dict[RequestId, Turn] = {}
        """Those that waited for the disk or for another's prefix when it was their turn to lead."""

    def add(self, turn: Turn) -> None:
        """The turn has come to its bound."""
        turn.aged = True
        if turn.id not in self._turns:
            self._turns[turn.id] = turn
            insort(self._order, (turn.due_us, turn.id))

    def ended(self, turn: Turn) -> None:
        if self._turns.pop(turn.id, None) is not None:
            self._passed.pop(turn.id, None)
            del self._order[bisect_left(self._order, (turn.due_us, turn.id))]
        if turn is self.leader:
            self._lead(None)

    def choose(self) -> None:
        """Who leads stays until it ends, but for one that waits for the disk or for another's prefix."""
        leader = self.leader
        if not self._order or (leader is not None and _can_go_on(leader)):
            return
        self._lead(None)
        for turn in self._in_order():
            if _can_go_on(turn):
                self._passed.pop(turn.id, None)
                self._lead(turn)
                return
            self._passed[turn.id] = turn

    def front(self, most: int) -> list[Turn]:
        """What goes first in the queue, at most so many: those that the leader has passed, as long as they
        have to wait, so that what they wait for goes on coming; the leader, unless it runs; and then those of
        them that can go on. Where only the first turn is looked at, one of these that finds no room must not
        stand before the leader."""
        passed = [turn for turn in self._passed.values() if turn.state is not TurnState.RUNNING]
        self._passed = {turn.id: turn for turn in passed}
        leader = self.leader
        first = [leader] if leader is not None and leader.state is not TurnState.RUNNING else []
        coming = [turn for turn in passed if not _can_go_on(turn)]
        ready = [turn for turn in passed if _can_go_on(turn)]
        return [*coming[: most - len(first)], *first, *ready][:most]

    def _in_order(self) -> list[Turn]:
        return [self._turns[request] for _, request in self._order]

    def _lead(self, turn: Turn | None) -> None:
        if self.leader is not None:
            self.leader.leads = False
        self.leader = turn
        if turn is not None:
            turn.leads = True


def _can_go_on(turn: Turn) -> bool:
    return turn.state is TurnState.RUNNING or not (turn.fetching or turn.behind)
