"""Charts in SVG whose every mark carries its cell, so that the verifier can measure them.

A plotting library would draw them better and could not be verified (ADR 17).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from stepwell.review.facts import Cell, Facts
from stepwell.review.outline import Handle
from stepwell.review.wording import printed

WIDTH, ROW, GAP = 420, 48, 4
"""As wide as a phone, so that its letters can be read there."""
FIGURE = 116
"""Room beside a bar for what it comes to: "+12 basis points"."""
CURVE_HEIGHT, TOP, MARGIN, STEP = 190, 30, 60, 150
CENT = Decimal("0.01")
Marker = Callable[[Handle, str], str]


def name_of(cell: str) -> Handle:
    """``w.SPX.change`` and ``w.curve.10Y`` by their names."""
    parts = cell.split(".")
    return Handle(f"name.{parts[2] if parts[1] == 'curve' else parts[1]}", starts=True)


def bars(facts: Facts, ids: Sequence[str], mark: Marker) -> list[str]:
    """A bar for each change, as long as it is printed, to the right where it is above nothing."""
    cells = [cell for one in ids if (cell := facts.get(one))]
    if not cells:
        return []
    most = max((abs(printed(cell)) for cell in cells), default=Decimal(0)) or Decimal(1)
    half = middle = WIDTH // 2
    lines = [f'<svg viewBox="0 0 {WIDTH} {ROW * len(cells) + GAP}" role="img">']
    for row, cell in enumerate(cells):
        value, y = printed(cell), ROW * row + GAP
        width = (abs(value) / most * (half - FIGURE)).quantize(CENT)
        left = middle if value >= 0 else middle - width
        lines.append(f'<text x="0" y="{y + 14}">{mark(name_of(cell.id), "tspan")}</text>')
        y += 21
        lines.append(
            f'<rect class="{"up" if value >= 0 else "down"}" data-cell="{cell.id}" data-form="bar" '
            f'data-chart="{ids[0]}" x="{left}" y="{y}" width="{width}" height="16"/>'
        )
        x, anchor = (left + width + 6, "start") if value >= 0 else (left - 6, "end")
        change = mark(Handle(cell.id, "signed"), "tspan")
        lines.append(f'<text x="{x}" y="{y + 13}" text-anchor="{anchor}">{change}</text>')
    return [*lines, "</svg>"]


def curve(facts: Facts, tenors: Sequence[str], mark: Marker) -> list[str]:
    """Yields by maturity, at the end of the week and before it: dots at the height of what is printed."""
    found = [(facts.get(f"w.curve.{tenor}.base"), facts.get(f"w.curve.{tenor}.last")) for tenor in tenors]
    pairs = [(before, now) for before, now in found if before is not None and now is not None]
    if len(pairs) < 2:
        return []
    values = [printed(cell) for pair in pairs for cell in pair]
    low, span = min(values), (max(values) - min(values)) or Decimal(1)
    room = CURVE_HEIGHT - 2 * TOP

    def height(cell: Cell) -> Decimal:
        return (CURVE_HEIGHT - TOP - (printed(cell) - low) / span * room).quantize(CENT)

    lines = [f'<svg viewBox="0 0 {WIDTH} {CURVE_HEIGHT + 24}" role="img">']
    xs = [MARGIN + STEP * number for number in range(len(pairs))]
    for side, kind in ((0, "before"), (1, "now")):
        points = " ".join(f"{x},{height(pair[side])}" for x, pair in zip(xs, pairs, strict=True))
        lines.append(f'<polyline class="{kind}" points="{points}" fill="none"/>')
        for x, pair in zip(xs, pairs, strict=True):
            cell = pair[side]
            lines.append(
                f'<circle class="{kind}" data-cell="{cell.id}" data-form="dot" data-chart="curve" '
                f'cx="{x}" cy="{height(cell)}" r="4"/>'
            )
    for x, (before, now) in zip(xs, pairs, strict=True):
        label = mark(name_of(now.id), "tspan")
        lines.append(f'<text x="{x}" y="{CURVE_HEIGHT + 14}" text-anchor="middle">{label}</text>')
        value = mark(Handle(now.id), "tspan")
        top = min(height(before), height(now)) - 10
        lines.append(f'<text x="{x}" y="{top}" text-anchor="middle">{value}</text>')
    return [*lines, "</svg>"]
