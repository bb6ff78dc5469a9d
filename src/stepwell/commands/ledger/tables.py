"""Statements as tables of a terminal: eighty columns are enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwell.console.fitting import UNBOUNDED, fitted
from stepwell.ledger.reading.export import usd
from stepwell.ledger.reading.grouping import Group
from stepwell.ledger.reading.margin import STORAGE, Exchange, Margin, MarginGroup
from stepwell.ledger.reading.queries import Counts
from stepwell.ledger.reading.statements import Statement
from stepwell.ledger.types import Kind, Resource

MACHINE_NAMES = {Kind.IDLE: "(idle)", Kind.OVERHEAD: "(loop)", Kind.UNATTRIBUTED: "(lost)"}
MACHINE_LEGEND = "(loop): deciding, sampling, waiting; (lost): used by an account that is not known"
LEAST_NAME_CHARS = 6
WHOLE_FIELDS = ("day", "week", "month")
"""A time that is cut is another time: as with figures, none is."""
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


TOKENS = ("visible", "interm.")


class NameTable:
    """A table whose first columns are names, cut to what the figures leave of the line. Figures and times are
    never cut: where they leave nothing, each row is a block of lines."""

    def __init__(self, title: str, names: Sequence[str], figures: Sequence[str]) -> None:
        self._title, self._names, self._figures = title, names, figures
        self._rows: list[tuple[list[str], list[str], str]] = []

    def add(self, group: Sequence[str], figures: Iterable[str], style: str = "") -> None:
        """A line; names that are missing stay empty."""
        names = [printable(name) or "-" for name in group] + [""] * (len(self._names) - len(group))
        self._rows.append((names, list(figures), style))

    def show(self, console: Console, left_out: int = 0) -> None:
        table = Table(title=self._title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for name in self._names:
            table.add_column(name.replace("-", " "), no_wrap=True)
        for figure in self._figures:
            table.add_column(figure, justify="right", no_wrap=True)
        room, needed = self._room(console.width), self._needed()
        fits = room >= sum(most if self._whole(at) else LEAST_NAME_CHARS for at, most in enumerate(needed))
        widths = self._widths(room if fits else UNBOUNDED, needed)
        for names, figures, style in self._rows:
            cut = map(_cut, self._names, names, widths)
            table.add_row(*(Text(name) for name in cut), *figures, style=style)
        console.print(fitted(console, table), soft_wrap=True)
        if left_out:
            console.print(f"and {left_out:,} more (--limit, --json)")
        console.print()

    def _room(self, width: int) -> int:
        """What the names have: columns are as wide as their figures, or as they are by default."""
        columns = zip(*(figures for _, figures, _ in self._rows), strict=True) if self._rows else ()
        taken = [max(map(len, column)) for column in columns] or [0] * len(self._figures)
        wide = sum(max(most, len(title)) for most, title in zip(taken, self._figures, strict=True))
        return width - wide - len(self._figures) - len(self._names)

    def _needed(self) -> list[int]:
        columns = zip(self._names, *(names for names, _, _ in self._rows), strict=True)
        return [max(map(len, column)) for column in columns]

    def _whole(self, at: int) -> bool:
        return self._names[at].removeprefix("for ") in WHOLE_FIELDS

    def _widths(self, room: int, needed: Sequence[int]) -> list[int]:
        """What each column of names gets: times and short ones what they need, the others the rest in equal
        parts."""
        widths = dict.fromkeys(range(len(needed)), LEAST_NAME_CHARS)
        order = sorted(range(len(needed)), key=lambda at: (not self._whole(at), needed[at]))
        for left, at in enumerate(order):
            fair = needed[at] if self._whole(at) else max(LEAST_NAME_CHARS, room // (len(needed) - left))
            widths[at] = min(needed[at], fair)
            room -= widths[at]
        return list(widths.values())


def printable(text: str) -> str:
    """Names are what clients said; none of them moves the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _cut(field: str, text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"…{text[1 - most :]}" if field in TAIL_FIELDS else f"{text[: most - 1]}…"


def show_statement(console: Console, found: Statement, title: str, limit: int) -> None:
    """Tokens, and what they were charged."""
    figures = ("requests", "input", "cached", *TOKENS, "charge USD")
    sheet = NameTable(title, found.fields, figures)
    for row in found.rows[:limit]:
        sheet.add(row.group, _usage(row.counts))
    sheet.add(["(all)"], _usage(found.total), "bold")
    sheet.show(console, len(found.rows) - limit if len(found.rows) > limit else 0)


def _usage(counts: Counts) -> list[str]:
    tokens = (counts.input_tokens, counts.cached_tokens, counts.visible_tokens, counts.intermediate_tokens)
    return [amount(counts.requests), *map(amount, tokens), money(counts.charge_microusd)]


def show_margin(console: Console, found: Margin, title: str, limit: int) -> None:
    """Earnings, costs by resource, and which agents displaced which."""
    lines, left_out = found.lines[:limit], max(0, len(found.lines) - limit)
    _earnings(found, lines, title).show(console, left_out)
    _costs(found, lines).show(console, left_out)
    if found.machine:
        console.print(MACHINE_LEGEND + "\n", style="dim", soft_wrap=True)
    if found.exchanges:
        _exchanges(found, found.exchanges[:limit]).show(console, max(0, len(found.exchanges) - limit))


def _earnings(found: Margin, lines: Sequence[MarginGroup], title: str) -> NameTable:
    figures = (*TOKENS, "amplif.", "revenue", "cost", "margin", "of rev.")
    sheet = NameTable(f"{title} (USD)", found.fields, figures)
    for line in lines:
        sheet.add(line.group, earned(line))
    sheet.add(["(all)"], earned(found.total), "bold")
    return sheet


def earned(line: MarginGroup) -> list[str]:
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


def _costs(found: Margin, lines: Sequence[MarginGroup]) -> NameTable:
    figures = ("compute", "device", "host", "disk", "written", "total", "(between)")
    title = "Cost by resource (USD); between: KV of agents without a request under way"
    sheet = NameTable(title, found.fields, figures)
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


def _exchanges(found: Margin, exchanges: Sequence[Exchange]) -> NameTable:
    names = [*found.fields, *(f"for {name}" for name in found.fields)]
    sheet = NameTable("Computed again because others took the room", names, ("seconds", "USD"))
    for one in exchanges:
        sheet.add([*one.victim, *one.beneficiary], [f"{one.amount_us / 1e6:,.3f}", money(one.cost_microusd)])
    return sheet


def show_top(console: Console, fields: Sequence[str], lines: Sequence[MarginGroup], title: str) -> None:
    """The first lines of an order."""
    figures = (*TOKENS, "storage", "lost", "revenue", "cost", "margin")
    sheet = NameTable(title, fields, figures)
    for line in lines:
        sheet.add(line.group, top_figures(line))
    sheet.show(console)


def top_figures(line: MarginGroup) -> list[str]:
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
