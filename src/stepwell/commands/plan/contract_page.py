"""The report of a contract as one page."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import accumulate
from typing import Any

from stepwell.commands.plan.output import amount
from stepwell.economics.cash import Cash
from stepwell.economics.contract_file import ContractPlan
from stepwell.economics.finance import yearly
from stepwell.economics.measures import Measures
from stepwell.economics.uncertainty import Needed, Swing
from stepwell.report import charts
from stepwell.report.page import Page

_YEARLY = ("revenue", "power", "operations", "lease", "capex", "tax", "debt_service")


def contract_page(
    raw: dict[str, Any],
    plan: ContractPlan,
    cash: Cash,
    base: Measures,
    scenarios: dict[str, Measures],
    swung: list[Swing],
    drawn: list[Measures],
    needed: list[Needed],
    answer: str,
    said: list[str],
    seed: int,
) -> Page:
    """All inputs stand at its end, so that the page can be computed again."""
    page = Page(plan.name, answer)
    for line in said:
        page.text(line)
    first = int(plan.start[:4]) + (int(plan.start[5:]) - 1) / 12
    when = [first + month / 12 for month in range(cash.months)]
    page.chart(
        charts.lines(
            "Cumulative cash",
            "year",
            "bn USD",
            when,
            {
                "free cash flow": _billions(accumulate(cash.free())),
                "after debt": _billions(accumulate(cash.to_equity())),
            },
        )
    )
    years = [f"{first + year:.1f}" for year in range(plan.years)]
    lines = {name: yearly(getattr(cash, name)) for name in _YEARLY}
    lines["free cash flow"] = yearly(cash.free())
    page.chart(
        charts.bars(
            "By year",
            "bn USD",
            years,
            {n: _billions(lines[n]) for n in ("revenue", "capex", "free cash flow")},
        )
    )
    page.heading("Years from the start, billions of dollars")
    rows = [(year, *(f"{float(lines[n][i]) / 1e9:,.2f}" for n in lines)) for i, year in enumerate(years)]
    page.table(("year from", *lines), rows)
    page.heading("Scenarios")
    columns = {"as planned": base, **scenarios}
    shown = [(name, *m.as_json().values()) for name, m in columns.items()]
    page.table(("scenario", *base.as_json()), shown)
    _uncertain(page, base, swung, drawn)
    page.heading("What must be true for a present value of zero")
    page.table(
        ("input", "now", "needed"),
        [(n.key, n.now, "none" if n.needed is None else amount(n.needed)) for n in needed],
    )
    page.inputs(dict(_flat(raw)), seed)
    return page


def _uncertain(page: Page, base: Measures, swung: list[Swing], drawn: list[Measures]) -> None:
    """One input at a time, then all at once."""
    if swung:
        swings = [(s.key, _bn(s.at_low.npv), _bn(s.at_high.npv)) for s in swung]
        lows = [(s.key, _bn(s.at_low.cash_low), _bn(s.at_high.cash_low)) for s in swung]
        lows.sort(key=lambda row: -abs(row[2] - row[1]))
        page.chart(charts.tornado("What the present value hangs on", "bn USD", _bn(base.npv), swings))
        page.chart(charts.tornado("What the cash low hangs on", "bn USD", _bn(base.cash_low), lows))
    if drawn:
        page.chart(charts.histogram("Present value over all draws", "bn USD", [_bn(m.npv) for m in drawn]))


def _bn(amount: Decimal) -> float:
    return float(amount) / 1e9


def _billions(amounts: Any) -> list[float]:
    return [_bn(amount) for amount in amounts]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for number, value in enumerate(node):
            yield from _flat(value, f"{prefix}.{number}")
    else:
        yield prefix, node
