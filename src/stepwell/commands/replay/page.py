"""The HTML report of ``stepwell replay``: what the turns cost under other policies, or on another machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

from rich.table import Table

from stepwell.commands.replay.machine import PricedRun
from stepwell.economics.changes import decimals
from stepwell.errors import BadInput
from stepwell.report import charts
from stepwell.report.page import Page
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.report import RunReport

_SWITCHES = ("instant_disk",)
_MAY_BE_ZERO = ("depth_ns_per_token",)


def changed_machine(model: MachineModel, what_if: Sequence[str]) -> MachineModel:
    """The measured machine with figures set by hand. ``BadInput``: no such figure, or none that can be."""
    known = {name: value for name, value in asdict(model).items() if name not in _SWITCHES}
    changes = decimals(list(what_if), {name: Decimal(value) for name, value in known.items()})
    whole: dict[str, Any] = {name: round(value) for name, value in changes.items()}
    for name, value in whole.items():
        if value < 1 and name not in _MAY_BE_ZERO:
            raise BadInput(f"--what-if {name}: {changes[name]:f} is below one; the figure is a whole number")
    return replace(model, **whole)


def policies_page(
    answer: str, runs: Sequence[RunReport], tables: Sequence[Table], inputs: Mapping[str, object]
) -> Page:
    """The same turns under several policies."""
    page = Page("Replay under other policies", answer)
    series = {"cost of misses": [run.miss_s for run in runs]}
    page.chart(charts.bars("Cost of misses", "seconds", [run.policy for run in runs], series))
    return _with(page, tables, inputs)


def elsewhere_page(
    answer: str, rows: Sequence[PricedRun], tables: Sequence[Table], inputs: Mapping[str, object]
) -> Page:
    """The same turns on another machine."""
    page = Page("Replay on another machine", answer)
    series = {"busy": [one.run.busy_s for one in rows]}
    page.chart(charts.bars("Time at work", "seconds", [one.name for one in rows], series))
    return _with(page, tables, inputs)


def _with(page: Page, tables: Sequence[Table], inputs: Mapping[str, object]) -> Page:
    for table in tables:
        if table.title:
            page.heading(str(table.title))
        columns = [[str(cell) for cell in column.cells] for column in table.columns]
        head = [str(column.header) for column in table.columns]
        page.table(head, [list(row) for row in zip(*columns, strict=True)])
    page.inputs(inputs)
    page.text("Nothing is drawn at random: the same recording gives the same figures.")
    return page
