"""The picture: over time, where each agent's KV lay. One lane per agent, deeper KV tiers lower.

Hand-written SVG: the page must open anywhere, without a network and without a library. Colours are
CSS variables of the page (``assets/page.css``), so that one picture serves light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape

from stepwell.basics.units import format_size
from stepwell.demo.drawing import (
    CHART_HEIGHT,
    CHART_TOP,
    LANE_GAP,
    LANE_HEIGHT,
    LEFT,
    PictureScale,
    area,
    chart_frame,
    group_head,
    lane_frame,
    lane_picture,
    px,
    stacked,
    visible,
)
from stepwell.demo.figures import CustomerFigures, RunFigures
from stepwell.demo.record import DemoTurn

STRIP_HEIGHT = 4
PLACES = ("absent", "disk", "host", "device")
"""Of an agent's tokens, from the ground up."""


def common_scale(runs: Sequence[RunFigures]) -> PictureScale:
    """The scale that holds every run."""
    points = [point for run in runs for lane in run.lanes.values() for point in lane]
    stacked = (p.device_bytes + p.host_bytes + p.disk_bytes for run in runs for p in run.fill)
    books = [run.ledger for run in runs if run.ledger is not None]
    bills = (max(p.bill_nanousd, p.revenue_nanousd) for book in books for p in book.over_time)
    return PictureScale(
        end_s=max((1.0, *(run.duration_s for run in runs))),
        max_tokens=max((1, *(max(p.tokens, p.device + p.host + p.disk) for p in points))),
        max_bytes=max((1, *stacked)),
        max_bill_nanousd=max((1, *bills)),
    )


def draw_run(
    run: RunFigures,
    customers: Sequence[CustomerFigures],
    scale: PictureScale,
    ident: str,
    mark_s: float | None = None,
) -> str:
    """One run as an SVG element. ``mark_s`` draws a line at the moment when the other run had ended."""
    title = f"{run.name}: where the KV of each agent lay, over {run.duration_s:.1f} seconds"
    groups = [
        (
            group_head(customer.name, customer.service_tier),
            [agent for agent in run.lanes if agent.split("/")[0] == customer.name.lower()],
            partial(_answered, run, customer.name.lower(), scale),
        )
        for customer in customers
    ]
    return lane_picture(
        scale, ident, (title, _description(run)), [_fill_chart(run, scale)], groups,
        partial(_lane, run, scale), mark_s if mark_s is not None and mark_s < run.duration_s else None,
    )  # fmt: skip


def _description(run: RunFigures) -> str:
    peaks = ", ".join(f"{tier} {format_size(size)}" for tier, size in run.peak_bytes.items())
    return (
        f"One lane for each of {len(run.lanes)} agents; the height of a lane is the length of the agent's "
        "context, its "
        "colours say how much of it lay on the device, in host memory, on disk or nowhere. Most ever held: "
        f"{peaks}. "
        "The same figures are in the tables below."
    )


# --- the lanes ---------------------------------------------------------------------------------


def _answered(run: RunFigures, tenant: str, scale: PictureScale, top: float, bottom: float) -> str:
    """A line where the customer's answer was complete: its last token."""
    ends = [turn.end_s for turn in run.turns if turn.tenant == tenant]
    if not ends or tenant not in run.answers:
        return ""
    x = scale.x(max(ends))
    return (
        f'<line class="answered" x1="{px(x)}" x2="{px(x)}" y1="{px(top - 4)}" y2="{px(bottom - LANE_GAP)}"/>'
        f'<text class="small end" x="{px(x)}" y="{px(top - 9)}">answer after {max(ends):.1f} s</text>'
    )


def _lane(run: RunFigures, scale: PictureScale, agent: str, y: float) -> str:
    """One agent: the stack of its KV, and its turns below."""
    base = y + LANE_HEIGHT - STRIP_HEIGHT
    unit = (LANE_HEIGHT - STRIP_HEIGHT) / scale.max_tokens
    points = run.lanes[agent]
    sums = stacked(PLACES, [(p.absent, p.disk, p.host, p.device) for p in points])
    layers = "".join(
        area(f"kv-{kind}", levels, scale, unit, base, run.duration_s)
        for kind, levels in visible([p.t_s for p in points], sums)
    )
    turns = "".join(_turn(turn, scale, base) for turn in run.turns if turn.agent == agent)
    role = escape(agent.split("/")[1])
    label = f'<text class="label" x="{LEFT - 8}" y="{px(base - 3)}">{role}</text>'
    return lane_frame(agent, y, label, layers + turns)


def _turn(turn: DemoTurn, scale: PictureScale, base: float) -> str:
    """A thin line while the agent waits for its first token, a thick one while tokens come."""
    start, first, end = (scale.x(t) for t in (turn.start_s, turn.first_token_s, turn.end_s))
    cached = (
        ", ".join(f"{count:,} from {tier}" for tier, count in turn.cached_tokens.items() if count) or "none"
    )
    title = (
        f"turn {turn.number}, {turn.task}: first token after {turn.ttft_s:.2f} s, prompt "
        f"{turn.prompt_tokens:,} tokens, "
        f"cached {cached}, recomputed {turn.recomputed_tokens:,}"
    )
    return (
        f'<g class="turn"><title>{escape(title)}</title>'
        f'<rect class="ttft" x="{px(start)}" y="{px(base + 2.2)}" width="{px(max(0.6, first - start))}" '
        'height="1.2"/>'
        f'<rect class="out" x="{px(first)}" y="{px(base + 1)}" width="{px(max(1.2, end - first))}" '
        'height="3.4"/></g>'
    )


# --- the fill of the KV tiers --------------------------------------------------------------------


def _fill_chart(run: RunFigures, scale: PictureScale) -> str:
    """What the KV tiers held, at most against what they may hold."""
    sums = stacked(PLACES[1:], [(p.disk_bytes, p.host_bytes, p.device_bytes) for p in run.fill])
    unit, base = CHART_HEIGHT / scale.max_bytes, CHART_TOP + CHART_HEIGHT
    layers = "".join(
        area(f"kv-{kind}", levels, scale, unit, base, run.duration_s)
        for kind, levels in visible([p.t_s for p in run.fill], sums)
    )
    said = []
    for tier, peak in run.peak_bytes.items():
        limit = run.capacity.limit_bytes(tier)
        said.append(f"{tier} at most {format_size(peak)} of {format_size(limit)}" if limit else f"{tier} off")
    return chart_frame(f"KV held: {'; '.join(said)}", format_size(scale.max_bytes), layers)
