"""Figures, tables and verdicts of ``bench hints``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from stepwell.bench.crews.hint_work import Done
from stepwell.console.output import sheet
from stepwell.console.report import Verdict

ROUTES = ("computed", "device", "host", "disk")
ROOM, HINTS, SILENT, LRU = "room for all", "hints", "no hints", "no hints, lru"
POLICIES = {ROOM: "stepwell", HINTS: "stepwell", SILENT: "stepwell", LRU: "lru"}
COLUMNS = {
    "arm": "{arm}",
    "crew mean s": "{mean_s:,.1f}",
    "lost s": "{lost_s:,.1f}",
    "x no hints": "{ratio:.3f}",
    "tax": "{tax:.1%}",
    **{route: f"{{{route}:,.0f}}" for route in ROUTES},
    "preempted": "{preempted:,.0f}",
}


@dataclass(frozen=True, slots=True)
class HintsPlace:
    """How much memory an arm has. ``want_tokens``: of how much these are shares."""

    want_tokens: int
    device_tokens: int
    host_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class HintsOutcome:
    """One arm on one seed, or in one round of the live half."""

    arm: str
    seed: int
    crew_s: Sequence[float]
    """Per crew, from question to answer."""
    total_s: float
    turns: int
    all_tokens: int
    """The contexts of all agents: what the crews would take if nothing ever left."""
    live_tokens: int
    """The most that the contexts of agents that may come back come to at one time."""
    prompt_tokens: dict[str, int]
    computed_tokens: int
    recomputed_tokens: int
    preemptions: int

    @property
    def mean_s(self) -> float:
        return sum(self.crew_s) / len(self.crew_s)

    @property
    def tax(self) -> float:
        """Tokens computed again, of all that were computed."""
        return self.recomputed_tokens / max(1, self.computed_tokens)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"mean_s": self.mean_s, "recompute_tax": self.tax}


def outcome_of(arm: str, seed: int, done: Done, total_s: float, counters: Mapping[str, int]) -> HintsOutcome:
    """From what the crews came to, and the server's counters."""
    return HintsOutcome(
        arm=arm,
        seed=seed,
        crew_s=done.crew_s,
        total_s=total_s,
        turns=done.turns,
        all_tokens=sum(done.contexts.values()),
        live_tokens=done.most_live_tokens,
        prompt_tokens={route: counters[f"prompt_tokens_{route}"] for route in ROUTES},
        computed_tokens=counters["computed_tokens"],
        recomputed_tokens=counters["recomputed_tokens"],
        preemptions=counters["preemptions"],
    )


def of_arm(outcomes: Sequence[HintsOutcome], arm: str) -> list[HintsOutcome]:
    return [one for one in outcomes if one.arm == arm]


def ratios(outcomes: Sequence[HintsOutcome], arm: str, other: str) -> list[float]:
    """Per seed: mean completion of one arm by another's."""
    by_seed = {one.seed: one for one in of_arm(outcomes, other)}
    return [one.mean_s / by_seed[one.seed].mean_s for one in of_arm(outcomes, arm) if one.seed in by_seed]


def lost_s(outcomes: Sequence[HintsOutcome], arm: str) -> list[float]:
    """Per seed: how much longer crews take for want of memory. (Live there is one run with room for all.)"""
    room = {one.seed: one for one in of_arm(outcomes, ROOM)}
    first = of_arm(outcomes, ROOM)[0]
    return [one.mean_s - room.get(one.seed, first).mean_s for one in of_arm(outcomes, arm)]


def outcome_table(title: str, outcomes: Sequence[HintsOutcome]) -> Table:
    """A row for each arm; medians over seeds or rounds."""
    rows = []
    for arm in dict.fromkeys(one.arm for one in outcomes):
        runs, against = of_arm(outcomes, arm), ratios(outcomes, arm, SILENT)
        figures = {"mean_s": [one.mean_s for one in runs], "lost_s": lost_s(outcomes, arm)}
        figures |= {"tax": [one.tax for one in runs], "preempted": [one.preemptions for one in runs]}
        figures |= {route: [one.prompt_tokens[route] for one in runs] for route in ROUTES}
        row: dict[str, Any] = {name: median(values) for name, values in figures.items()}
        rows.append(row | {"arm": arm, "ratio": median(against) if against else None})
    return sheet(title, COLUMNS, rows)


def verdicts(name: str, outcomes: Sequence[HintsOutcome]) -> Iterator[Verdict]:
    """Whether knowing pays: medians of the ratios seed by seed, so that what is alike in both falls out."""
    for other in (SILENT, LRU):
        if against := ratios(outcomes, HINTS, other):
            target = f"{name}: completion of the crews, hints against {other}"
            yield Verdict(target, median(against), 1.0, "x")
    for other in (SILENT, LRU):
        runs = of_arm(outcomes, other)
        if runs:
            tax, limit = (median([o.tax for o in of_arm(outcomes, arm)]) for arm in (HINTS, other))
            target = f"{name}: recompute tax with hints, against that of {other}"
            yield Verdict(target, tax, limit)
