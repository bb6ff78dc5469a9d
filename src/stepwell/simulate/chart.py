"""One picture per trace and room: what each policy's misses cost, and of what that is made.

Self-contained SVG with its own style: it opens anywhere, light or dark, without a network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from html import escape

from stepwell.simulate.report import RunReport
from stepwell.simulate.tables import REFERENCE, find, name_of, seconds

WIDTH, LEFT, RIGHT = 1080, 150, 390
TOP, BAR, GAP, AXIS = 84, 22, 9, 34
PARTS = (("again", "computed again"), ("copies", "copied from host"), ("waits", "waited for disk"))
_HEADS = ((-290, "cost"), (-200, "x bound"), (-78, "TTFT p99, priority"), (-14, "flex"))
_CLIP = 2.5
"""A bar that is longer than so many of LRU's is cut: one policy that thrashes must not hide the others."""

STYLE = """
:root { --paper: #fbfaf7; --ink: #1c2430; --soft: #5a6473; --grid: #e6e4dd; --mark: #b3261e;
  --again: #f0a52b; --copies: #2f9e93; --waits: #1c4a80; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e8eaee; --soft: #a3acb9;
  --grid: #2a303a; --mark: #ff8a80; --again: #f7c25c; --copies: #2fa59a; --waits: #2f62ad; } }
.paper { fill: var(--paper); } .again { fill: var(--again); } .copies { fill: var(--copies); }
.waits { fill: var(--waits); } text { fill: var(--ink); font: 13px system-ui, "DejaVu Sans", sans-serif; }
.soft { fill: var(--soft); font-size: 12px; } .title { font-size: 16px; font-weight: 650; }
.end { text-anchor: end; } .middle { text-anchor: middle; } .grid { stroke: var(--grid); }
.mark { stroke: var(--mark); stroke-dasharray: 4 3; }
"""


def chart(title: str, runs: Sequence[RunReport]) -> str:
    """Bars of the cost of misses, shortest first; a dashed line at the lower bound.

    A bar that is cut at the right says so with a mark; its figure stands beside it.
    """
    ordered = sorted(runs, key=lambda run: (run.miss_s, run.policy, run.declared))
    bottom = TOP + len(ordered) * (BAR + GAP)
    longest_s = _longest_s(ordered)
    body = [*_head(title), *_axis(longest_s, bottom)]
    for row, run in enumerate(ordered):
        body += _bar(run, TOP + row * (BAR + GAP), longest_s)
    bound = next((run.bound for run in runs if run.bound is not None), None)
    if bound is not None:
        x = _n(_x(bound.miss_s, longest_s))
        body.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP - 4}" y2="{bottom}"/>')
    height = bottom + AXIS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>{"".join(body)}</svg>\n'
    )


def _longest_s(runs: Sequence[RunReport]) -> float:
    longest_s = max([run.miss_s for run in runs], default=0.0) or 1.0
    reference = find(runs, REFERENCE)
    return min(longest_s, _CLIP * reference.miss_s) if reference and reference.miss_s else longest_s


def _head(title: str) -> Iterator[str]:
    yield f'<text class="title" x="16" y="28">{escape(title)}: cost of misses</text>'
    x = LEFT
    for kind, label in PARTS:
        yield f'<rect class="{kind}" x="{x}" y="44" width="12" height="12"/>'
        yield f'<text class="soft" x="{x + 18}" y="54">{label}</text>'
        x += 150
    for offset, label in _HEADS:
        yield f'<text class="soft end" x="{WIDTH + offset}" y="74">{label}</text>'


def _axis(longest_s: float, bottom: float) -> Iterator[str]:
    step = _step(longest_s)
    for tick in itertools.takewhile(lambda t: t <= longest_s, (step * n for n in itertools.count())):
        x = _n(_x(tick, longest_s))
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 4}" y2="{_n(bottom)}"/>'
        yield f'<text class="soft middle" x="{x}" y="{_n(bottom + 16)}">{tick:g} s</text>'


def _bar(run: RunReport, y: float, longest_s: float) -> Iterator[str]:
    text_y = _n(y + BAR - 6)
    yield f'<text class="end" x="{LEFT - 10}" y="{text_y}">{escape(name_of(run))}</text>'
    start_s = 0.0
    for (kind, label), part_s in zip(PARTS, (run.again_s, run.copy_in_s, run.disk_wait_s), strict=True):
        left, right = _x(start_s, longest_s), _x(start_s + part_s, longest_s)
        yield (
            f'<rect class="{kind}" x="{_n(left)}" y="{_n(y)}" width="{_n(right - left)}" height="{BAR}">'
            f"<title>{escape(name_of(run))}: {label} {seconds(part_s)}</title></rect>"
        )
        start_s += part_s
    if start_s > longest_s:
        yield f'<text x="{_n(_x(longest_s, longest_s) + 6)}" y="{text_y}">»</text>'
    for (offset, _), text in zip(_HEADS, _figures(run), strict=True):
        yield f'<text class="end" x="{WIDTH + offset}" y="{text_y}">{text}</text>'


def _figures(run: RunReport) -> list[str]:
    against = run.times_bound
    waits = {tier.service_tier: tier.ttft for tier in run.tiers}
    ttft = [waits.get(name) for name in ("priority", "flex")]
    last = [seconds(one.p99_s) if one is not None and one.count else "-" for one in ttft]
    return [seconds(run.miss_s), "-" if against is None else f"{against:.2f}x", *last]


def _x(value_s: float, longest_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(value_s, longest_s) / longest_s


def _step(longest_s: float) -> float:
    """A round step that gives three to six ticks."""
    rough = longest_s / 5
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)


def _n(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
