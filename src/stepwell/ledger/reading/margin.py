"""What was earned with each customer: revenue, cost by resource, and what displacing others has cost them.

Cost is what the machine gave times the rate of the run it gave it in. Used by agents, idle, overhead and
unattributed together are the machine's bill, to the last micro-dollar: every resource's bill is rounded once
and split by largest remainders. That is the *usage view*: idle time stands on a line of its own. Loaded, the
idle line is spread over what was used of the same resource in the same run.

What displacement cost is in the compute of the holder that computed again; it is shown beside, never added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from stepwell.ledger.base import RunId, Store
from stepwell.ledger.money import apportion, round_half_up
from stepwell.ledger.pricing.costs import Rates
from stepwell.ledger.reading import queries
from stepwell.ledger.reading.grouping import Group, group_of
from stepwell.ledger.reading.queries import AccountId, AccountSpent, Counts, DisplacedCost, Flow, Period
from stepwell.ledger.types import MACHINE_RESOURCES, Kind, Resource

STORAGE = (Resource.DEVICE, Resource.HOST, Resource.DISK)
MACHINE_LINES = (Kind.IDLE, Kind.OVERHEAD, Kind.UNATTRIBUTED)


@dataclass(slots=True)
class MarginGroup:
    """One group: what it used, paid and cost. Money in micro-dollars."""

    group: Group
    counts: Counts = field(default_factory=Counts)
    amounts: dict[Resource, int] = field(default_factory=dict)
    cost: dict[Resource, int] = field(default_factory=dict)
    between_microusd: int = 0
    """Of the cost: KV of agents that had no request under way."""
    lost_microusd: int = 0
    """Compute it spent again because others took the room of its KV."""
    caused_microusd: int = 0
    """The same, where it was the other."""

    @property
    def revenue_microusd(self) -> int:
        return self.counts.charge_microusd

    @property
    def cost_microusd(self) -> int:
        return sum(self.cost.values())

    @property
    def margin_microusd(self) -> int:
        return self.revenue_microusd - self.cost_microusd

    @property
    def storage_microusd(self) -> int:
        return sum(self.cost.get(resource, 0) for resource in STORAGE)


@dataclass(frozen=True, slots=True)
class Exchange:
    """``victim`` computed again what it had to drop for ``beneficiary``."""

    victim: Group
    beneficiary: Group
    amount_us: int
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class Margin:
    """All lines, the machine's own lines, and which account displaced which, the dearest first."""

    fields: tuple[str, ...]
    lines: list[MarginGroup]
    machine: dict[Kind, dict[Resource, int]]
    """Cost of the lines without a customer; empty for one tenant alone."""
    exchanges: list[Exchange]
    loaded: bool

    @property
    def total(self) -> MarginGroup:
        """All lines as one."""
        return total_of(self.lines)

    @property
    def bill_microusd(self) -> int:
        """What the machine cost, with the lines without a customer."""
        own = sum(sum(costs.values()) for costs in self.machine.values())
        return own + sum(line.cost_microusd for line in self.lines)


@dataclass(frozen=True, slots=True)
class PeriodSums:
    """What a period's statements are made of."""

    accounts: queries.Accounts
    spent: list[AccountSpent]
    flows: list[Flow]
    displaced: list[DisplacedCost]


def read_sums(store: Store, period: Period) -> PeriodSums:
    """All sums by account. Goes over the period's postings once. Raises ``BadInput`` for a period that cuts
    a day whose postings were added up."""
    queries.require_whole_days(store, period)
    spent, moved = queries.spent(store, period), queries.moves(store, *period.where("p"))
    return PeriodSums(queries.Accounts(store), spent, queries.flows(moved), queries.displaced(moved))


def margin(
    sums: PeriodSums,
    rates: Mapping[RunId, Rates],
    fields: Sequence[str],
    *,
    tenant: str | None = None,
    loaded: bool = False,
) -> Margin:
    """``rates`` of every run that has postings. ``tenant`` leaves the lines of others away; shares of idle
    time and rounding are those of the whole machine all the same."""
    seen = {n: a for n, a in sums.accounts.items() if queries.belongs(a, tenant)}
    groups = {n: group_of(a, fields) for n, a in seen.items() if a.kind is Kind.AGENT}
    parts = _parts(sums, rates, loaded)
    costs: Costs = {resource: apportion(_by_account(parts, resource)) for resource in MACHINE_RESOURCES}
    lines: dict[Group, MarginGroup] = {}
    _add_usage(sums, groups, lines)
    _add_costs(sums, costs, groups, lines)
    _add_between(parts, groups, lines)
    exchanges = _add_displaced(sums, rates, fields, groups, lines)
    return Margin(
        tuple(fields),
        sorted(lines.values(), key=lambda line: (-line.cost_microusd, line.group)),
        {} if tenant is not None else _machine(sums, costs),
        exchanges,
        loaded,
    )


Groups = Mapping[AccountId, Group]
Lines = dict[Group, MarginGroup]
Costs = Mapping[Resource, Mapping[AccountId, int]]
Part = tuple[Flow, Fraction]
"""What an account got, and what that costs."""


def _line(lines: Lines, group: Group) -> MarginGroup:
    return lines.setdefault(group, MarginGroup(group))


def _parts(sums: PeriodSums, rates: Mapping[RunId, Rates], loaded: bool) -> list[Part]:
    got = [
        flow
        for flow in sums.flows
        if flow.resource in MACHINE_RESOURCES and sums.accounts[flow.account].kind is not Kind.MACHINE
    ]
    factors = _load_factors(sums, got) if loaded else {}
    parts = []
    for flow in got:
        rate = rates[flow.run].microusd[flow.resource]
        factor = factors.get((flow.run, flow.resource))
        if factor is not None:
            rate *= 0 if sums.accounts[flow.account].kind is Kind.IDLE else factor
        parts.append((flow, rate * flow.amount))
    return parts


def _load_factors(sums: PeriodSums, got: Iterable[Flow]) -> dict[tuple[RunId, Resource], Fraction]:
    """All there was to what was not idle. Where everything was idle, no line bears it."""
    total: dict[tuple[RunId, Resource], int] = defaultdict(int)
    idle: dict[tuple[RunId, Resource], int] = defaultdict(int)
    for flow in got:
        total[flow.run, flow.resource] += flow.amount
        if sums.accounts[flow.account].kind is Kind.IDLE:
            idle[flow.run, flow.resource] += flow.amount
    return {at: Fraction(all_, all_ - idle[at]) for at, all_ in total.items() if all_ > idle[at]}


def _by_account(parts: Iterable[Part], resource: Resource) -> dict[AccountId, Fraction]:
    found: dict[AccountId, Fraction] = defaultdict(Fraction)
    for flow, cost in parts:
        if flow.resource is resource:
            found[flow.account] += cost
    return found


def _add_usage(sums: PeriodSums, groups: Groups, lines: Lines) -> None:
    for entry in sums.spent:
        if (group := groups.get(entry.account)) is not None:
            line = _line(lines, group)
            line.counts = line.counts.plus(entry.counts)


def _add_costs(sums: PeriodSums, costs: Costs, groups: Groups, lines: Lines) -> None:
    for flow in sums.flows:
        if flow.resource in MACHINE_RESOURCES and (group := groups.get(flow.account)) is not None:
            amounts = _line(lines, group).amounts
            amounts[flow.resource] = amounts.get(flow.resource, 0) + flow.amount
    for resource, by_account in costs.items():
        for account, microusd in by_account.items():
            if (group := groups.get(account)) is not None:
                cost = _line(lines, group).cost
                cost[resource] = cost.get(resource, 0) + microusd


def _add_between(parts: Iterable[Part], groups: Groups, lines: Lines) -> None:
    found: dict[Group, Fraction] = defaultdict(Fraction)
    for flow, cost in parts:
        if flow.between and flow.resource in STORAGE and flow.account in groups:
            found[groups[flow.account]] += cost
    for group, cost in found.items():
        _line(lines, group).between_microusd = round_half_up(cost)


def _add_displaced(
    sums: PeriodSums, rates: Mapping[RunId, Rates], fields: Sequence[str], groups: Groups, lines: Lines
) -> list[Exchange]:
    """Both sides are named if either of them is seen: there is no tenant's view of this, only operators'."""
    amounts: dict[tuple[Group, Group], int] = defaultdict(int)
    costs: dict[tuple[Group, Group], Fraction] = defaultdict(Fraction)
    for one in sums.displaced:
        if one.victim in groups or one.beneficiary in groups:
            pair = (
                group_of(sums.accounts[one.victim], fields),
                group_of(sums.accounts[one.beneficiary], fields),
            )
            amounts[pair] += one.amount_us
            costs[pair] += one.amount_us * rates[one.run].microusd[Resource.DISPLACED]
    exchanges = [Exchange(*pair, amounts[pair], round_half_up(costs[pair])) for pair in amounts]
    for exchange in exchanges:
        if exchange.victim in lines:
            lines[exchange.victim].lost_microusd += exchange.cost_microusd
        if exchange.beneficiary in lines:
            lines[exchange.beneficiary].caused_microusd += exchange.cost_microusd
    return sorted(exchanges, key=lambda one: (-one.amount_us, one.victim, one.beneficiary))


def _machine(sums: PeriodSums, costs: Costs) -> dict[Kind, dict[Resource, int]]:
    found: dict[Kind, dict[Resource, int]] = {kind: {} for kind in MACHINE_LINES}
    for resource, by_account in costs.items():
        for account, microusd in by_account.items():
            kind = sums.accounts[account].kind
            if kind in found:
                found[kind][resource] = found[kind].get(resource, 0) + microusd
    return found


def total_of(lines: Iterable[MarginGroup]) -> MarginGroup:
    """All lines as one, of no group."""
    total = MarginGroup(())
    for line in lines:
        total.counts = total.counts.plus(line.counts)
        total.between_microusd += line.between_microusd
        total.lost_microusd += line.lost_microusd
        total.caused_microusd += line.caused_microusd
        for sums, parts in ((total.amounts, line.amounts), (total.cost, line.cost)):
            for resource, amount in parts.items():
                sums[resource] = sums.get(resource, 0) + amount
    return total
