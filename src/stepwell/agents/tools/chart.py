"""The tool ``chart``: a bar or line chart of a question's answer, as an SVG file in the workspace."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Literal

from stepwell.agents.tools.base import Tool, ToolError
from stepwell.agents.tools.functions import from_function
from stepwell.agents.tools.rows import Rows
from stepwell.agents.tools.sql import START_S, shared_database
from stepwell.agents.tools.workspace import Workspace

Kind = Literal["bar", "line"]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 44, 100
POINTS_MOST = {"bar": 60, "line": 2_000}
LABELS_MOST = 14
LABEL_CHARS = 18
FILES_MOST = 1_000
TINY, LARGEST = 1e-100, 1e100
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
INK, GRID, FILL = "#333333", "#dddddd", "#2f6f9f"


@dataclass(frozen=True, slots=True)
class ChartSeries:
    """What is drawn: a label and a value per point."""

    labels: tuple[str, ...]
    values: tuple[float, ...]


def series(result: Rows, x: str, y: str) -> ChartSeries:
    """The two columns of a result. ``ToolError`` when they are not there, or ``y`` holds no numbers."""
    for name in (x, y):
        if name not in result.columns:
            raise ToolError(f"the query has no column {name}: it has {', '.join(result.columns)}")
    at_x, at_y = result.columns.index(x), result.columns.index(y)
    points = [(str(row[at_x]), _float(row[at_y], y)) for row in result.rows if row[at_y] is not None]
    if not points:
        raise ToolError("the query has no rows to draw")
    return ChartSeries(tuple(label for label, _ in points), tuple(value for _, value in points))


def _float(value: object, column: str) -> float:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        number = float(value)
        if abs(number) <= LARGEST:
            return number
    raise ToolError(f"column {column} is not numeric: {str(value)[:40]!r}")


def ticks(low: float, high: float) -> list[float]:
    """Four to nine round values that cover the range."""
    largest = max(abs(low), abs(high))
    # A span below what a float can tell apart at this height would give the same tick twice.
    span = max(high - low or largest, largest * 1e-9) if largest > TINY else 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= span / 4 or factor == 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def draw(kind: Kind, data: ChartSeries, x: str, y: str, title: str) -> str:
    """The chart as SVG text. Both kinds stand on zero unless a line's values lie far from it."""
    low, high = min(data.values), max(data.values)
    if kind == "bar" or 0 < low < high / 2 or (low <= 0 <= high):
        low, high = min(low, 0.0), max(high, 0.0)
    scale = ticks(low, high)
    bottom, top = scale[0], scale[-1]

    def at(value: float) -> float:
        return HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    step = (WIDTH - LEFT - RIGHT) / len(data.values)
    centres = [LEFT + step * (number + 0.5) for number in range(len(data.values))]
    body = [*_axis(scale, at_values=[at(value) for value in scale]), *_labels(data.labels, centres)]
    body += _bars(data, centres, step, at) if kind == "bar" else _line(data, centres, at)
    return _frame(body, title or f"{y} by {x}", x, y)


def _text(x: float, y: float, text: str, anchor: str, size: int = 12, turn: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{turn}>{_xml(text)}</text>'
    )


def _xml(text: str) -> str:
    """Escaped, and without the characters that no XML may hold."""
    return escape(_NOT_XML.sub("?", text))


def _axis(scale: Sequence[float], at_values: Sequence[float]) -> list[str]:
    lines = []
    for value, y in zip(scale, at_values, strict=True):
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{INK if value == 0 else GRID}"/>')
        lines.append(_text(LEFT - 8, y + 4, f"{value:,.10g}", "end"))
    return lines


def _labels(labels: Sequence[str], centres: Sequence[float]) -> list[str]:
    """At most so many, evenly chosen; slanted when they would touch."""
    every = math.ceil(len(labels) / LABELS_MOST)
    shown = [(label[:LABEL_CHARS], centre) for label, centre in zip(labels, centres, strict=True)][::every]
    y = HEIGHT - BOTTOM + 16
    if max(len(label) for label, _ in shown) * 7 <= (WIDTH - LEFT - RIGHT) / len(shown):
        return [_text(centre, y, label, "middle", 11) for label, centre in shown]
    return [
        _text(centre, y, label, "end", 11, f' transform="rotate(-35 {centre:.1f} {y})"')
        for label, centre in shown
    ]


def _bars(
    data: ChartSeries, centres: Sequence[float], step: float, at: Callable[[float], float]
) -> list[str]:
    return [
        f'<rect x="{centre - step * 0.4:.1f}" y="{min(at(value), at(0)):.1f}" width="{step * 0.8:.1f}" '
        f'height="{abs(at(value) - at(0)):.1f}" fill="{FILL}">'
        f"<title>{_xml(label)}: {value:.10g}</title></rect>"
        for label, value, centre in zip(data.labels, data.values, centres, strict=True)
    ]


def _line(data: ChartSeries, centres: Sequence[float], at: Callable[[float], float]) -> list[str]:
    path = "L".join(f"{x:.1f} {at(value):.1f}" for x, value in zip(centres, data.values, strict=True))
    line = f'<path d="M{path}" fill="none" stroke="{FILL}" stroke-width="2"/>'
    return [line, f'<circle cx="{centres[-1]:.1f}" cy="{at(data.values[-1]):.1f}" r="3" fill="{FILL}"/>']


def _frame(body: Sequence[str], title: str, x: str, y: str) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="sans-serif" fill="{INK}" role="img">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            _text(LEFT, 22, title[:90], "start", 15),
            _text(LEFT, TOP - 6, y[:60], "start", 11),
            *body,
            _text(middle, HEIGHT - 8, x[:60], "middle"),
            "</svg>\n",
        ]
    )


def save(svg: str, directory: Path) -> Path:
    """Under the first free name ``chart-N.svg``; many may draw at a time, so it is taken at once."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(1, FILES_MOST + 1):
        path = directory / f"chart-{number}.svg"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(svg)
        except FileExistsError:
            continue
        return path
    raise ToolError(f"there are {FILES_MOST} charts already: no more are drawn")


def chart_tool(workspace: Workspace) -> Tool:
    """The tool ``chart``."""
    database = shared_database(workspace)

    async def chart(kind: Kind, query: str, x: str, y: str, title: str = "") -> str:
        """Draws a bar or line chart of a SELECT and answers the name of the SVG file.

        Args:
            query: one SELECT that gives the points in their order
            x: the column of the labels
            y: the column of the numbers
            title: above the chart
        """
        most = POINTS_MOST[kind]
        result = await database.ask(query, most)
        if result.count > most:
            raise ToolError(
                f"a {kind} chart shows at most {most} points, not {result.count}: group or limit them"
            )
        data = series(result, x, y)
        path = save(draw(kind, data, x, y, title), workspace.directory)
        low, high = min(data.values), max(data.values)
        drawn = f"{len(data.values)} points from {low:.10g} to {high:.10g}"
        return f"{path.name}: {kind} chart of {y} by {x}, {drawn}"

    return from_function(chart, expected_ms=300, timeout_s=workspace.limits.query_s + START_S)
