"""What a run cost and earned, as the table and the two lines that close the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stepwell.demo.books import COST_RESOURCES, CostLine, LedgerFigures, MachineLine
from stepwell.demo.figures import CustomerFigures, RunFigures
from stepwell.demo.tables import TextTable
from stepwell.ledger.types import Kind, Resource

COLUMNS = (
    "",
    "requests",
    "visible",
    "interm.",
    "per visible",
    "compute",
    "device",
    "host",
    "disk",
    "wear",
    "cost",
    "revenue",
    "margin",
)
TOKEN_COLUMNS = 5
"""Those with the name; the rest is money."""
MACHINE_ROWS = {
    Kind.IDLE.value: "idle",
    Kind.OVERHEAD.value: "overhead of the loop",
    Kind.UNATTRIBUTED.value: "not attributed",
}


def cost_table(run: RunFigures, customers: Sequence[CustomerFigures]) -> TextTable | None:
    """A row per customer, one for each role below it, and what makes them the machine's whole bill. None
    for a run without a ledger."""
    books = run.ledger
    if books is None:
        return None
    tiers = {customer.name.lower(): f"{customer.name} ({customer.service_tier})" for customer in customers}
    rows: list[tuple[str, ...]] = []
    strong: list[int] = []
    for customer in books.customers:
        strong.append(len(rows))
        rows.append(_row(tiers.get(customer.customer, customer.customer), customer))
        rows += [_row(f"  {line.role}", line) for line in books.lines if line.customer == customer.customer]
    strong.append(len(rows))
    rows.append(_row("all agents", books.total))
    for kind, machine_line in books.machine.items():
        if _needed(kind, machine_line):
            rows.append(_machine_row(MACHINE_ROWS[kind], machine_line))
    strong.append(len(rows))
    rows.append(_bill_row(books))
    title = f"Cost and revenue, {run.name[:1].lower()}{run.name[1:]} (tokens; u$: millionths of a dollar)"
    return TextTable(title, COLUMNS, tuple(rows), tuple(strong), TOKEN_COLUMNS)


def _needed(kind: str, line: MachineLine) -> bool:
    return kind != Kind.UNATTRIBUTED.value or any(line.amounts.values())


def _row(name: str, line: CostLine) -> tuple[str, ...]:
    amplification = line.amplification
    return (
        name,
        f"{line.requests:,}",
        f"{line.visible_tokens:,}",
        f"{line.intermediate_tokens:,}",
        "-" if amplification is None else f"{amplification:,.1f}",
        *_costs(line.cost_microusd, line.amounts),
        f"{line.total_cost_microusd:,}",
        f"{line.revenue_microusd:,}",
        f"{line.margin_microusd:,}",
    )


def _money(microusd: int, amount: int) -> str:
    """What is there and too small to be written in whole micro-dollars does not look like nothing."""
    return "<1" if amount and not microusd else f"{microusd:,}"


def _costs(cost: Mapping[str, int], amounts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(_money(cost[r.value], amounts[r.value]) for r in COST_RESOURCES)


def _machine_row(name: str, line: MachineLine) -> tuple[str, ...]:
    costs = _costs(line.cost_microusd, line.amounts)
    return (name, "", "", "", "", *costs, f"{line.total_cost_microusd:,}", "", "")


def _bill_row(books: LedgerFigures) -> tuple[str, ...]:
    """Everything above it that is not a part of another line, added up."""
    parts: list[CostLine | MachineLine] = [books.total, *books.machine.values()]
    cost = {r.value: sum(part.cost_microusd[r.value] for part in parts) for r in COST_RESOURCES}
    amounts = {r.value: sum(part.amounts[r.value] for part in parts) for r in COST_RESOURCES}
    bill = (f"{books.bill_microusd:,}", f"{books.total.revenue_microusd:,}", f"{books.margin_microusd:,}")
    return (*_row("the machine", books.total)[:TOKEN_COLUMNS], *_costs(cost, amounts), *bill)


def cost_sentences(run: RunFigures) -> list[str]:
    """What the table means, and whether the books are right; nothing for a run without a ledger."""
    books = run.ledger
    if books is None:
        return []
    return [f"{_earned(books)} {_amplified(books.total)}{_displaced(books.total)}", verified(books)]


def _earned(books: LedgerFigures) -> str:
    left, bill = books.margin_microusd, books.bill_microusd
    kept = f"{left:,} u$ are left" if left >= 0 else f"{-left:,} u$ are missing"
    used = books.total.total_cost_microusd / bill if bill else 0.0
    return (
        f"Customers paid {books.total.revenue_microusd:,} u$ for a machine that cost {bill:,}: {kept}. "
        f"Agents used {used:.0%} of what it cost, the rest was idle or the loop's own work."
    )


def _amplified(total: CostLine) -> str:
    if total.amplification is None:
        return (
            f"The {total.intermediate_tokens:,} tokens that agents wrote are for one another: the answers "
            "are sentences of the document."
        )
    return (
        f"For every token that a customer saw, agents wrote {total.amplification:.1f} for one another; "
        "those are paid for like any other."
    )


def _displaced(total: CostLine) -> str:
    """Recomputation for want of room: what was lost is computed again, so it is in the compute already."""
    if not total.lost_microusd:
        return ""
    compute = total.cost_microusd[Resource.COMPUTE.value]
    share = f", {total.lost_microusd / compute:.0%} of all" if compute else ""
    return f" {total.lost_microusd:,} u$ of compute{share}, went into KV that others had displaced."


def verified(books: LedgerFigures) -> str:
    """One line on whether the books add up."""
    looked_at = f"{books.postings:,} postings, {books.accounts:,} accounts"
    if not books.differences:
        return f"verify: the books are right ({looked_at})"
    more = f" (and {len(books.differences) - 1:,} more)" if len(books.differences) > 1 else ""
    return f"verify: the books are wrong ({looked_at}): {books.differences[0]}{more}"
