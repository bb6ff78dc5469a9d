"""What the meter keeps of a request while it runs, and what it hands over to be written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.metering.displaced import DisplacedSpan
from stepwell.ledger.metering.holdings import Holder
from stepwell.ledger.types import Account, Kind, Position, Posting, Usage
from stepwell.policy.costs import PrefillFit
from stepwell.policy.types import (
    Event,
    KvTier,
    Moved,
    Piece,
    Plan,
    Progressed,
    RequestArrived,
    RequestId,
)

_WEIGHT_BITS = 20


@dataclass(slots=True)
class Entries:
    """What is to be written."""

    postings: list[Posting] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    settled: list[tuple[RequestId, int]] = field(default_factory=list)
    """Requests that have ended, with what they were charged in micro-dollars."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one request has used so far."""

    compute_us: int
    byte_us: PerTier[int]
    """What its agent held while the request was there."""
    moved_bytes: int
    displaced_us: int
    """Of ``compute_us``: computed again because another agent had taken the room."""


@dataclass(slots=True, eq=False)
class Metered:
    """A request that has not ended."""

    arrival: RequestArrived
    holder: Holder
    arrived_us: int
    units: list[bytes]
    """The chained hashes of its tokens that are known."""
    held_microusd: int = 0
    total: int = 0
    opened: bool = False
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    ttft_us: int = 0
    compute_us: int = 0
    stored: list[int] = field(default_factory=lambda: [0, 0, 0])
    moved_bytes: int = 0
    displaced_us: int = 0
    spans: list[DisplacedSpan] = field(default_factory=list)
    """Tokens it computes again for want of room that another agent got."""
    reason: str = ""


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """``amount`` in whole parts by weight that sum to it exactly; evenly when nothing weighs."""
    total = sum(weights)
    if not total:
        weights, total = [1] * len(weights), len(weights)
    parts, weighed, given = [], 0, 0
    for weight in weights:
        weighed += weight
        upto = amount * weighed // total
        parts.append(upto - given)
        given = upto
    return parts


def customer_accounts(tenant: str) -> tuple[Account, Account]:
    """A tenant's money, and what of it is held for requests under way."""
    return Account(Kind.CUSTOMER, tenant), Account(Kind.HELD, tenant)


def ran_pieces(events: Iterable[Event], plan: Plan) -> list[Piece]:
    """Of the last plan's batch: what really ran. For replays, where no driver says so."""
    progressed = {event.request for event in events if isinstance(event, Progressed)}
    return [piece for piece in plan.batch if piece.request in progressed]


def copied(event: Moved) -> bool:
    """Whether the loop stood still for it."""
    return KvTier.DEVICE in (event.source, event.target)


def per_token(fit: PrefillFit) -> tuple[int, int]:
    """What a token costs, and what each token before it adds; in a unit that cancels out."""
    token, depth, divisor = fit.coefficients()
    return max(1, (token << _WEIGHT_BITS) // divisor), (depth << _WEIGHT_BITS) // divisor


def work_of(piece: Piece, token: int, depth: int) -> int:
    """What a piece of a batch weighs, in the unit of ``per_token``."""
    return piece.count * token + piece.count * (2 * piece.start + piece.count) // 2 * depth
