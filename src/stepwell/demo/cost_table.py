"""What a run cost and earned, as the table and the two lines that close the demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stepwell.demo.books import COST_RESOURCES, CostLine, LedgerFigures
from stepwell.demo.figures import RunFigures
from stepwell.demo.record import DemoCustomer
from stepwell.demo.tables import TextTable
from stepwell.ledger.types import Kind, Resource

COLUMNS = (
    *("", "requests", "visible", "interm.", "per visible"),
    *("compute", "device", "host", "disk", "wear", "cost", "revenue", "margin"),
)
MACHINE_ROWS = {
    Kind.IDLE.value: "idle",
    Kind.OVERHEAD.value: "overhead of the loop",
    Kind.UNATTRIBUTED.value: "not attributed",
}


def cost_table(run: RunFigures, customers: Sequence[DemoCustomer]) -> TextTable | None:
    """A row per customer, one for each role below it, and what makes them the machine's whole bill. None
    for a run without a ledger."""
    books = run.ledger
    if books is None:
        return None
    names = {customer.name.lower(): f"{customer.name} ({customer.service_tier})" for customer in customers}
    rows: list[tuple[str, ...]] = []
    for customer in books.customers:
        rows.append(_row(names.get(customer.customer, customer.customer), customer))
        rows += [_row(f"  {line.role}", line) for line in books.lines if line.customer == customer.customer]
    rows.append(_row("all agents", books.total))
    for kind, line in books.machine.items():
        if kind != Kind.UNATTRIBUTED.value or any(line.amounts.values()):
            name, *cells = _row(MACHINE_ROWS[kind], line)
            rows.append((name, "", "", "", "", *cells[4:-2], "", ""))
    rows.append(_row("the machine", _bill(books)))
    strong = tuple(at for at, row in enumerate(rows) if row[1] and not row[0].startswith(" "))
    title = f"Cost and revenue, {run.name[:1].lower()}{run.name[1:]} (tokens; u$: millionths of a dollar)"
    return TextTable(title, COLUMNS, tuple(rows), strong)


def _row(name: str, line: CostLine) -> tuple[str, ...]:
    """What is there and too small to be written in whole micro-dollars does not look like nothing."""
    amplification = line.amplification
    costs = ((line.cost_microusd[one.value], line.amounts[one.value]) for one in COST_RESOURCES)
    return (
        name,
        f"{line.requests:,}",
        f"{line.visible_tokens:,}",
        f"{line.intermediate_tokens:,}",
        "-" if amplification is None else f"{amplification:,.1f}",
        *("<1" if amount and not microusd else f"{microusd:,}" for microusd, amount in costs),
        f"{line.total_cost_microusd:,}",
        f"{line.revenue_microusd:,}",
        f"{line.margin_microusd:,}",
    )


def _bill(books: LedgerFigures) -> CostLine:
    """Agents and what is of none, added up."""
    cost, amounts = Counter(books.total.cost_microusd), Counter(books.total.amounts)
    for line in books.machine.values():
        cost.update(line.cost_microusd)
        amounts.update(line.amounts)
    total = books.total
    return CostLine(
        "", "", cost, amounts, total.requests, total.visible_tokens, total.intermediate_tokens,
        total.revenue_microusd,
    )  # fmt: skip


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
