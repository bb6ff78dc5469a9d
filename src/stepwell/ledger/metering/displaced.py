"""Which request took the room in which another agent's KV lay, and what it cost to compute it again.

A unit of tokens that is lost for good because room was made for a request is remembered with that request's
account. When another has to compute it again, its time for it is posted to that account: visible on both
sides, and never more than was really spent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stepwell.ledger.types import Account
from stepwell.policy.types import Open, Piece


class DisplacedSpan(NamedTuple):
    """Tokens ``[start, stop)`` of a request are computed again because ``winner`` got their room."""

    start: int
    stop: int
    winner: Account


class Displaced:
    """Hashes of lost units, the oldest loss first; bounded."""

    def __init__(self, unit_tokens: int, most_units: int) -> None:
        self._unit_tokens = unit_tokens
        self._most_units = most_units
        self._winners: OrderedDict[bytes, Account] = OrderedDict()

    def lost(self, units: Iterable[bytes], winner: Account) -> None:
        """A block with these units is nowhere any more."""
        for unit in units:
            self._winners[unit] = winner
            self._winners.move_to_end(unit)
        while len(self._winners) > self._most_units:
            self._winners.popitem(last=False)

    def back(self, units: Iterable[bytes]) -> None:
        """They are there again."""
        for unit in units:
            self._winners.pop(unit, None)

    def spans(self, units: Sequence[bytes], action: Open, victim: Account) -> list[DisplacedSpan]:
        """What a request that is opened has to compute again, and to which agent it was lost. What an agent
        took from itself does not count."""
        size = self._unit_tokens
        first = action.cached_tokens // size
        spans: list[DisplacedSpan] = []
        for at in range(first, min(len(units), first + action.recomputed_tokens // size)):
            winner = self._winners.get(units[at])
            if winner is None or (winner.tenant, winner.agent) == (victim.tenant, victim.agent):
                continue
            if spans and spans[-1].stop == at * size and spans[-1].winner == winner:
                spans[-1] = DisplacedSpan(spans[-1].start, (at + 1) * size, winner)
            else:
                spans.append(DisplacedSpan(at * size, (at + 1) * size, winner))
        return spans


def shares(spans: Iterable[DisplacedSpan], piece: Piece, part_us: int) -> list[tuple[Account, int]]:
    """What of a piece's time went into spans, and for which agent."""
    found = []
    for span in spans:
        tokens = min(piece.start + piece.count, span.stop) - max(piece.start, span.start)
        if tokens > 0:
            found.append((span.winner, part_us * tokens // piece.count))
    return found
