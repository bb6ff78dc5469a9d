"""What the ledger of one run says: per customer and role, per agent, and whether it adds up.

Read after the server is gone, from the closed books: what ``stepwell ledger margin --by tenant,role`` says.
Money is whole micro-dollars, as the ledger has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stepwell.ledger.reading import queries
from stepwell.ledger.reading.margin import MarginGroup, PeriodSums, margin, read_sums, total_of
from stepwell.ledger.reading.queries import Period
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.types import Kind, Resource

COST_RESOURCES = (Resource.COMPUTE, Resource.DEVICE, Resource.HOST, Resource.DISK, Resource.WRITTEN)
"""What costs money, in the order of the table. Copies and reads cost the compute time that they take."""


@dataclass(frozen=True, slots=True)
class CostLine:
    """One customer's agents of one role, several of those together, or what is of no agent. Money in
    micro-dollars."""

    customer: str
    """The tenant; empty: all of them, or none."""
    role: str
    """Empty: all of them."""
    cost_microusd: dict[str, int]
    """By resource."""
    amounts: dict[str, int]
    """What was used, in each resource's own unit."""
    requests: int = 0
    visible_tokens: int = 0
    intermediate_tokens: int = 0
    revenue_microusd: int = 0
    lost_microusd: int = 0
    """Of the compute: done again because others took the room of its KV."""

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
class LedgerFigures:
    """The books of one run."""

    price_book: str
    cost_book: str
    lines: tuple[CostLine, ...]
    """Per customer and role."""
    customers: tuple[CostLine, ...]
    total: CostLine
    machine: dict[str, CostLine]
    """``idle``, ``overhead`` and ``unattributed``: what no customer pays for by name."""
    bill_microusd: int
    """What agents cost and what is of none: the machine, from the server's start to its end."""
    agents: dict[str, int]
    """What each agent cost."""
    postings: int
    accounts: int
    differences: tuple[str, ...]
    """What ``stepwell ledger verify`` found wrong; nothing: the books are right."""

    @property
    def margin_microusd(self) -> int:
        """What is left when the whole bill is paid."""
        return self.total.revenue_microusd - self.bill_microusd


def read_ledger(path: str, agents: Sequence[str], price_book: str, cost_book: str) -> LedgerFigures:
    """Everything the picture and the tables need of a closed ledger with this run alone.

    ``agents``: ``tenant/name``, in the order in which they are shown. Raises ``LedgerError`` or ``BadInput``.
    """
    store = open_store(path, create=False)
    try:
        sums, rates = read_sums(store, Period()), rates_of(queries.runs(store))
        checked = verify(store)
    finally:
        store.close()
    by_role = margin(sums, rates, ("tenant", "role"))
    cost = {line.group[0]: line.cost_microusd for line in margin(sums, rates, ("agent",)).lines}
    # Customers in the order in which they are shown, the dearest role of each first.
    of = {tenant: [line for line in by_role.lines if line.group[0] == tenant] for tenant in tenants(agents)}
    return LedgerFigures(
        price_book=price_book,
        cost_book=cost_book,
        lines=tuple(cost_line(tenant, line.group[1], line) for tenant in of for line in of[tenant]),
        customers=tuple(cost_line(tenant, "", total_of(lines)) for tenant, lines in of.items()),
        total=cost_line("", "", by_role.total),
        machine={
            kind.value: CostLine("", kind.value, _by_resource(costs), _by_resource(_used_by(sums, kind)))
            for kind, costs in by_role.machine.items()
        },
        bill_microusd=by_role.bill_microusd,
        agents={agent: cost[agent] for agent in agents if agent in cost},
        postings=checked.postings,
        accounts=checked.accounts,
        differences=tuple(difference.sentence for difference in checked.differences),
    )


def cost_line(customer: str, role: str, line: MarginGroup) -> CostLine:
    """A line of the ledger's own statement of margins."""
    return CostLine(
        customer,
        role,
        _by_resource(line.cost),
        _by_resource(line.amounts),
        line.counts.requests,
        line.counts.visible_tokens,
        line.counts.intermediate_tokens,
        line.revenue_microusd,
        line.lost_microusd,
    )


def tenants(agents: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(agent.split("/")[0] for agent in agents))


def _by_resource(numbers: Mapping[Resource, int]) -> dict[str, int]:
    return {resource.value: numbers.get(resource, 0) for resource in COST_RESOURCES}


def _used_by(sums: PeriodSums, kind: Kind) -> Counter[Resource]:
    amounts: Counter[Resource] = Counter()
    for flow in sums.flows:
        if sums.accounts[flow.account].kind is kind:
            amounts[flow.resource] += flow.amount
    return amounts
