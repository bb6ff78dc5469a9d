"""One policy over several seeds: mean and interval, because one seed of a workload is no evidence.

A handful of long contexts decides each run; Student's interval of the mean over seeds says how much.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from stepwell.console.report import Verdict
from stepwell.simulate.report import RunReport

OWN, ORACLE = "stepwell", "oracle"
TIMES_BOUND = {
    "exact": {"1/16": 2.0, "1/8": 1.5, "1/4": 1.3},
    "0.3": {"1/16": 2.5, "1/8": 2.0, "1/4": 1.4},
    "1": {"1/16": 4.0, "1/8": 4.0, "1/4": 2.0},
    "silent": {"1/16": 7.0, "1/8": 8.0, "1/4": 4.0},
}
"""On the agents' trace, by what is declared and the room: the cost of misses as a multiple of the bound."""
OPEN_LOOP_LIMIT = 0.6
"""On Mooncake's traces, of the best baseline's cost."""
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantile for 1 to 9 degrees of freedom (any table of the t distribution)."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over ``count`` seeds and its 95 % interval; of one seed there is no interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.count < 2:
            return _short(self.mean)
        return f"{_short(self.mean)} ({_short(self.low)} to {_short(self.high)})"


def mean_of(values: Sequence[float]) -> Mean | None:
    """None: nothing was measured."""
    if not values:
        return None
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Mean(mean, mean, mean, count)
    quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else statistics.NormalDist().inv_cdf(0.975)
    half = quantile * statistics.stdev(values) / math.sqrt(count)
    return Mean(mean, max(0.0, mean - half), mean + half, count)


Rows = Mapping[tuple[str, str], Sequence[RunReport]]
"""Runs by policy and what was declared, one for each seed, seeds in one order."""


def rows_of(runs: Sequence[RunReport]) -> dict[tuple[str, str], list[RunReport]]:
    """Runs of several seeds, seed after seed, by policy and what was declared."""
    rows: dict[tuple[str, str], list[RunReport]] = {}
    for run in runs:
        rows.setdefault((run.policy, run.declared), []).append(run)
    return rows


def seeds_table(title: str, rows: Rows) -> Table:
    """Mean and interval of every policy's cost of misses and of what that is of the bound."""
    table = Table(title=title, title_justify="left")
    for column in ("policy", "declared"):
        table.add_column(column, no_wrap=True)
    for column in ("misses, s", "x bound", "of the best baseline"):
        table.add_column(column, justify="right")
    for (policy, declared), runs in rows.items():
        cells = (
            mean_of([run.miss_s for run in runs]),
            times_bound(runs),
            against_best(rows, policy, declared),
        )
        table.add_row(policy, declared, *("-" if cell is None else str(cell) for cell in cells))
    return table


def rooms_table(title: str, rooms: Mapping[str, Rows]) -> Table:
    """All rooms of a trace beside each other: the mean cost of misses in seconds, and as a multiple of the
    bound."""
    table = Table(title=title, title_justify="left")
    table.add_column("policy", no_wrap=True)
    for room in rooms:
        table.add_column(f"device {room}", justify="right")
    for policy, declared in dict.fromkeys(key for rows in rooms.values() for key in rows):
        said = "nothing declared" if declared == "silent" else f"declared {declared}"
        cells = [_cost(rows.get((policy, declared), ())) for rows in rooms.values()]
        table.add_row(f"{policy}, {said}", *cells)
    return table


def _cost(runs: Sequence[RunReport]) -> str:
    seconds, times = mean_of([run.miss_s for run in runs]), times_bound(runs)
    if seconds is None:
        return "-"
    return _short(seconds.mean) + ("" if times is None else f" ({_short(times.mean)}x)")


def times_bound(runs: Sequence[RunReport]) -> Mean | None:
    return mean_of([run.times_bound for run in runs if run.times_bound is not None])


def against_best(rows: Rows, policy: str, declared: str) -> Mean | None:
    """Its cost over that of the best baseline which was told no more, seed by seed. The best one is that
    with the least cost over all seeds; None for the oracle, which is told everything."""
    if policy == ORACLE:
        return None
    rivals = {
        key: sum(run.miss_s for run in runs)
        for key, runs in rows.items()
        if key[0] not in (OWN, ORACLE, policy) and key[1] in ("silent", declared)
    }
    if not rivals:
        return None
    best = rows[min(rivals, key=lambda key: (rivals[key], key))]
    pairs = zip(rows[policy, declared], best, strict=False)
    return mean_of([one.miss_s / other.miss_s for one, other in pairs if other.miss_s])


def verdicts(trace: str, room: str, rows: Rows) -> Iterator[Verdict]:
    """The targets of our own policy in one room."""
    for policy, declared in rows:
        if policy != OWN:
            continue
        name = f"{trace}, device {room}, {OWN}, declared {declared}"
        limit = TIMES_BOUND.get(declared, {}).get(room) if trace == "agentic" else None
        if limit is not None:
            mean = times_bound(rows[policy, declared])
            yield Verdict(f"{name}: cost of misses", None if mean is None else mean.mean, limit, "x bound")
        best = against_best(rows, policy, declared)
        if best is not None:
            target = f"{name}: against the best baseline"
            open_loop = trace in ("conversation", "synthetic")
            yield Verdict(target, best.mean, OPEN_LOOP_LIMIT if open_loop else 1.0, "x")


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
