"""The accuracy-cost frontier as one picture: every candidate, and the line that none of them is above.

Self-contained SVG with its own style: it opens anywhere, light or dark, without a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from stepwell.fit.outcomes import MICROUSD_PER_USD, Evaluation

WIDTH, HEIGHT = 960, 560
LEFT, RIGHT, TOP, BOTTOM = 72, 40, 100, 500
STYLE = """
:root { --paper: #fbfaf7; --ink: #1c2430; --soft: #5a6473; --grid: #e6e4dd; --dot: #9aa3b0;
  --line: #1c4a80; --held: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e8eaee; --soft: #a3acb9;
  --grid: #2a303a; --dot: #6b7482; --line: #7fb0ee; --held: #ff8a80; } }
.paper { fill: var(--paper); } text { fill: var(--ink); font: 13px system-ui, "DejaVu Sans", sans-serif; }
.soft { fill: var(--soft); font-size: 12px; } .title { font-size: 16px; font-weight: 650; }
.name { font-weight: 650; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
 .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--grid); } .dot { fill: var(--dot); } .mark { fill: var(--line); }
.frontier { fill: none; stroke: var(--line); stroke-width: 1.5; }
.held { fill: var(--held); } .span { stroke: var(--held); stroke-width: 1.5; }
"""


@dataclass(frozen=True, slots=True)
class ChartScale:
    """Where figures are drawn. Costs stand on a logarithmic axis: profiles differ by factors."""

    least_cost: float
    most_cost: float
    least_share: float
    most_share: float

    def x(self, cost: float) -> float:
        width = math.log(self.most_cost / self.least_cost)
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(max(cost, self.least_cost) / self.least_cost) / width

    def y(self, share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (share - self.least_share) / (self.most_share - self.least_share)


def frontier(candidates: Sequence[Evaluation], in_money: bool) -> list[Evaluation]:
    """Those that none beats: every other one costs more or is right less often. The cheapest first."""
    best: list[Evaluation] = []
    for one in sorted(candidates, key=lambda one: (one.mean_cost(in_money), -one.share)):
        if not best or one.share > best[-1].share:
            best.append(one)
    return best


def draw(
    title: str,
    candidates: Sequence[Evaluation],
    held_out: Sequence[Evaluation],
    in_money: bool,
    named: Sequence[str],
) -> str:
    """``candidates`` as dots with their frontier; ``held_out`` as diamonds with their intervals.

    Candidates whose label is in ``named`` are marked with it.
    """
    scale = _scale([*candidates, *held_out], in_money)
    body = [*_head(title), *_grid(scale, in_money)]
    body.append(_stairs(frontier(candidates, in_money), scale, in_money))
    marked = [one for one in candidates if one.label in named]
    body += [_dot(one, scale, in_money, "dot") for one in candidates if one not in marked]
    body += [_dot(one, scale, in_money, "mark") for one in marked]
    body += [part for one in held_out for part in _diamond(one, scale, in_money)]
    body += _names(marked, scale, in_money)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>{"".join(body)}</svg>\n'
    )


def _scale(shown: Sequence[Evaluation], in_money: bool) -> ChartScale:
    costs = [cost for one in shown if (cost := one.mean_cost(in_money)) > 0] or [1.0]
    accuracies = [one.accuracy for one in shown]
    low = min(_bound(one.low, one.value) for one in accuracies)
    high = max(_bound(one.high, one.value) for one in accuracies)
    return ChartScale(
        min(costs) / 1.25, max(costs) * 1.25, math.floor(low * 10) / 10, max(0.1, math.ceil(high * 10) / 10)
    )


def _bound(bound: float | None, value: float) -> float:
    return value if bound is None else bound


def _head(title: str) -> Iterator[str]:
    yield f'<text class="title" x="16" y="28">{escape(title)}</text>'
    yield '<circle class="dot" cx="22" cy="52" r="4"/>'
    yield '<text class="soft" x="34" y="56">candidate, half to fit on</text>'
    yield '<path class="frontier" d="M212 56 h8 v-8 h8"/>'
    yield '<text class="soft" x="236" y="56">frontier: none is cheaper and as good</text>'
    yield '<path class="held" d="M480 46 l6 6 l-6 6 l-6 -6 z"/>'
    yield '<text class="soft" x="492" y="56">named ones on the held-out half, with 95 % intervals</text>'


def _grid(scale: ChartScale, in_money: bool) -> Iterator[str]:
    percents = range(round(scale.least_share * 100), round(scale.most_share * 100) + 1)
    step = 5 if len(percents) <= 52 else 10
    for percent in percents[::step]:
        y = scale.y(percent / 100)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="soft end" x="{LEFT - 8}" y="{y + 4:.1f}">{percent} %</text>'
    for cost in _ticks(scale.least_cost, scale.most_cost):
        x = scale.x(cost)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>'
        yield f'<text class="soft middle" x="{x:.1f}" y="{BOTTOM + 18}">{_shown(cost, in_money)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    unit = "USD per thousand items" if in_money else "tokens per item, prompt and answer"
    yield f'<text class="middle" x="{middle:.0f}" y="{BOTTOM + 42}">Cost: {unit} (logarithmic)</text>'
    yield f'<text x="16" y="{TOP - 16}">Right answers</text>'


def _ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 of every power of ten between; all of its digits where that gives fewer than three."""
    powers = [10.0**power for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]
    few = [power * digit for power in powers for digit in (1, 2, 5)]
    many = [power * digit / 2 for power in powers for digit in range(2, 20)]
    inside = [tick for tick in few if least <= tick <= most]
    return inside if len(inside) >= 3 else [tick for tick in many if least <= tick <= most]


def _shown(cost: float, in_money: bool) -> str:
    return f"{cost * 1_000 / MICROUSD_PER_USD:g}" if in_money else f"{cost:,.0f}"


def _place(one: Evaluation, scale: ChartScale, in_money: bool) -> str:
    return f"{scale.x(one.mean_cost(in_money)):.1f},{scale.y(one.share):.1f}"


def _stairs(best: Sequence[Evaluation], scale: ChartScale, in_money: bool) -> str:
    """What is to be had at a cost is the best that costs no more: level, then up, never between two."""
    points: list[str] = []
    for one in best:
        x, y = _place(one, scale, in_money).split(",")
        points += [f"{x},{points[-1].split(',')[1]}"] if points else []
        points.append(f"{x},{y}")
    points.append(f"{WIDTH - RIGHT},{points[-1].split(',')[1]}")
    return f'<polyline class="frontier" points="{" ".join(points)}"/>'


def _dot(one: Evaluation, scale: ChartScale, in_money: bool, kind: str) -> str:
    x, y = _place(one, scale, in_money).split(",")
    radius = 7 if kind == "mark" else 4
    told = f"{one.label}: {100 * one.share:.1f} %, {_shown(one.mean_cost(in_money), in_money)}"
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}"><title>{escape(told)}</title></circle>'


def _diamond(one: Evaluation, scale: ChartScale, in_money: bool) -> Iterator[str]:
    x, y = scale.x(one.mean_cost(in_money)), scale.y(one.share)
    low, high = (scale.y(_bound(end, one.share)) for end in (one.accuracy.low, one.accuracy.high))
    yield f'<line class="span" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    yield (
        f'<path class="held" d="M{x:.1f} {y - 5:.1f} l5 5 l-5 5 l-5 -5 z">'
        f"<title>{escape(one.label)}, held-out half: {100 * one.share:.1f} %</title></path>"
    )


def _names(marked: Sequence[Evaluation], scale: ChartScale, in_money: bool) -> Iterator[str]:
    """Beside their dots; names that would cover each other share one line."""
    at: dict[tuple[int, int], list[Evaluation]] = {}
    for one in marked:
        x, y = scale.x(one.mean_cost(in_money)), scale.y(one.share)
        close = (key for key in at if abs(key[0] - x) < 70 and abs(key[1] - y) < 16)
        near = next(close, (round(x), round(y)))
        at.setdefault(near, []).append(one)
    for (left, top), together in at.items():
        label = ", ".join(one.label for one in together)
        end = left > WIDTH - RIGHT - 90
        kind, x = ("name end", left - 10) if end else ("name", left + 10)
        yield f'<text class="{kind}" x="{x}" y="{top - 8}">{escape(label)}</text>'
