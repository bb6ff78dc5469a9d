"""The picture: over time, where each agent's KV lay. One lane per agent, deeper KV tiers lower.

Hand-written SVG: no plotting library has such lanes, and the page must open anywhere, without a network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from stepwell.basics.units import format_size
from stepwell.demo.figures import RunFigures
from stepwell.demo.record import DemoCustomer, DemoTurn

WIDTH, LEFT, RIGHT = 1180, 112, 16
END = WIDTH - RIGHT
CHART_TOP, CHART_HEIGHT = 26, 70
CHART_BASE = CHART_TOP + CHART_HEIGHT
LANE_HEIGHT, LANE_GAP, STRIP_HEIGHT = 25, 6, 4
HEADER_HEIGHT, AXIS_HEIGHT = 24, 36
PLACES = ("absent", "disk", "host", "device")
"""Of an agent's tokens, from the ground up."""


@dataclass(frozen=True, slots=True)
class PictureScale:
    """Where a moment and a length lie. Both runs share one, so that they can be compared by eye."""

    end_s: float
    max_tokens: int
    max_bytes: int

    def x(self, t_s: float) -> float:
        return LEFT + (END - LEFT) * min(max(t_s, 0.0), self.end_s) / self.end_s


def common_scale(runs: Sequence[RunFigures]) -> PictureScale:
    """The scale that holds every run."""
    points = [point for run in runs for lane in run.lanes.values() for point in lane]
    filled = (p.device_bytes + p.host_bytes + p.disk_bytes for run in runs for p in run.fill)
    return PictureScale(
        end_s=max((1.0, *(run.duration_s for run in runs))),
        max_tokens=max((1, *(max(p.tokens, p.device + p.host + p.disk) for p in points))),
        max_bytes=max((1, *filled)),
    )


def draw_run(
    run: RunFigures,
    customers: Sequence[DemoCustomer],
    scale: PictureScale,
    ident: str,
    mark_s: float | None = None,
) -> str:
    """One run as an SVG element. ``mark_s`` draws a line at the moment when the other run had ended."""
    drawn: list[str] = []
    bottom: float = CHART_BASE + 14
    for customer in customers:
        tenant, top = customer.name.lower(), bottom + HEADER_HEIGHT
        tier = f'<tspan class="soft" dx="6">service tier {escape(customer.service_tier)}</tspan>'
        drawn.append(_text("group", 0, bottom + 15, escape(customer.name) + tier))
        agents = [agent for agent in run.lanes if agent.split("/")[0] == tenant]
        heights = [top + number * (LANE_HEIGHT + LANE_GAP) for number in range(len(agents) + 1)]
        drawn += [_lane(run, scale, agent, y) for agent, y in zip(agents, heights, strict=False)]
        drawn.append(_answered(run, tenant, scale, top, heights[-1]))
        bottom = heights[-1] + 4
    if mark_s is not None and mark_s < run.duration_s:
        drawn.append(_mark(scale, mark_s, bottom))
    parts = [_head(run, scale, ident, bottom), _axis(scale, bottom), _fill_chart(run, scale), *drawn]
    cursor = f'<line class="cursor" y1="{CHART_TOP}" y2="{px(bottom)}" visibility="hidden"/>'
    return "\n".join([*filter(None, parts), cursor, "</svg>"])


def _head(run: RunFigures, scale: PictureScale, ident: str, bottom: float) -> str:
    """The element's head, with what a screen reader says and what the page's script needs."""
    peaks = ", ".join(f"{tier} {format_size(size)}" for tier, size in run.peak_bytes.items())
    title = f"{run.name}: where the KV of each agent lay, over {run.duration_s:.1f} seconds"
    description = (
        f"One lane for each of {len(run.lanes)} agents; the height of a lane is the length of the agent's "
        "context, its colours say how much of it lay on the device, in host memory, on disk or nowhere. "
        f"Most ever held: {peaks}. The same figures are in the tables below."
    )
    return (
        f'<svg class="picture" id="{ident}" viewBox="0 0 {WIDTH} {px(bottom + AXIS_HEIGHT)}" role="img" '
        f'aria-labelledby="{ident}-title {ident}-desc" data-end="{scale.end_s:.3f}" data-left="{LEFT}" '
        f'data-right="{END}">\n<title id="{ident}-title">{escape(title)}</title>\n'
        f'<desc id="{ident}-desc">{escape(description)}</desc>'
    )


# --- the lanes ---------------------------------------------------------------------------------


def _lane(run: RunFigures, scale: PictureScale, agent: str, y: float) -> str:
    """One agent: the stack of its KV, its turns below, and a surface for the pointer."""
    base, points = y + LANE_HEIGHT - STRIP_HEIGHT, run.lanes[agent]
    unit = (LANE_HEIGHT - STRIP_HEIGHT) / scale.max_tokens
    rows = [(p.absent, p.disk, p.host, p.device) for p in points]
    layers = _layers(PLACES, [p.t_s for p in points], rows, scale, unit, base, run.duration_s)
    turns = "".join(_turn(turn, scale, base) for turn in run.turns if turn.agent == agent)
    return (
        f'<g class="lane" data-agent="{escape(agent)}">'
        + _text("label", LEFT - 8, base - 3, escape(agent.split("/")[1]))
        + f'<rect class="hit" x="{LEFT}" y="{px(y)}" width="{END - LEFT}" height="{LANE_HEIGHT}"/>'
        f"{layers}{turns}</g>"
    )


def _turn(turn: DemoTurn, scale: PictureScale, base: float) -> str:
    """A thin line while the agent waits for its first token, a thick one while tokens come."""
    start, first, end = (scale.x(t) for t in (turn.start_s, turn.first_token_s, turn.end_s))
    cached = [f"{count:,} from {tier}" for tier, count in turn.cached_tokens.items() if count]
    title = (
        f"turn {turn.number}, {turn.task}: first token after {turn.ttft_s:.2f} s, prompt "
        f"{turn.prompt_tokens:,} tokens, cached {', '.join(cached) or 'none'}, "
        f"recomputed {turn.recomputed_tokens:,}"
    )
    return (
        f'<g class="turn"><title>{escape(title)}</title>'
        f'<rect class="ttft" x="{px(start)}" y="{px(base + 2.2)}" width="{px(max(0.6, first - start))}" '
        f'height="1.2"/><rect class="out" x="{px(first)}" y="{px(base + 1)}" '
        f'width="{px(max(1.2, end - first))}" height="3.4"/></g>'
    )


def _answered(run: RunFigures, tenant: str, scale: PictureScale, top: float, bottom: float) -> str:
    """A line where the customer's answer was complete: its last token."""
    ends = [turn.end_s for turn in run.turns if turn.tenant == tenant]
    if not ends or tenant not in run.answers:
        return ""
    x = scale.x(max(ends))
    said = _text("small end", x, top - 9, f"answer after {max(ends):.1f} s")
    return _line("answered", x, x, top - 4, bottom - LANE_GAP) + said


# --- over and under them -------------------------------------------------------------------------


def _fill_chart(run: RunFigures, scale: PictureScale) -> str:
    """What the KV tiers held, at most against what they may hold."""
    rows = [(p.disk_bytes, p.host_bytes, p.device_bytes) for p in run.fill]
    times, unit = [p.t_s for p in run.fill], CHART_HEIGHT / scale.max_bytes
    said = []
    for tier, peak in run.peak_bytes.items():
        limit = run.capacity.limit_bytes(tier)
        said.append(f"{tier} at most {format_size(peak)} of {format_size(limit)}" if limit else f"{tier} off")
    return (
        "<g>"
        + _text("small", LEFT, 14, f"KV held: {'; '.join(said)}")
        + _text("label", LEFT - 8, CHART_TOP + 9, format_size(scale.max_bytes))
        + _text("label", LEFT - 8, CHART_BASE, "0")
        + _layers(PLACES[1:], times, rows, scale, unit, CHART_BASE, run.duration_s)
        + _line("base", LEFT, END, CHART_BASE, CHART_BASE)
        + "</g>"
    )


def _axis(scale: PictureScale, bottom: float) -> str:
    """Seconds since the job began, with six to twelve round ticks."""
    size = 10.0 ** math.floor(math.log10(scale.end_s / 10))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= scale.end_s / 10)
    parts = []
    for tick in (step * number for number in range(int(scale.end_s / step) + 1)):
        parts.append(_line("grid", scale.x(tick), scale.x(tick), CHART_TOP, bottom))
        parts.append(_text("tick", scale.x(tick), bottom + 14, f"{tick:g} s" if tick else "0"))
    parts.append(_text("tick end", END, bottom + 29, "seconds since the job began"))
    return f'<g class="axis">{"".join(parts)}</g>'


def _mark(scale: PictureScale, mark_s: float, bottom: float) -> str:
    """Where the run with KV tiers had ended."""
    x, said = scale.x(mark_s), f"with KV tiers all was done here: {mark_s:.1f} s"
    return _line("mark", x, x, CHART_TOP, bottom + 18) + _text("small", x + 5, bottom + 29, said)


# --- drawing -------------------------------------------------------------------------------------


def _layers(
    kinds: Sequence[str],
    times: Sequence[float],
    rows: Sequence[Sequence[int]],
    scale: PictureScale,
    unit: float,
    base: float,
    end_s: float,
) -> str:
    """A stack of filled step functions over ``base``, ``unit`` pixels per unit. ``kinds`` and the values of a
    row go from the ground up; each layer is painted as the sum of itself and all below it, from the top down,
    which needs half the coordinates of separate bands. One that the next covers whole is left out."""
    sums = list(zip(*(itertools.accumulate(row) for row in rows), strict=True))[::-1]
    drawn = []
    for kind, heights, covering in itertools.zip_longest(kinds[::-1], sums, sums[1:]):
        if heights and heights != covering and any(heights):
            places = [(scale.x(t), height * unit) for t, height in zip(times, heights, strict=True)]
            steps = _apart(places, scale.x(end_s))
            line = "".join(f"H{px(x)}V{px(base - height)}" for x, height in steps)
            path = f"M{px(steps[0][0])} {px(base)}{line}H{px(scale.x(end_s))}V{px(base)}Z"
            drawn.append(f'<path class="kv-{kind}" d="{path}"/>')
    return "".join(drawn)


def _apart(points: Sequence[tuple[float, float]], end_x: float) -> list[tuple[float, float]]:
    """Points that can be told apart on screen: not closer than half a pixel, and different."""
    kept: list[tuple[float, float]] = []
    for x, height in itertools.takewhile(lambda point: point[0] < end_x, points):
        if kept and x - kept[-1][0] < 0.5:
            kept[-1] = (kept[-1][0], height)
        elif not kept or abs(height - kept[-1][1]) >= 0.05:
            kept.append((x, height))
    return kept or [(LEFT, 0.0)]


def _line(css: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{css}" x1="{px(x1)}" x2="{px(x2)}" y1="{px(y1)}" y2="{px(y2)}"/>'


def _text(css: str, x: float, y: float, markup: str) -> str:
    return f'<text class="{css}" x="{px(x)}" y="{px(y)}">{markup}</text>'


def px(value: float) -> str:
    """A coordinate in pixels, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
