"""What every picture of the page is drawn with: one axis of time, filled step functions, coordinates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1180
LEFT = 112
RIGHT = 16
AXIS_HEIGHT = 36
CHART_TOP, CHART_HEIGHT = 26, 70
LANE_HEIGHT, LANE_GAP = 25, 6
HEADER_HEIGHT = 24

Level = tuple[float, float]
"""A step function: (time, value from then on)."""


@dataclass(frozen=True, slots=True)
class PictureScale:
    """Where a moment and a length lie. Both runs share one, so that they can be compared by eye."""

    end_s: float
    max_tokens: int
    max_bytes: int
    max_bill_nanousd: int = 1
    """The larger of the largest bill and the largest revenue."""

    def x(self, t_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(t_s, 0.0), self.end_s) / self.end_s


def lane_picture(
    scale: PictureScale,
    ident: str,
    said: tuple[str, str],
    chart: Sequence[str],
    groups: Iterable[tuple[str, Sequence[str], Callable[[float, float], str]]],
    lane: Callable[[str, float], str],
    mark_s: float | None = None,
) -> str:
    """A chart over time, and below it a lane for each agent, as an SVG element.

    ``said``: title and description, for a screen reader. ``groups``: a customer each, with what stands over
    its lanes, its agents, and what is drawn over them, from top to bottom. ``lane`` draws an agent at a
    height.
    ``mark_s``: where another run had ended.
    """
    drawn: list[str] = []
    bottom: float = CHART_TOP + CHART_HEIGHT + 14
    for head, agents, over in groups:
        top = bottom + HEADER_HEIGHT
        drawn.append(f'<text class="group" x="0" y="{px(bottom + 15)}">{head}</text>')
        heights = [top + number * (LANE_HEIGHT + LANE_GAP) for number in range(len(agents) + 1)]
        drawn += [lane(agent, y) for agent, y in zip(agents, heights, strict=False)]
        drawn.append(over(top, heights[-1]))
        bottom = heights[-1] + 4
    parts = [
        _open_svg(scale, ident, bottom + AXIS_HEIGHT, *said),
        axis(scale, CHART_TOP, bottom),
        *chart,
        *drawn,
        "" if mark_s is None else mark(scale, mark_s, CHART_TOP, bottom),
        f'<line class="cursor" y1="{CHART_TOP}" y2="{px(bottom)}" visibility="hidden"/>',
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def group_head(name: str, service_tier: str, more: str = "") -> str:
    """The line that names a customer."""
    return f'{escape(name)}<tspan class="soft" dx="6">service tier {escape(service_tier)}{more}</tspan>'


def chart_frame(said: str, most: str, drawn: str) -> str:
    """The chart over the lanes: what it says, its highest value, and its base."""
    base = CHART_TOP + CHART_HEIGHT
    return (
        f'<g><text class="small" x="{LEFT}" y="14">{escape(said, quote=False)}</text>'
        f'<text class="label" x="{LEFT - 8}" y="{CHART_TOP + 9}">{escape(most)}</text>'
        f'<text class="label" x="{LEFT - 8}" y="{base}">0</text>{drawn}{base_line(base)}</g>'
    )


def base_line(base: float) -> str:
    return f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{px(base)}" y2="{px(base)}"/>'


def lane_frame(agent: str, y: float, labels: str, drawn: str) -> str:
    """A lane with its labels, and a surface for the pointer."""
    return (
        f'<g class="lane" data-agent="{escape(agent)}">{labels}'
        f'<rect class="hit" x="{LEFT}" y="{px(y)}" width="{WIDTH - LEFT - RIGHT}" height="{LANE_HEIGHT}"/>'
        f"{drawn}</g>"
    )


def stacked(kinds: Sequence[str], rows: Iterable[Sequence[int]]) -> dict[str, list[int]]:
    """From the top down, each layer as the sum of itself and everything below it. ``kinds`` and the values of
    a row go from the ground up. Sums painted over one another need half the coordinates of separate bands."""
    sums = [list(itertools.accumulate(row)) for row in rows]
    return {kind: [row[at] for row in sums] for at, kind in reversed(list(enumerate(kinds)))}


def _open_svg(scale: PictureScale, ident: str, height: float, title: str, description: str) -> str:
    """The element's head, with what a screen reader says and what the page's script needs."""
    return (
        f'<svg class="picture" id="{ident}" viewBox="0 0 {WIDTH} {px(height)}" role="img" '
        f'aria-labelledby="{ident}-title {ident}-desc" data-end="{scale.end_s:.3f}" data-left="{LEFT}" '
        f'data-right="{WIDTH - RIGHT}">\n'
        f'<title id="{ident}-title">{escape(title)}</title>\n'
        f'<desc id="{ident}-desc">{escape(description)}</desc>'
    )


def visible(times: Sequence[float], sums: Mapping[str, Sequence[float]]) -> Iterable[tuple[str, list[Level]]]:
    """The layers that are not covered whole by the next one down."""
    for (kind, heights), covering in itertools.zip_longest(sums.items(), list(sums.values())[1:]):
        if heights != covering:
            yield kind, list(zip(times, map(float, heights), strict=True))


def area(
    css: str, levels: Sequence[Level], scale: PictureScale, unit: float, base: float, end_s: float
) -> str:
    """A filled step function over ``base``, ``unit`` pixels per unit; nothing when it is zero throughout."""
    end_x = scale.x(end_s)
    points = steps([(scale.x(t), value * unit) for t, value in levels], end_x)
    if not any(height for _, height in points):
        return ""
    path = [f"M{px(points[0][0])} {px(base)}"]
    path += [f"H{px(x)}V{px(base - height)}" for x, height in points]
    path.append(f"H{px(end_x)}V{px(base)}Z")
    return f'<path class="{css}" d="{"".join(path)}"/>'


def steps(points: Sequence[tuple[float, float]], end_x: float) -> list[tuple[float, float]]:
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


def axis(scale: PictureScale, top: float, bottom: float) -> str:
    """Seconds since the job began, from ``top`` down to ``bottom``."""
    parts = []
    step = _tick_step(scale.end_s)
    for tick in itertools.takewhile(lambda t: t <= scale.end_s, (step * n for n in itertools.count())):
        x = px(scale.x(tick))
        label = f"{tick:g} s" if tick else "0"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{px(top)}" y2="{px(bottom)}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{px(bottom + 14)}">{label}</text>')
    parts.append(
        f'<text class="tick end" x="{WIDTH - RIGHT}" y="{px(bottom + 29)}">seconds since the job began</text>'
    )
    return f'<g class="axis">{"".join(parts)}</g>'


def _tick_step(end_s: float) -> float:
    """A round step that gives six to twelve ticks."""
    rough = end_s / 10
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)


def mark(scale: PictureScale, mark_s: float, top: float, bottom: float) -> str:
    """Where the run with KV tiers had ended."""
    x = scale.x(mark_s)
    return (
        f'<line class="mark" x1="{px(x)}" x2="{px(x)}" y1="{px(top)}" y2="{px(bottom + 18)}"/>'
        f'<text class="small" x="{px(x + 5)}" y="{px(bottom + 29)}">with KV tiers all was done here: '
        f"{mark_s:.1f} s</text>"
    )


def px(value: float) -> str:
    """A coordinate in pixels, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
