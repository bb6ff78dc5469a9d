"""The second picture: what each agent cost, over time. The same lanes on the same axis, money in place of
tokens: a lane grows with what its agent has cost so far, in the colours of what was paid for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape

from stepwell.demo.books import NANOUSD, CostLine, LedgerFigures
from stepwell.demo.drawing import (
    CHART_HEIGHT,
    CHART_TOP,
    LANE_HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Level,
    PictureScale,
    base_line,
    chart_frame,
    group_head,
    lane_frame,
    lane_picture,
    px,
    stacked,
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
AMOUNT_WIDTH = 36


def draw_costs(run: RunFigures, customers: Sequence[CustomerFigures], scale: PictureScale, ident: str) -> str:
    """One run's costs as an SVG element; empty for a run without a ledger."""
    books = run.ledger
    if books is None:
        return ""
    most = max((1, *(cost.points[-1].total_nanousd for cost in books.agents.values() if cost.points)))
    title = f"{run.name}: what each agent cost, over {run.duration_s:.1f} seconds"
    paid = {line.customer: _paid(line) for line in books.customers}
    groups = [
        (
            group_head(customer.name, customer.service_tier, paid.get(customer.name.lower(), "")),
            [agent for agent in books.agents if agent.split("/")[0] == customer.name.lower()],
            lambda top, bottom: "",
        )
        for customer in customers
    ]
    chart, lane = (
        [_bill(run, books, scale), _lane_note(most)],
        partial(_lane, books, scale, LANE_HEIGHT / most),
    )
    return lane_picture(scale, ident, (title, _description(books)), chart, groups, lane)


def _description(books: LedgerFigures) -> str:
    return (
        f"One lane for each of {len(books.agents)} agents; the height of a lane is what the agent has "
        "cost so far, its colours say for what. Above them the machine's bill and the charges. "
        f"In the end the bill was {books.bill_microusd:,} millionths of a dollar and the revenue "
        f"{books.total.revenue_microusd:,}. The same figures are in the tables below."
    )


def _paid(line: CostLine) -> str:
    return f": cost {line.total_cost_microusd:,} u$, paid {line.revenue_microusd:,} u$"


def _lane(books: LedgerFigures, scale: PictureScale, unit: float, agent: str, y: float) -> str:
    """One agent: what it has cost so far, and what in the end."""
    base, cost = y + LANE_HEIGHT, books.agents[agent]
    sums = stacked(LAYERS, [point.nanousd for point in cost.points])
    layers = _ramps([point.t_s for point in cost.points], sums, scale, unit, base)
    name = escape(agent.split("/", 1)[-1])
    labels = (
        f'<text class="label" x="{LEFT - 8 - AMOUNT_WIDTH}" y="{px(base - 7)}">{name}</text>'
        f'<text class="amount" x="{LEFT - 8}" y="{px(base - 7)}">{cost.cost_microusd:,}</text>'
    )
    return lane_frame(agent, y, labels, layers + base_line(base))


def _ramps(
    times: Sequence[float], sums: Mapping[str, Sequence[int]], scale: PictureScale, unit: float, base: float
) -> str:
    layers = visible(times, sums)
    return "".join(_ramp(f"cost-{kind}", levels, scale, unit, base) for kind, levels in layers)


def _lane_note(most_nanousd: int) -> str:
    """Each run's lanes have a scale of their own: its dearest agent fills one."""
    y = CHART_TOP + CHART_HEIGHT + 14 + 15
    said = f"the height of a lane: {most_nanousd / NANOUSD:,.0f} u$"
    return f'<text class="small end" x="{WIDTH - RIGHT}" y="{y}">{said}</text>'


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
    base, unit = CHART_TOP + CHART_HEIGHT, CHART_HEIGHT / scale.max_bill_nanousd
    points = books.over_time
    rest = {"rest": [point.bill_nanousd for point in points]}
    sums = rest | stacked(LAYERS, [point.agents_nanousd for point in points])
    drawn = _ramps([point.t_s for point in points], sums, scale, unit, base)
    said = (
        f"The machine's bill: {books.bill_microusd:,} u$, of which agents used "
        f"{books.total.total_cost_microusd:,} u$; line: revenue, {books.total.revenue_microusd:,} u$"
    )
    most = f"{scale.max_bill_nanousd / NANOUSD:,.0f} u$"
    return chart_frame(said, most, drawn + _revenue(run, books, scale, unit, base))


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
