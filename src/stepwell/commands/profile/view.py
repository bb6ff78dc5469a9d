"""Evaluations on screen: how far each is, and the tables that come of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from stepwell.console.output import table
from stepwell.fit.compare import Finding
from stepwell.fit.evaluate import Heard, ItemsProgressed
from stepwell.fit.outcomes import Evaluation
from stepwell.fit.report import evaluation_columns, evaluation_rows

LABEL_WIDTH = 34
LEFT_OUT = ("visible", "prompt")
"""Columns that stand in reports and not on screen."""
QUIET_S = 10.0
"""Between two lines about one evaluation without a terminal."""


@dataclass(slots=True)
class Plain:
    """A line when an evaluation ends, and now and then before, for logs."""

    console: Console
    said_s: float = field(default_factory=time.monotonic)
    done: int = -1
    """Items when the last line was written."""

    def __call__(self, at: ItemsProgressed) -> None:
        now_s = time.monotonic()
        is_end = at.done == at.count != self.done
        if is_end or now_s - self.said_s >= QUIET_S:
            self.said_s = now_s
            line = f"{at.label}: {at.done} of {at.count} items, {at.right} right, {at.turns} turns"
            self.console.print(line, markup=False, soft_wrap=True)
        self.done = at.done


@dataclass(slots=True)
class Bars:
    """One bar, for the evaluation under way; those that have ended are lines above it."""

    progress: Progress
    task: TaskID
    done: int = -1

    def __call__(self, at: ItemsProgressed) -> None:
        if at.turns == 0:
            self.progress.reset(self.task, total=at.count)
        self.progress.update(
            self.task, completed=at.done, description=short(at.label), right=at.right, turns=at.turns
        )
        if at.done == at.count != self.done:
            line = f"{at.label}: {at.right} of {at.count} right, {at.turns} turns"
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.done = at.done


def short(label: str) -> str:
    return label if len(label) <= LABEL_WIDTH else label[: LABEL_WIDTH - 3] + "..."


@contextmanager
def watched(console: Console) -> Iterator[Heard]:
    """How far every evaluation is, on the error stream: a bar on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield Plain(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[right]} right, {task.fields[turns]} turns"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress, progress.add_task("begins", total=None, right=0, turns=0))


def evaluations_table(title: str, evaluations: Sequence[Evaluation], in_money: bool) -> Table:
    """Tokens and turns are per item; narrow enough for eighty columns."""
    columns = evaluation_columns(in_money)
    shown = [at for at, name in enumerate(columns) if name not in LEFT_OUT]
    rows = [[row[at] for at in shown] for row in evaluation_rows(evaluations, in_money)]
    return table(title, [columns[at] for at in shown], rows)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    styles = {True: "green", False: "bold red", None: ""}
    for one in findings:
        console.print(one.line(), style=styles[one.reached], markup=False, highlight=False, soft_wrap=True)


def print_failures(console: Console, evaluations: Sequence[Evaluation]) -> None:
    """Why items have no answer, the most frequent reason of each profile."""
    for one in evaluations:
        reasons = one.failures()
        if reasons:
            reason, often = max(reasons.items(), key=lambda pair: pair[1])
            total = sum(reasons.values())
            line = f"{one.label}: {total} items have no answer; {often} times: {reason}"
            console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
