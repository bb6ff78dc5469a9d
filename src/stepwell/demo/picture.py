"""The picture: over time, where each agent's KV lay. One lane per agent, deeper KV tiers lower.

Hand-written SVG: the page must open anywhere, without a network and without a library. Colours are
CSS variables of the page (``assets/page.css``), so that one picture serves light and dark.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from stepwell.demo.figures import CustomerFigures, FillPoint, LanePoint, RunFigures
from stepwell.demo.record import Turn
from stepwell.units import format_size

WIDTH = 1180
LEFT = 112
RIGHT = 16
FILL_TOP = 26
FILL_HEIGHT = 70
LANE_HEIGHT = 25
STRIP_HEIGHT = 4
LANE_GAP = 6
HEADER_HEIGHT = 24
AXIS_HEIGHT = 36

Level = tuple[float, float]
"""A step function: (time, value from then on)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a moment and a length lie. Both runs share one, so that they can be compared by eye."""

    end_s: float
    max_tokens: int
    max_bytes: int

    def x(self, t_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(t_s, 0.0), self.end_s) / self.end_s


def common_scale(runs: Sequence[RunFigures]) -> Scale:
    """The scale that holds every run."""
    points = [point for run in runs for lane in run.lanes.values() for point in lane]
    stacked = (p.device_bytes + p.host_bytes + p.disk_bytes for run in runs for p in run.fill)
    return Scale(
        end_s=max((1.0, *(run.duration_s for run in runs))),
        max_tokens=max((1, *(max(p.tokens, p.device + p.host + p.disk) for p in points))),
        max_bytes=max((1, *stacked)),
    )


def draw_run(
    run: RunFigures,
    customers: Sequence[CustomerFigures],
    scale: Scale,
    ident: str,
    mark_s: float | None = None,
) -> str:
    """One run as an SVG element. ``mark_s`` draws a line at the moment when the other run had ended."""
    groups: list[str] = []
    bottom: float = FILL_TOP + FILL_HEIGHT + 14
    for customer in customers:
        group, bottom = _customer(run, customer, scale, bottom)
        groups.append(group)
    mark = _mark(scale, mark_s, FILL_TOP, bottom) if mark_s is not None and mark_s < run.duration_s else ""
    parts = [
        _open_svg(run, scale, ident, bottom + AXIS_HEIGHT),
        _axis(scale, FILL_TOP, bottom),
        _fill_chart(run, scale),
        *groups,
        mark,
        f'<line class="cursor" y1="{FILL_TOP}" y2="{_n(bottom)}" visibility="hidden"/>',
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _open_svg(run: RunFigures, scale: Scale, ident: str, height: float) -> str:
    """The element's head, with what a screen reader says and what the page's script needs."""
    return (
        f'<svg class="picture" id="{ident}" viewBox="0 0 {WIDTH} {_n(height)}" role="img" '
        f'aria-labelledby="{ident}-title {ident}-desc" data-end="{scale.end_s:.3f}" data-left="{LEFT}" '
        f'data-right="{WIDTH - RIGHT}">\n'
        f'<title id="{ident}-title">{escape(run.name)}: where the KV of each agent lay, over '
        f"{run.duration_s:.1f} seconds</title>\n"
        f'<desc id="{ident}-desc">{escape(_description(run))}</desc>'
    )


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


def _customer(run: RunFigures, customer: CustomerFigures, scale: Scale, y: float) -> tuple[str, float]:
    """The lanes of one customer's agents under a line that names them; and where the next begins."""
    tenant = customer.name.lower()
    parts = [
        f'<text class="group" x="0" y="{_n(y + 15)}">{escape(customer.name)}'
        f'<tspan class="soft" dx="6">service tier {escape(customer.service_tier)}</tspan></text>',
    ]
    y += HEADER_HEIGHT
    top = y
    for agent in [agent for agent in run.lanes if agent.split("/")[0] == tenant]:
        parts.append(_lane(run, agent, scale, y))
        y += LANE_HEIGHT + LANE_GAP
    parts.append(_answered(run, tenant, scale, top, y))
    return "\n".join(part for part in parts if part), y + 4


def _answered(run: RunFigures, tenant: str, scale: Scale, top: float, bottom: float) -> str:
    """A line where the customer's answer was complete: its last token."""
    ends = [turn.end_s for turn in run.turns if turn.tenant == tenant]
    if not ends or tenant not in run.answers:
        return ""
    x = scale.x(max(ends))
    return (
        f'<line class="answered" x1="{_n(x)}" x2="{_n(x)}" y1="{_n(top - 4)}" y2="{_n(bottom - LANE_GAP)}"/>'
        f'<text class="small end" x="{_n(x)}" y="{_n(top - 9)}">answer after {max(ends):.1f} s</text>'
    )


def _lane(run: RunFigures, agent: str, scale: Scale, y: float) -> str:
    """One agent: the stack of its KV, its turns below, and a surface for the pointer."""
    base = y + LANE_HEIGHT - STRIP_HEIGHT
    role = agent.split("/")[1]
    layers = "".join(
        _area(kind, levels, scale, (LANE_HEIGHT - STRIP_HEIGHT) / scale.max_tokens, base, run.duration_s)
        for kind, levels in _lane_layers(run.lanes[agent])
    )
    turns = "".join(_turn(turn, scale, base) for turn in run.turns if turn.agent == agent)
    return (
        f'<g class="lane" data-agent="{escape(agent)}"><text class="label" x="{LEFT - 8}" y="{_n(base - 3)}">'
        f"{escape(role)}</text>"
        f'<rect class="hit" x="{LEFT}" y="{_n(y)}" width="{WIDTH - LEFT - RIGHT}" height="{LANE_HEIGHT}"/>'
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
    yield from _visible(
        [p.t_s for p in points], {"device": device, "host": host, "disk": disk, "absent": absent}
    )


def _visible(times: Sequence[float], sums: dict[str, list[int]]) -> Iterable[tuple[str, list[Level]]]:
    """The layers that are not covered whole by the next one down."""
    for (kind, heights), covering in itertools.zip_longest(sums.items(), list(sums.values())[1:]):
        if heights != covering:
            yield kind, list(zip(times, map(float, heights), strict=True))


def _turn(turn: Turn, scale: Scale, base: float) -> str:
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
        f'<rect class="ttft" x="{_n(start)}" y="{_n(base + 2.2)}" width="{_n(max(0.6, first - start))}" '
        'height="1.2"/>'
        f'<rect class="out" x="{_n(first)}" y="{_n(base + 1)}" width="{_n(max(1.2, end - first))}" '
        'height="3.4"/></g>'
    )


# --- the fill of the KV tiers --------------------------------------------------------------------


def _fill_chart(run: RunFigures, scale: Scale) -> str:
    base = FILL_TOP + FILL_HEIGHT
    layers = "".join(
        _area(kind, levels, scale, FILL_HEIGHT / scale.max_bytes, base, run.duration_s)
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
    yield from _visible([p.t_s for p in points], {"device": device, "host": host, "disk": disk})


# --- drawing -------------------------------------------------------------------------------------


def _area(kind: str, levels: Sequence[Level], scale: Scale, unit: float, base: float, end_s: float) -> str:
    """A filled step function over ``base``, ``unit`` pixels per unit; nothing when it is zero throughout."""
    end_x = scale.x(end_s)
    steps = _steps([(scale.x(t), value * unit) for t, value in levels], end_x)
    if not any(height for _, height in steps):
        return ""
    path = [f"M{_n(steps[0][0])} {_n(base)}"]
    path += [f"H{_n(x)}V{_n(base - height)}" for x, height in steps]
    path.append(f"H{_n(end_x)}V{_n(base)}Z")
    return f'<path class="kv-{kind}" d="{"".join(path)}"/>'


def _steps(points: Sequence[tuple[float, float]], end_x: float) -> list[tuple[float, float]]:
    """Points that can be told apart on screen: not closer than half a pixel, and different."""
    kept: list[tuple[float, float]] = []
    for x, height in points:
        if x >= end_x:
            break
        if kept and x - kept[-1][0] < 0.5:
            kept[-1] = (kept[-1][0], height)
        elif not kept or abs(height - kept[-1][1]) >= 0.05:
            kept.append((x, height))
    return kept or [(LEFT, 0.0)]


def _axis(scale: Scale, top: float, bottom: float) -> str:
    parts = []
    step = _tick_step(scale.end_s)
    for tick in itertools.takewhile(lambda t: t <= scale.end_s, (step * n for n in itertools.count())):
        x = _n(scale.x(tick))
        label = f"{tick:g} s" if tick else "0"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_n(top)}" y2="{_n(bottom)}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{_n(bottom + 14)}">{label}</text>')
    parts.append(
        f'<text class="tick end" x="{WIDTH - RIGHT}" y="{_n(bottom + 29)}">seconds since the job began</text>'
    )
    return f'<g class="axis">{"".join(parts)}</g>'


def _tick_step(end_s: float) -> float:
    """A round step that gives six to twelve ticks."""
    rough = end_s / 10
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)


def _mark(scale: Scale, mark_s: float, top: float, bottom: float) -> str:
    x = scale.x(mark_s)
    return (
        f'<line class="mark" x1="{_n(x)}" x2="{_n(x)}" y1="{_n(top)}" y2="{_n(bottom + 18)}"/>'
        f'<text class="small" x="{_n(x + 5)}" y="{_n(bottom + 29)}">with KV tiers all was done here: '
        f"{mark_s:.1f} s</text>"
    )


def _n(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
