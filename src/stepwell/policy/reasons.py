"""Why each request waits: told when it changes, for later questions. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Container, Sequence

from stepwell.policy.turn_table import TurnTable
from stepwell.policy.turns import Turn
from stepwell.policy.types import RequestId, WaitCause, Waits


class Reasons:
    """What a step found out about the turns that stay in the queue."""

    def __init__(self, table: TurnTable) -> None:
        self._table = table
        self._told: list[Waits] = []
        self._looked_at: dict[RequestId, None] = {}
        """Turns whose cause is newer than their place in the queue."""

    def take(
        self, window: Sequence[Turn], arrived: Sequence[Turn], owed: Container[str]
    ) -> tuple[Waits, ...]:
        """What has changed in this step. ``window``: the turns that were looked at, in the queue's order;
        those that were before and are not any more, and those that have just come, wait behind its first."""
        front = window[0] if window else None
        now = {turn.id: None for turn in window}
        beyond = [self._table.turns[r] for r in self._looked_at if r not in now and r in self._table.turns]
        for turn in (*beyond, *arrived):
            if front is not None and turn.id not in now and turn in self._table.waiting:
                self.queues(turn, front, owed)
        self._looked_at = now
        told, self._told = tuple(self._told), []
        return told

    def queues(self, turn: Turn, front: Turn, owed: Container[str]) -> None:
        """It waits in the queue, and ``front`` goes before it."""
        before = turn.waits
        if before is None or before.cause is not WaitCause.QUEUE or before.behind != front.id:
            self._tell(turn, Waits(turn.id, WaitCause.QUEUE, front.id, self._rule(front, turn, owed)))

    def is_fetched_for(self, turn: Turn) -> None:
        self._waits(turn, WaitCause.DISK, 0)

    def waits_for_prefix(self, turn: Turn, computed_by: RequestId) -> None:
        self._waits(turn, WaitCause.PREFIX, computed_by)

    def has_no_room(self, turn: Turn) -> None:
        """It is its turn. Named is the running turn that holds the most frames, or has run longest."""
        before, running = turn.waits, self._table.running
        if before is not None and before.cause is turn.short_of and before.behind in self._table.turns:
            return
        behind = running[0] if running else 0
        if running and turn.short_of is WaitCause.ROOM:
            behind = max(running, key=lambda request: self._table.turns[request].blocks_held)
        self._waits(turn, turn.short_of, behind)

    def _waits(self, turn: Turn, cause: WaitCause, behind: RequestId) -> None:
        before = turn.waits
        if before is None or before.cause is not cause or before.behind != behind:
            self._tell(turn, Waits(turn.id, cause, behind))

    def _tell(self, turn: Turn, waits: Waits) -> None:
        turn.waits = waits
        self._told.append(waits)

    def _rule(self, front: Turn, turn: Turn, owed: Container[str]) -> str:
        """The first rule of the queue that tells the two apart."""
        if not self._table.book.ordered:
            return "arrival"
        if front.aged:
            return "aged"
        if front.contract is not turn.contract:
            return "guarantee" if front.contract.name in owed else "service_tier"
        if front.arrival.tenant != turn.arrival.tenant:
            return "tenant"
        if front.had_place and not turn.had_place:
            return "had_a_place"
        return "session" if front.arrival.session != turn.arrival.session else "arrival"
