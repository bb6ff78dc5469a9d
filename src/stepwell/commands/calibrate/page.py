"""The HTML report of ``stepwell calibrate``: what was fitted, how good it is, and what it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from stepwell.economics.calibration import HeldOut
from stepwell.report import charts
from stepwell.report.page import Page
from stepwell.simulate.engine_run import MeanTimes

FIGURES = ("TTFT", "TPOT", "E2E")
_NO_SEED = "Nothing is drawn at random: the same file gives the same figures."


def means_rows(
    measured: MeanTimes, simulated: MeanTimes, errors: Mapping[str, tuple[float, float, float]]
) -> list[list[str]]:
    """Means in milliseconds; each column of errors after them."""
    both = zip(asdict(measured).values(), asdict(simulated).values(), strict=True)
    return [
        [name, f"{really:,.1f}", f"{played:,.1f}", *(f"{e[at]:+.1%}" for e in errors.values())]
        for at, (name, (really, played)) in enumerate(zip(FIGURES, both, strict=True))
    ]


def run_page(
    answer: str,
    measured: MeanTimes,
    simulated: MeanTimes,
    errors: Mapping[str, tuple[float, float, float]],
    about: Sequence[str],
    lines: Mapping[str, object],
    inputs: Mapping[str, object],
) -> Page:
    """One run, of another engine or of our own: its means beside the simulated ones."""
    page = Page("Calibration", answer)
    page.chart(charts.bars("Error of the means", "%", FIGURES, _percent(errors)))
    page.table(("mean", "measured ms", "simulated ms", *errors), means_rows(measured, simulated, errors))
    for line in about:
        page.text(line)
    page.heading("Lines that were fitted")
    page.table(("line", "value"), list(lines.items()))
    return _ended(page, inputs)


def archive_page(
    answer: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    errors: Mapping[str, tuple[float, float, float]],
    inputs: Mapping[str, object],
) -> Page:
    """Several runs, by name."""
    page = Page("Calibration of several runs", answer)
    page.chart(charts.bars("Error of the means", "%", FIGURES, _percent(errors)))
    page.table(head, rows)
    return _ended(page, inputs)


def points_page(
    answer: str,
    head: Sequence[str],
    rows: Sequence[HeldOut],
    cells: Sequence[Sequence[str]],
    constants: Mapping[str, Mapping[str, float]],
    inputs: Mapping[str, object],
) -> Page:
    """Measured points: errors on what was held out, and the constants."""
    page = Page("Calibration by measured points", answer)
    worst = sorted(rows, key=lambda row: -row.median)[:8]
    series = {row.name: [100 * row.median] for row in worst}
    page.chart(charts.bars("Largest median errors of the time per token", "%", ["held out"], series))
    page.table(head, cells)
    page.heading("Constants that were fitted")
    names = list(next(iter(constants.values()), {}))
    page.table(("engine", *names), [[e, *(f"{of[n]:g}" for n in names)] for e, of in constants.items()])
    return _ended(page, inputs)


def _percent(errors: Mapping[str, tuple[float, float, float]]) -> dict[str, list[float]]:
    return {name: [100 * error for error in three] for name, three in errors.items()}


def _ended(page: Page, inputs: Mapping[str, object]) -> Page:
    page.inputs({name: value.name if isinstance(value, Path) else value for name, value in inputs.items()})
    page.text(_NO_SEED)
    return page
