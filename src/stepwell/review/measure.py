"""For the verifier: charts are measured, not believed. Bars are as long as their values, dots as high."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from stepwell.review.readback import printed

DRAWN = ("bar", "dot")
NEAR = Decimal("0.03")
"""Of a hundredth that is rounded, and a little."""


class Drawn(Protocol):
    """A mark on the page: its cell, its form and its attributes."""

    cell: str
    form: str
    attributes: Mapping[str, str]


def check_charts(
    marks: Sequence[Drawn],
    lines: Sequence[str],
    cells: Mapping[str, Any],
    fault: Callable[[str], None],
) -> None:
    """Every chart for itself: marks of different charts have different scales."""
    charts: dict[tuple[str, str], list[Drawn]] = {}
    for mark in marks:
        if mark.form in DRAWN and mark.cell in cells:
            charts.setdefault((mark.form, mark.attributes.get("data-chart", "")), []).append(mark)
    dots = set()
    for (form, _), drawn in charts.items():
        values = [printed(cells[mark.cell]) for mark in drawn]
        try:
            if form == "bar":
                _bars(drawn, values, fault)
            else:
                _dots(drawn, values, fault)
                dots |= {f"{mark.attributes['cx']},{mark.attributes['cy']}" for mark in drawn}
        except (KeyError, InvalidOperation):
            fault(f"a {form} has no place or no size")
    for line in lines:
        if lost := [point for point in line.split() if point not in dots]:
            fault(f"a line goes through {lost[0]}, where there is no figure")


def _bars(drawn: Sequence[Drawn], values: Sequence[Decimal], fault: Callable[[str], None]) -> None:
    """From one middle, to the side of their sign."""
    most = max(abs(value) for value in values)
    widths = [Decimal(mark.attributes["width"]) for mark in drawn]
    starts = [Decimal(mark.attributes["x"]) for mark in drawn]
    longest = max(widths)
    middles = [
        start if value >= 0 else start + width
        for start, width, value in zip(starts, widths, values, strict=True)
    ]
    for mark, value, width, middle in zip(drawn, values, widths, middles, strict=True):
        wanted = abs(value) / most * longest if most else Decimal(0)
        side = "up" if value >= 0 else "down"
        if abs(width - wanted) > NEAR or mark.attributes.get("class") != side or middle != middles[0]:
            fault(f"the bar of {mark.cell} is not as long as {value}, or on the other side")


def _dots(drawn: Sequence[Drawn], values: Sequence[Decimal], fault: Callable[[str], None]) -> None:
    """On one scale: what is more stands higher, in proportion."""
    heights = [Decimal(mark.attributes["cy"]) for mark in drawn]
    low, high = values.index(min(values)), values.index(max(values))
    span = values[high] - values[low]
    rise = heights[low] - heights[high]
    for mark, value, height in zip(drawn, values, heights, strict=True):
        share = (value - values[low]) / span if span else Decimal(0)
        if abs(heights[low] - share * rise - height) > NEAR or (span and rise <= 0):
            fault(f"the dot of {mark.cell} is not as high as {value}")
