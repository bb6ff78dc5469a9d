"""What the ledger of one run says: per customer and role, per agent over time, and whether it adds up.

Read after the server is gone, from the closed books. Money is whole micro-dollars, as the ledger has it; in
the curves over time it is whole nano-dollars, because a moment's cost is less than a micro-dollar.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from stepwell.ledger import queries
from stepwell.ledger.base import RunId, Store
from stepwell.ledger.costs import Rates
from stepwell.ledger.margin import Margin, MarginGroup, PeriodSums, margin, read_sums, total_of
from stepwell.ledger.money import round_half_up
from stepwell.ledger.open import open_store
from stepwell.ledger.queries import LAST_US, Period
from stepwell.ledger.run_rates import rates_of
from stepwell.ledger.types import Kind, Resource
from stepwell.ledger.verify import verify

COST_RESOURCES = (Resource.COMPUTE, Resource.DEVICE, Resource.HOST, Resource.DISK, Resource.WRITTEN)
"""What costs money, in the order of the table. Copies and reads cost the compute time that they take."""
NANOUSD = 1_000
"""Nano-dollars in a micro-dollar."""
NOTHING = (Fraction(0),) * len(COST_RESOURCES)
MOST_POINTS = 150
"""Of one curve; the picture is not much wider."""
LEAST_STEP_S = 0.25


@dataclass(frozen=True, slots=True)
class CostLine:
    """One customer's agents of one role, or several of those together. Money in micro-dollars."""

    customer: str
    """The tenant; empty: all of them."""
    role: str
    """Empty: all of them."""
    requests: int
    input_tokens: int
    cached_tokens: int
    visible_tokens: int
    intermediate_tokens: int
    cost_microusd: dict[str, int]
    """By resource."""
    amounts: dict[str, int]
    """What was used, in each resource's own unit."""
    revenue_microusd: int
    lost_microusd: int
    """Of the compute: done again because others took the room of its KV."""
    caused_microusd: int
    """The same, where it was the other."""

    @property
    def total_cost_microusd(self) -> int:
        return sum(self.cost_microusd.values())

    @property
    def margin_microusd(self) -> int:
        return self.revenue_microusd - self.total_cost_microusd

    @property
    def amplification(self) -> float | None:
        """Intermediate per visible token."""
        return self.intermediate_tokens / self.visible_tokens if self.visible_tokens else None


@dataclass(frozen=True, slots=True)
class CostPoint:
    """What it had come to by then, in nano-dollars, by resource in the order of ``COST_RESOURCES``."""

    t_s: float
    nanousd: tuple[int, ...]

    @property
    def total_nanousd(self) -> int:
        return sum(self.nanousd)


@dataclass(frozen=True, slots=True)
class AgentCost:
    """One agent's cost, and how it came to be."""

    role: str
    cost_microusd: int
    points: tuple[CostPoint, ...]


@dataclass(frozen=True, slots=True)
class MachinePoint:
    """The whole machine's bill so far, in nano-dollars, and what finished turns were charged."""

    t_s: float
    agents_nanousd: tuple[int, ...]
    """What agents used, by resource in the order of ``COST_RESOURCES``."""
    rest_nanousd: int
    """Idle, overhead, and what has no name to it."""
    revenue_nanousd: int

    @property
    def bill_nanousd(self) -> int:
        return sum(self.agents_nanousd) + self.rest_nanousd


@dataclass(frozen=True, slots=True)
class MachineLine:
    """What is of no agent, by resource: micro-dollars, and amounts in the resource's own unit."""

    cost_microusd: dict[str, int]
    amounts: dict[str, int]

    @property
    def total_cost_microusd(self) -> int:
        return sum(self.cost_microusd.values())


@dataclass(frozen=True, slots=True)
class LedgerFigures:
    """The books of one run."""

    price_book: str
    cost_book: str
    lines: tuple[CostLine, ...]
    """Per customer and role."""
    customers: tuple[CostLine, ...]
    total: CostLine
    machine: dict[str, MachineLine]
    """``idle``, ``overhead`` and ``unattributed``: what no customer pays for by name."""
    bill_microusd: int
    """What agents cost and what is of none: the machine, from the server's start to its end."""
    agents: dict[str, AgentCost]
    over_time: tuple[MachinePoint, ...]
    postings: int
    accounts: int
    differences: tuple[str, ...]
    """What ``stepwell ledger verify`` found wrong; nothing: the books are right."""

    @property
    def margin_microusd(self) -> int:
        """What is left when the whole bill is paid."""
        return self.total.revenue_microusd - self.bill_microusd


def read_ledger(
    path: str, agents: Sequence[str], began_us: int, duration_s: float, price_book: str, cost_book: str
) -> LedgerFigures:
    """Everything the picture and the tables need of a closed ledger with this run alone.

    ``agents``: names in the order in which they are shown; ``began_us``: wall clock of the run's beginning,
    from which curves count. Raises ``LedgerError`` or ``BadInput``.
    """
    store = open_store(path, create=False)
    try:
        sums, rates = read_sums(store, Period()), rates_of(queries.runs(store))
        checked = verify(store)
        curves = read_curves(store, rates, began_us, duration_s)
    finally:
        store.close()
    by_role, by_agent = margin(sums, rates, ("tenant", "role")), margin(sums, rates, ("agent", "role"))
    return LedgerFigures(
        price_book=price_book,
        cost_book=cost_book,
        lines=_role_lines(by_role, agents),
        customers=_customer_lines(by_role, agents),
        total=cost_line("", "", by_role.total),
        machine={
            kind.value: MachineLine(_by_resource(cost), _by_resource(_used_by(sums, kind)))
            for kind, cost in by_role.machine.items()
        },
        bill_microusd=by_role.bill_microusd,
        agents=_agents(by_agent, curves, agents),
        over_time=curves.machine,
        postings=checked.postings,
        accounts=checked.accounts,
        differences=tuple(difference.sentence for difference in checked.differences),
    )


def cost_line(customer: str, role: str, line: MarginGroup) -> CostLine:
    """A line of the ledger's own statement of margins."""
    counts = line.counts
    return CostLine(
        customer=customer,
        role=role,
        requests=counts.requests,
        input_tokens=counts.input_tokens,
        cached_tokens=counts.cached_tokens,
        visible_tokens=counts.visible_tokens,
        intermediate_tokens=counts.intermediate_tokens,
        cost_microusd=_by_resource(line.cost),
        amounts=_by_resource(line.amounts),
        revenue_microusd=line.revenue_microusd,
        lost_microusd=line.lost_microusd,
        caused_microusd=line.caused_microusd,
    )


def _by_resource(numbers: Mapping[Resource, int]) -> dict[str, int]:
    return {resource.value: numbers.get(resource, 0) for resource in COST_RESOURCES}


def _used_by(sums: PeriodSums, kind: Kind) -> dict[Resource, int]:
    amounts: dict[Resource, int] = defaultdict(int)
    for flow in sums.flows:
        if sums.accounts[flow.account].kind is kind:
            amounts[flow.resource] += flow.amount
    return amounts


def _role_lines(found: Margin, agents: Sequence[str]) -> tuple[CostLine, ...]:
    """Customers in the order in which they are shown, the dearest role of each first."""
    lines = {tenant: [line for line in found.lines if line.group[0] == tenant] for tenant in _tenants(agents)}
    return tuple(cost_line(tenant, line.group[1], line) for tenant in lines for line in lines[tenant])


def _customer_lines(found: Margin, agents: Sequence[str]) -> tuple[CostLine, ...]:
    return tuple(
        cost_line(tenant, "", total_of(line for line in found.lines if line.group[0] == tenant))
        for tenant in _tenants(agents)
    )


def _tenants(agents: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(agent.split("/")[0] for agent in agents))


def _agents(found: Margin, curves: Curves, agents: Sequence[str]) -> dict[str, AgentCost]:
    known = {line.group[0]: line for line in found.lines}
    made = {}
    for agent in agents:
        if (line := known.get(agent)) is not None:
            made[agent] = AgentCost(line.group[1], line.cost_microusd, curves.agents.get(agent, ()))
    return made


# --- over time -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curves:
    """What everything had come to, moment by moment. The last point holds what was entered after the job
    too: whatever the server did until it was gone."""

    agents: dict[str, tuple[CostPoint, ...]]
    machine: tuple[MachinePoint, ...]


def read_curves(store: Store, rates: Mapping[RunId, Rates], began_us: int, duration_s: float) -> Curves:
    """Cumulated cost in steps of a quarter of a second or more."""
    spent: dict[str, list[Fraction]] = {}
    points: dict[str, list[CostPoint]] = defaultdict(list)
    machine: list[MachinePoint] = []
    rest, revenue = Fraction(0), 0
    for t_s, period in _periods(began_us, duration_s):
        sums = read_sums(store, period)
        rest += _add_flows(sums, rates, spent)
        revenue += sum(entry.counts.charge_microusd for entry in sums.spent)
        for agent, costs in spent.items():
            points[agent].append(CostPoint(t_s, _nanousd(costs)))
        used = [sum(column, Fraction(0)) for column in zip(*spent.values(), strict=True)]
        (others,) = _nanousd([rest])
        machine.append(MachinePoint(t_s, _nanousd(used or NOTHING), others, revenue * NANOUSD))
    return Curves({agent: _changes(found) for agent, found in points.items()}, tuple(machine))


def _nanousd(costs: Sequence[Fraction]) -> tuple[int, ...]:
    return tuple(round_half_up(cost * NANOUSD) for cost in costs)


def _add_flows(sums: PeriodSums, rates: Mapping[RunId, Rates], spent: dict[str, list[Fraction]]) -> Fraction:
    """Add what agents used to ``spent``; returns what was of no agent."""
    rest = Fraction(0)
    for flow in sums.flows:
        account = sums.accounts[flow.account]
        if flow.resource not in COST_RESOURCES or account.kind is Kind.MACHINE:
            continue
        cost = rates[flow.run].microusd[flow.resource] * flow.amount
        if account.kind is Kind.AGENT:
            mine = spent.setdefault(account.agent, list(NOTHING))
            mine[COST_RESOURCES.index(flow.resource)] += cost
        else:
            rest += cost
    return rest


def _periods(began_us: int, duration_s: float) -> Iterator[tuple[float, Period]]:
    """Moments of the job, and what is entered up to each since the one before."""
    step_s = max(LEAST_STEP_S, duration_s / MOST_POINTS)
    since_us, number = 0, 0
    while (t_s := number * step_s) < duration_s:
        until_us = began_us + round(t_s * 1e6)
        yield round(t_s, 3), Period(since_us, until_us)
        since_us, number = until_us, number + 1
    yield round(duration_s, 3), Period(since_us, LAST_US)


def _changes(points: Sequence[CostPoint]) -> tuple[CostPoint, ...]:
    """Without those between two that say the same: a line through the others is the same line."""
    before, after = [None, *points[:-1]], [*points[1:], None]
    return tuple(
        point
        for last, point, following in zip(before, points, after, strict=True)
        if last is None or following is None or not last.nanousd == point.nanousd == following.nanousd
    )
