"""Leases: how much of a budget one of several nodes may spend without asking the others.

The nodes of a fleet write into one ledger. Each takes a part of what is left of a budget ahead of use, spends
from it without a round trip, and gives back what it does not need. For one budget, over all nodes, at any
time::

    charged by whatever has no lease  +  the sum of max(granted, charged) of leases in force  <=  hard

``granted`` is the most that a node may come to in all its runs that are open, so that a charge that is
entered takes nothing from the lease and adds nothing to the sum: the two need not happen together.

A lease ends when its node gives it back, starts anew, or has not renewed it for ``LEASE_S`` by the one clock
of the store. A node trusts its own lease for half of that, by its own clock from before it asked: clocks may
differ by any amount, and run at speeds that differ by half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LEASE_S = 300.0
"""Longer than it takes to start a dead node again, which ends its leases at once."""
TRUST_S = LEASE_S / 2
PART = 8
"""What a node takes ahead of use is this part of what is left: less and less as a budget runs out."""
UNBOUNDED = 2**62
SHORT_ROUNDS = 2
"""Others renew as often as this node does, so that each has seen it once by then."""


class LeaseNeed(NamedTuple):
    """What a node asks for, of one budget."""

    used_microusd: int
    """What its open runs were charged and what requests under way hold: never less than this is granted."""
    more_microusd: int = 0
    """What is to be held besides."""
    ahead_microusd: int | None = None
    """Take something ahead of use if it is at least this much. None: give back what is not used."""
    short: bool = False
    """A request was refused although the budget is not spent: others give back what they do not use."""


class LeaseElsewhere(NamedTuple):
    """A lease in force, of another node."""

    granted_microusd: int
    charged_microusd: int
    short: bool = False

    @property
    def open_microusd(self) -> int:
        """What it may still be charged."""
        return max(0, self.granted_microusd - self.charged_microusd)


@dataclass(frozen=True, slots=True)
class Lease:
    """What came of asking."""

    granted_microusd: int
    spent_microusd: int
    """What the books show as charged, by all nodes."""
    charged_microusd: int
    """Of that, by the open runs of the node that asked."""
    elsewhere_microusd: int = 0
    """What other nodes may still be charged by their leases."""
    give_back: bool = False
    """Others need what is not used here."""
    refused: bool = False
    """There is no room for what was to be held besides."""
    short: bool = False
    """What others do not use would be needed here."""


@dataclass(slots=True)
class LeaseShare:
    """What a node remembers of its lease of one budget."""

    charged: int = 0
    """By the runs of this server: what its lease is measured by."""
    granted: int = 0
    """0: there is none."""
    good_until_s: float = 0.0
    """By this process's own clock."""
    most: int = 0
    """The largest amount that was asked for since the lease was renewed last."""
    short_rounds: int = 0
    """For how many more renewals others are told that a request was refused for want of what they have."""
    elsewhere: int = 0
    unknown: bool = False
    """The books did not answer when they were asked last."""

    def has_room(self, held: int, amount: int, now_s: float) -> bool:
        """For an amount besides what is held."""
        room = self.granted - self.charged - held if self.granted and now_s < self.good_until_s else 0
        return room >= amount

    def take(self, lease: Lease, asked_at_s: float) -> None:
        """What came of asking. A lease of which nothing is left open is gone from the books."""
        is_open = lease.granted_microusd > lease.charged_microusd
        self.granted, self.good_until_s = lease.granted_microusd if is_open else 0, asked_at_s + TRUST_S
        self.elsewhere, self.unknown = lease.elsewhere_microusd, False
        if lease.short:
            self.short_rounds = max(self.short_rounds, SHORT_ROUNDS if lease.refused else 0)
        else:
            self.short_rounds = 0


def leased(
    need: LeaseNeed,
    hard_microusd: int | None,
    spent_microusd: int,
    charged_microusd: int,
    others: list[LeaseElsewhere],
    before_microusd: int,
) -> Lease:
    """What is granted to a node. ``hard_microusd`` None: no bound. ``charged_microusd``: in the books, by the
    open runs of the node that asks, and among ``spent_microusd``. ``before_microusd``: what its lease in
    force grants; 0 when there is none. Requests may be admitted by that while it asks, so it is only cut
    where the node itself gives back."""
    elsewhere = sum(one.open_microusd for one in others)
    if hard_microusd is None:
        return Lease(UNBOUNDED, spent_microusd, charged_microusd, elsewhere)
    room = hard_microusd - (spent_microusd - charged_microusd) - elsewhere
    wanted = need.used_microusd + need.more_microusd
    granted = wanted if wanted <= room else need.used_microusd
    refused = granted < wanted
    short = elsewhere > 0 and (refused or (need.short and not need.more_microusd))
    if need.ahead_microusd is None:
        return Lease(granted, spent_microusd, charged_microusd, elsewhere, False, refused, short)
    others_short = any(one.short for one in others)
    ahead = 0 if others_short else max(0, room - granted) // PART
    if ahead >= max(1, need.ahead_microusd):
        granted += ahead
    granted = max(granted, before_microusd)
    give_back = granted > wanted and (others_short or granted > room)
    return Lease(granted, spent_microusd, charged_microusd, elsewhere, give_back, refused, short)
