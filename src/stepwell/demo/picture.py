"""The picture: over time, where each agent's KV lay. One lane per agent, deeper KV tiers lower.

Hand-written SVG: the page must open anywhere, without a network and without a library. Colours are
CSS variables of the page (``assets/page.css``), so that one picture serves light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from stepwell.demo.drawing import (
    AXIS_HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Level,
    PictureScale,
    area,
    axis,
    mark,
    open_svg,
    px,
    visible,
)
from stepwell.demo.figures import CustomerFigures, FillPoint, LanePoint, RunFigures
from stepwell.demo.record import DemoTurn
from stepwell.units import format_size

FILL_TOP = 26
FILL_HEIGHT = 70
LANE_HEIGHT = 25
STRIP_HEIGHT = 4
LANE_GAP = 6
HEADER_HEIGHT = 24


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
    groups: list[str] = []
    bottom: float = FILL_TOP + FILL_HEIGHT + 14
    for customer in customers:
        group, bottom = _customer(run, customer, scale, bottom)
        groups.append(group)
    line = mark(scale, mark_s, FILL_TOP, bottom) if mark_s is not None and mark_s < run.duration_s else ""
    parts = [
        open_svg(
            scale,
            ident,
            bottom + AXIS_HEIGHT,
            f"{run.name}: where the KV of each agent lay, over {run.duration_s:.1f} seconds",
            _description(run),
        ),
        axis(scale, FILL_TOP, bottom),
        _fill_chart(run, scale),
        *groups,
        line,
        f'<line class="cursor" y1="{FILL_TOP}" y2="{px(bottom)}" visibility="hidden"/>',
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


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


def _customer(run: RunFigures, customer: CustomerFigures, scale: PictureScale, y: float) -> tuple[str, float]:
    """The lanes of one customer's agents under a line that names them; and where the next begins."""
    tenant = customer.name.lower()
    parts = [
        f'<text class="group" x="0" y="{px(y + 15)}">{escape(customer.name)}'
        f'<tspan class="soft" dx="6">service tier {escape(customer.service_tier)}</tspan></text>',
    ]
    y += HEADER_HEIGHT
    top = y
    for agent in [agent for agent in run.lanes if agent.split("/")[0] == tenant]:
        parts.append(_lane(run, agent, scale, y))
        y += LANE_HEIGHT + LANE_GAP
    parts.append(_answered(run, tenant, scale, top, y))
    return "\n".join(part for part in parts if part), y + 4


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


def _lane(run: RunFigures, agent: str, scale: PictureScale, y: float) -> str:
    """One agent: the stack of its KV, its turns below, and a surface for the pointer."""
    base = y + LANE_HEIGHT - STRIP_HEIGHT
    role = agent.split("/")[1]
    unit = (LANE_HEIGHT - STRIP_HEIGHT) / scale.max_tokens
    layers = "".join(
        area(f"kv-{kind}", levels, scale, unit, base, run.duration_s)
        for kind, levels in _lane_layers(run.lanes[agent])
    )
    turns = "".join(_turn(turn, scale, base) for turn in run.turns if turn.agent == agent)
    return (
        f'<g class="lane" data-agent="{escape(agent)}"><text class="label" x="{LEFT - 8}" y="{px(base - 3)}">'
        f"{escape(role)}</text>"
        f'<rect class="hit" x="{LEFT}" y="{px(y)}" width="{WIDTH - LEFT - RIGHT}" height="{LANE_HEIGHT}"/>'
        f"{layers}{turns}</g>"
    )


def _lane_layers(points: Sequence[LanePoint]) -> Iterable[tuple[str, list[Level]]]:
    """From the surface down, each layer as the sum of itself and everything below it.

    Painting the sums over one another needs half the coordinates of separate bands.
    """
    absent = [max(0, p.tokens - p.device - p.host - p.disk) for p in points]
    disk = [deeper + p.disk for deeper, p in zip(absent, points, strict=True)]
    host = [deeper + p.host for deeper, p in zip(disk, points, strict=True)]
    device = [deeper + p.device for deeper, p in zip(host, points, strict=True)]
    yield from visible(
        [p.t_s for p in points], {"device": device, "host": host, "disk": disk, "absent": absent}
    )


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
    base = FILL_TOP + FILL_HEIGHT
    layers = "".join(
        area(f"kv-{kind}", levels, scale, FILL_HEIGHT / scale.max_bytes, base, run.duration_s)
        for kind, levels in _fill_layers(run.fill)
    )
    x = LEFT - 8
    return (
        f"<g>{_fill_label(run)}"
        f'<text class="label" x="{x}" y="{FILL_TOP + 9}">{escape(format_size(scale.max_bytes))}</text>'
        f'<text class="label" x="{x}" y="{base}">0</text>{layers}'
        f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/></g>'
    )


def _fill_label(run: RunFigures) -> str:
    """What the KV tiers held at most, against what they may hold."""
    said = []
    for tier, peak in run.peak_bytes.items():
        limit = run.capacity.limit_bytes(tier)
        said.append(f"{tier} at most {format_size(peak)} of {format_size(limit)}" if limit else f"{tier} off")
    return f'<text class="small" x="{LEFT}" y="14">KV held: {escape("; ".join(said))}</text>'


def _fill_layers(points: Sequence[FillPoint]) -> Iterable[tuple[str, list[Level]]]:
    disk = [p.disk_bytes for p in points]
    host = [p.disk_bytes + p.host_bytes for p in points]
    device = [p.disk_bytes + p.host_bytes + p.device_bytes for p in points]
    yield from visible([p.t_s for p in points], {"device": device, "host": host, "disk": disk})
