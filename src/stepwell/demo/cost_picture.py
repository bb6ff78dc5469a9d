"""The second picture: what each agent cost, over time. The same lanes on the same axis, money in place of
tokens: a lane grows with what its agent has cost so far, in the colours of what was paid for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import accumulate

from stepwell.demo.books import NANOUSD, AgentCost, CostLine, LedgerFigures
from stepwell.demo.drawing import (
    AXIS_HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Level,
    PictureScale,
    axis,
    open_svg,
    px,
    steps,
    visible,
)
from stepwell.demo.figures import CustomerFigures, RunFigures

LAYERS = ("compute", "device", "host", "disk", "wear")
"""Names of ``COST_RESOURCES``, in their order: from the ground up."""
LEGEND = (
    ("compute", "compute"),
    ("device", "KV on the device"),
    ("host", "KV in host memory"),
    ("disk", "KV on disk"),
    ("wear", "wear of the disk"),
)
BILL_TOP = 26
BILL_HEIGHT = 70
LANE_HEIGHT = 25
LANE_GAP = 6
HEADER_HEIGHT = 24
AMOUNT_WIDTH = 36


def draw_costs(run: RunFigures, customers: Sequence[CustomerFigures], scale: PictureScale, ident: str) -> str:
    """One run's costs as an SVG element; empty for a run without a ledger."""
    books = run.ledger
    if books is None:
        return ""
    most = max((1, *(cost.points[-1].total_nanousd for cost in books.agents.values() if cost.points)))
    groups: list[str] = []
    bottom: float = BILL_TOP + BILL_HEIGHT + 14
    for customer in customers:
        group, bottom = _customer(books, customer, scale, LANE_HEIGHT / most, bottom)
        groups.append(group)
    title = f"{run.name}: what each agent cost, over {run.duration_s:.1f} seconds"
    parts = [
        open_svg(scale, ident, bottom + AXIS_HEIGHT, title, _description(books)),
        axis(scale, BILL_TOP, bottom),
        _bill(run, books, scale),
        _lane_note(most),
        *groups,
        f'<line class="cursor" y1="{BILL_TOP}" y2="{px(bottom)}" visibility="hidden"/>',
        "</svg>",
    ]
    return "\n".join(parts)


def _description(books: LedgerFigures) -> str:
    return (
        f"One lane for each of {len(books.agents)} agents; the height of a lane is what the agent has "
        "cost so far, its colours say for what. Above them the machine's bill and the charges. "
        f"In the end the bill was {books.bill_microusd:,} millionths of a dollar and the revenue "
        f"{books.total.revenue_microusd:,}. The same figures are in the tables below."
    )


def _customer(
    books: LedgerFigures, customer: CustomerFigures, scale: PictureScale, unit: float, y: float
) -> tuple[str, float]:
    """The lanes of one customer's agents under a line that names it; and where the next begins."""
    tenant = customer.name.lower()
    paid = next((line for line in books.customers if line.customer == tenant), None)
    parts = [
        f'<text class="group" x="0" y="{px(y + 15)}">{escape(customer.name)}'
        f'<tspan class="soft" dx="6">service tier {escape(customer.service_tier)}{_paid(paid)}</tspan></text>'
    ]
    y += HEADER_HEIGHT
    for agent, cost in books.agents.items():
        if agent.split("/")[0] == tenant:
            parts.append(_lane(agent, cost, scale, unit, y))
            y += LANE_HEIGHT + LANE_GAP
    return "\n".join(parts), y + 4


def _paid(line: CostLine | None) -> str:
    if line is None:
        return ""
    return f": cost {line.total_cost_microusd:,} u$, paid {line.revenue_microusd:,} u$"


def _lane(agent: str, cost: AgentCost, scale: PictureScale, unit: float, y: float) -> str:
    """One agent: what it has cost so far, and what in the end."""
    base = y + LANE_HEIGHT
    layers = "".join(
        _ramp(f"cost-{kind}", levels, scale, unit, base)
        for kind, levels in visible(
            [point.t_s for point in cost.points], _layers([p.nanousd for p in cost.points])
        )
    )
    name = agent.split("/", 1)[-1]
    return (
        f'<g class="lane" data-agent="{escape(agent)}">'
        f'<text class="label" x="{LEFT - 8 - AMOUNT_WIDTH}" y="{px(base - 7)}">{escape(name)}</text>'
        f'<text class="amount" x="{LEFT - 8}" y="{px(base - 7)}">{cost.cost_microusd:,}</text>'
        f'<rect class="hit" x="{LEFT}" y="{px(y)}" width="{WIDTH - LEFT - RIGHT}" height="{LANE_HEIGHT}"/>'
        f'{layers}<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{px(base)}" y2="{px(base)}"/></g>'
    )


def _lane_note(most_nanousd: int) -> str:
    """Each run's lanes have a scale of their own: its dearest agent fills one."""
    y = BILL_TOP + BILL_HEIGHT + 14 + 15
    said = f"the height of a lane: {most_nanousd / NANOUSD:,.0f} u$"
    return f'<text class="small end" x="{WIDTH - RIGHT}" y="{y}">{said}</text>'


def _layers(costs: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """From the top down, each layer as the sum of itself and everything below it."""
    sums = [list(accumulate(by_resource)) for by_resource in costs]
    return {kind: [row[at] for row in sums] for at, kind in reversed(list(enumerate(LAYERS)))}


def _ramp(css: str, levels: Sequence[Level], scale: PictureScale, unit: float, base: float) -> str:
    """A filled line over ``base``; nothing when it is zero throughout. What something has cost so far grows
    from moment to moment: steps would say that it was paid at once."""
    if not any(value for _, value in levels):
        return ""
    points = [(scale.x(t_s), base - value * unit) for t_s, value in levels]
    line = "".join(f"L{px(x)} {px(y)}" for x, y in points)
    return f'<path class="{css}" d="M{px(points[0][0])} {px(base)}{line}V{px(base)}Z"/>'


def _bill(run: RunFigures, books: LedgerFigures, scale: PictureScale) -> str:
    """The machine's bill so far, and over it what finished turns were charged."""
    base, unit = BILL_TOP + BILL_HEIGHT, BILL_HEIGHT / scale.max_bill_nanousd
    times = [point.t_s for point in books.over_time]
    rest = {"rest": [point.bill_nanousd for point in books.over_time]}
    sums = rest | _layers([point.agents_nanousd for point in books.over_time])
    layers = "".join(
        _ramp(f"cost-{kind}", levels, scale, unit, base) for kind, levels in visible(times, sums)
    )
    used = books.total.total_cost_microusd
    line = _revenue(run, books, scale, unit, base)
    most = f"{scale.max_bill_nanousd / NANOUSD:,.0f}"
    return (
        f'<g><text class="small" x="{LEFT}" y="14">The machine\'s bill: {books.bill_microusd:,} u$, of which '
        f"agents used {used:,} u$; line: revenue, {books.total.revenue_microusd:,} u$</text>"
        f'<text class="label" x="{LEFT - 8}" y="{BILL_TOP + 9}">{most} u$</text>'
        f'<text class="label" x="{LEFT - 8}" y="{base}">0</text>{layers}{line}'
        f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/></g>'
    )


def _revenue(run: RunFigures, books: LedgerFigures, scale: PictureScale, unit: float, base: float) -> str:
    end_x = scale.x(run.duration_s)
    levels = [(scale.x(point.t_s), point.revenue_nanousd * unit) for point in books.over_time]
    path = [f"M{LEFT} {px(base)}", *(f"H{px(x)}V{px(base - height)}" for x, height in steps(levels, end_x))]
    last = levels[-1][1] if levels else 0.0
    path.append(f"H{px(end_x)}V{px(base - last)}")
    return f'<path class="revenue" d="{"".join(path)}"/>'


def cost_data(runs: Sequence[RunFigures]) -> str:
    """The curves for the pointer, in nano-dollars. No ``<`` at all: it could end the script element."""
    data = [
        {}
        if run.ledger is None
        else {
            agent: [[point.t_s, *point.nanousd] for point in cost.points]
            for agent, cost in run.ledger.agents.items()
        }
        for run in runs
    ]
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
