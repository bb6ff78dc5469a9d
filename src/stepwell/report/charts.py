"""Charts as SVG text. matplotlib draws them; the same figures give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from stepwell.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f5fa8", "#d1762b", "#3c8c5a", "#9b4d96", "#6b6b6b", "#b5403a")
_STYLE = {
    "svg.hashsalt": "stepwell",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def lines(
    title: str, x_label: str, y_label: str, x: Sequence[float], series: Mapping[str, Sequence[float]]
) -> str:
    """One line per series."""
    with _style():
        figure, axes = _figure(title, x_label, y_label)
        for colour, (name, values) in zip(_cycle(len(series)), series.items(), strict=True):
            axes.plot(x, values, color=colour, label=name, linewidth=1.8)
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.legend(frameon=False)
        return _svg(figure)


def bars(title: str, y_label: str, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Groups of bars, one group per name."""
    with _style():
        figure, axes = _figure(title, "", y_label)
        width = 0.8 / max(1, len(series))
        for number, (colour, (name, values)) in enumerate(
            zip(_cycle(len(series)), series.items(), strict=True)
        ):
            places = [group + number * width for group in range(len(names))]
            axes.bar(places, values, width, color=colour, label=name)
        axes.set_xticks([group + 0.4 - width / 2 for group in range(len(names))], names)
        if len(series) > 1:
            axes.legend(frameon=False)
        return _svg(figure)


def tornado(title: str, x_label: str, middle: float, rows: Sequence[tuple[str, float, float]]) -> str:
    """One bar per input, from its low to its high result; ``rows`` come with the widest first."""
    with _style():
        figure, axes = _figure(title, x_label, "")
        for place, (_, low, high) in enumerate(reversed(rows)):
            axes.barh(place, low - middle, left=middle, color=COLOURS[1], height=0.6)
            axes.barh(place, high - middle, left=middle, color=COLOURS[0], height=0.6)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
        axes.axvline(middle, color="#444444", linewidth=0.8)
        return _svg(figure)


def histogram(title: str, x_label: str, values: Sequence[float]) -> str:
    with _style():
        figure, axes = _figure(title, x_label, "draws")
        axes.hist(values, bins=30, color=COLOURS[0])
        return _svg(figure)


def require_charts() -> None:
    """Before work whose report has charts. Raises ``MissingExtra``."""
    if find_spec("matplotlib") is None:
        raise MissingExtra("a report with charts", "plots")


def _style() -> AbstractContextManager[None]:
    require_charts()
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)  # type: ignore[arg-type]


def _figure(title: str, x_label: str, y_label: str) -> tuple[Any, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _svg(figure: Any) -> str:
    held = io.StringIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    text = held.getvalue()
    return text[text.index("<svg") :]


def _cycle(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]
