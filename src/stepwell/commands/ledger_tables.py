"""Statements as tables of a terminal: eighty columns are enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwell.ledger.export import usd
from stepwell.ledger.grouping import Group
from stepwell.ledger.margin import STORAGE, Exchange, Line, Margin
from stepwell.ledger.queries import Counts
from stepwell.ledger.statements import Statement
from stepwell.ledger.types import Kind, Resource

MACHINE_NAMES = {Kind.IDLE: "(idle)", Kind.OVERHEAD: "(loop)", Kind.UNATTRIBUTED: "(lost)"}
MACHINE_LEGEND = "(loop): deciding, sampling, waiting; (lost): used, but by whom was lost in a crash"
LEAST_NAME_CHARS = 6
TAIL_FIELDS = ("agent", "parent-agent")
"""Of these the end says more than the beginning."""


def money(microusd: int) -> str:
    """Dollars, with as many places as the amount is worth: nine characters below ten million dollars."""
    if abs(microusd) < 1_000_000:
        return usd(microusd)
    whole, _, places = usd(microusd).partition(".")
    kept = 4 if abs(microusd) < 10**9 else 2 if abs(microusd) < 10**10 else 0
    return f"{int(whole):,}.{places[:kept]}".rstrip(".")


def amount(number: int) -> str:
    """A count in at most seven characters."""
    for unit, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if abs(number) >= factor:
            return f"{number / factor:,.1f}{unit}"
    return f"{number:,}"


def amplification(counts: Counts) -> str:
    """Intermediate per visible token."""
    if not counts.visible_tokens:
        return "-"
    return f"{counts.intermediate_tokens / counts.visible_tokens:,.2f}"


def share(part: int, whole: int) -> str:
    """Of hundred; ``-`` of nothing."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    return f"{percent:,.1f} %" if abs(percent) < 100 else f"{percent:,.0f} %"


Figures = Mapping[str, int]
"""Titles of columns, and how many characters they take."""

TOKENS: Figures = {"visible": 7, "interm.": 7}


class Sheet:
    """A table whose first columns are names, cut to what the others leave of the line."""

    def __init__(self, console: Console, title: str, names: Sequence[str], figures: Figures) -> None:
        self._table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        room = console.width - sum(figures.values()) - len(figures) - len(names)
        self._names, self._name_chars = names, max(LEAST_NAME_CHARS, room // max(1, len(names)))
        for name in names:
            self._table.add_column(name.replace("-", " "), no_wrap=True)
        for figure in figures:
            self._table.add_column(figure, justify="right", no_wrap=True)

    def add(self, group: Sequence[str], figures: Iterable[str], style: str = "") -> None:
        """A line; names that are missing stay empty."""
        names = zip(self._names, _filled(group, self._names), strict=True)
        self._table.add_row(*(self._cut(name, text) for name, text in names), *figures, style=style)

    def _cut(self, field: str, text: str) -> Text:
        plain = "".join(c if c.isprintable() else "?" for c in text) or "-"
        if len(plain) > self._name_chars:
            keep = self._name_chars - 1
            plain = f"…{plain[-keep:]}" if field in TAIL_FIELDS else f"{plain[:keep]}…"
        return Text(plain)

    def show(self, console: Console, left_out: int = 0) -> None:
        console.print(self._table)
        if left_out:
            console.print(f"and {left_out:,} more (--limit, --json)")
        console.print()


def _filled(group: Sequence[str], names: Sequence[str]) -> list[str]:
    return [*group, *[" "] * (len(names) - len(group))]


def show_statement(console: Console, found: Statement, title: str, limit: int) -> None:
    """Tokens, and what they were charged."""
    figures = {"requests": 8, "input": 7, "cached": 7, "visible": 7, "interm.": 7, "charge USD": 10}
    sheet = Sheet(console, title, found.fields, figures)
    for row in found.rows[:limit]:
        sheet.add(row.group, _usage(row.counts))
    sheet.add(["(all)"], _usage(found.total), "bold")
    sheet.show(console, len(found.rows) - limit if len(found.rows) > limit else 0)


def _usage(counts: Counts) -> list[str]:
    tokens = (counts.input_tokens, counts.cached_tokens, counts.visible_tokens, counts.intermediate_tokens)
    return [amount(counts.requests), *map(amount, tokens), money(counts.charge_microusd)]


def show_margin(console: Console, found: Margin, title: str, limit: int) -> None:
    """Earnings, costs by resource, and who displaced whom."""
    lines, left_out = found.lines[:limit], max(0, len(found.lines) - limit)
    _earnings(console, found, lines, title).show(console, left_out)
    _costs(console, found, lines).show(console, left_out)
    if found.machine:
        console.print(MACHINE_LEGEND + "\n", style="dim", soft_wrap=True)
    if found.exchanges:
        _exchanges(console, found, found.exchanges[:limit]).show(
            console, max(0, len(found.exchanges) - limit)
        )


def _earnings(console: Console, found: Margin, lines: Sequence[Line], title: str) -> Sheet:
    figures = {**TOKENS, "amplif.": 7, "revenue": 8, "cost": 8, "margin": 9, "of rev.": 7}
    sheet = Sheet(console, f"{title} (USD)", found.fields, figures)
    for line in lines:
        sheet.add(line.group, earned(line))
    sheet.add(["(all)"], earned(found.total), "bold")
    return sheet


def earned(line: Line) -> list[str]:
    """Tokens, revenue, cost and margin of one line."""
    return [
        amount(line.counts.visible_tokens),
        amount(line.counts.intermediate_tokens),
        amplification(line.counts),
        money(line.revenue_microusd),
        money(line.cost_microusd),
        money(line.margin_microusd),
        share(line.margin_microusd, line.revenue_microusd),
    ]


def _costs(console: Console, found: Margin, lines: Sequence[Line]) -> Sheet:
    figures = dict.fromkeys(("compute", "device", "host", "disk", "written", "total"), 8) | {"(between)": 9}
    title = "Cost by resource (USD); between: KV of agents without a request under way"
    sheet = Sheet(console, title, found.fields, figures)
    for line in lines:
        sheet.add(line.group, [*_by_resource(line.cost), money(line.between_microusd)])
    total = found.total
    sheet.add(["(all)"], [*_by_resource(total.cost), money(total.between_microusd)], "bold")
    for kind, cost in found.machine.items():
        sheet.add([MACHINE_NAMES[kind]], [*_by_resource(cost), ""])
    return sheet


def _by_resource(cost: dict[Resource, int]) -> list[str]:
    shown = (Resource.COMPUTE, *STORAGE, Resource.WRITTEN)
    return [*(money(cost.get(resource, 0)) for resource in shown), money(sum(cost.values()))]


def _exchanges(console: Console, found: Margin, exchanges: Sequence[Exchange]) -> Sheet:
    names = [*found.fields, *(f"for {name}" for name in found.fields)]
    sheet = Sheet(console, "Computed again because others took the room", names, {"seconds": 9, "USD": 8})
    for one in exchanges:
        sheet.add([*one.victim, *one.beneficiary], [f"{one.amount_us / 1e6:,.3f}", money(one.cost_microusd)])
    return sheet


def show_top(console: Console, fields: Sequence[str], lines: Sequence[Line], title: str) -> None:
    """The first lines of an order."""
    figures = {**TOKENS, "storage": 8, "lost": 8, "revenue": 8, "cost": 8, "margin": 9}
    sheet = Sheet(console, title, fields, figures)
    for line in lines:
        sheet.add(line.group, top_figures(line))
    sheet.show(console)


def top_figures(line: Line) -> list[str]:
    """``lost``: what computing again for others' sake cost it."""
    return [
        amount(line.counts.visible_tokens),
        amount(line.counts.intermediate_tokens),
        money(line.storage_microusd),
        money(line.lost_microusd),
        money(line.revenue_microusd),
        money(line.cost_microusd),
        money(line.margin_microusd),
    ]


def named(fields: Sequence[str], group: Group) -> dict[str, str]:
    """A group for machines."""
    return {name.replace("-", "_"): value for name, value in zip(fields, group, strict=True)}
