"""The ledger beside a modelled machine: what each service tier paid and cost, and idle time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from stepwell.ledger.keeper import Sums
from stepwell.ledger.metering.meter import Meter
from stepwell.ledger.money import MICROUSD
from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.pricing.costs import Rates
from stepwell.ledger.pricing.prices import PriceBook
from stepwell.ledger.types import MACHINE_RESOURCES, Kind
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import Computed, Event, Piece, Plan

STORAGE_EVERY_US = 600_000_000


class MachineBooks:
    """One machine's meter, added up. It is an ``Observer`` of its loop."""

    def __init__(self, config: PolicyConfig, prices: PriceBook, model: str, now_us: int = 0) -> None:
        bills = Bills(prices, model)
        self.meter = Meter(config, bills, now_us, storage_every_us=STORAGE_EVERY_US)
        self.sums = Sums()

    def ran(self, computed: Computed, pieces: Sequence[Piece]) -> None:
        """A batch has run, or several of the same pieces in one stride."""
        self.meter.ran(computed, pieces)

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        self.sums.add(self.meter.step(now_us, events, plan))

    def close(self, now_us: int) -> None:
        self.sums.add(self.meter.close())


@dataclass(slots=True)
class TierMoney:
    """US dollars of one service tier, or of time and room that were not used."""

    revenue_usd: Fraction = Fraction(0)
    cost_usd: Fraction = Fraction(0)
    """What it used, at what that costs."""
    loaded_usd: Fraction = Fraction(0)
    """The same, with its part of what stood idle."""

    @property
    def margin(self) -> float | None:
        """After idle time, of revenue; None: nothing was paid."""
        return float(1 - self.loaded_usd / self.revenue_usd) if self.revenue_usd else None


@dataclass(slots=True)
class Money:
    """The books of all machines together."""

    tiers: dict[str, TierMoney] = field(default_factory=dict)
    idle_usd: Fraction = Fraction(0)
    """Idle time and room, and what the loop itself took."""
    by_resource_usd: dict[str, Fraction] = field(default_factory=dict)

    @property
    def revenue_usd(self) -> Fraction:
        return sum((tier.revenue_usd for tier in self.tiers.values()), Fraction(0))

    @property
    def cost_usd(self) -> Fraction:
        """The whole bill: wear, and every hour of all machines."""
        return self.idle_usd + sum((tier.cost_usd for tier in self.tiers.values()), Fraction(0))

    @property
    def margin(self) -> float | None:
        return float(1 - self.cost_usd / self.revenue_usd) if self.revenue_usd else None


def money_of(all_sums: Sequence[Sums], rates: Rates) -> Money:
    """What the books of machines that cost alike come to. Idle cost is spread over what was used of the same
    resource, as ``ledger margin --loaded`` does; what was not used at all stays idle."""
    unnamed = frozenset(kind.value for kind in Kind)
    used: dict[str, dict[str, Fraction]] = {}
    for sums in all_sums:
        for (resource, name), amount in sums.used.items():
            if resource in MACHINE_RESOURCES:
                row = used.setdefault(resource.value, {})
                row[name] = row.get(name, Fraction(0)) + rates.microusd[resource] * amount
    money = Money()
    for sums in all_sums:
        for name, charged in sums.charged_microusd.items():
            returned = sums.returned_microusd.get(name, 0)
            money.tiers.setdefault(name, TierMoney()).revenue_usd += Fraction(charged - returned, MICROUSD)
    for resource_name, row in used.items():
        _spread(money, resource_name, row, unnamed)
    return money


def _spread(money: Money, resource: str, row: Mapping[str, Fraction], unnamed: frozenset[str]) -> None:
    idle = sum((cost for name, cost in row.items() if name in unnamed), Fraction(0))
    busy = {name: cost for name, cost in row.items() if name not in unnamed}
    whole = sum(busy.values(), Fraction(0))
    money.idle_usd += idle / MICROUSD
    money.by_resource_usd[resource] = (idle + whole) / MICROUSD
    for name, cost in busy.items():
        tier = money.tiers.setdefault(name, TierMoney())
        tier.cost_usd += cost / MICROUSD
        tier.loaded_usd += (cost + (idle * cost / whole if whole else 0)) / MICROUSD
