"""``stepwell plan contract``: the cash flow of a data centre and its customer, and what it hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from stepwell.commands.plan.contract_page import contract_page
from stepwell.commands.plan.output import amount, billions, progress, write_page
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.economics.cash import Cash, cash_flow
from stepwell.economics.contract_file import (
    ContractPlan,
    changed,
    number_at,
    parse_changes,
    plan_of,
    read_plan,
)
from stepwell.economics.finance import yearly
from stepwell.economics.measures import Measures, cost_of_delay, left_out, measure, megawatt_year
from stepwell.economics.served import served_year
from stepwell.economics.splits import KINDS
from stepwell.economics.uncertainty import (
    Needed,
    Swing,
    draws,
    measured,
    percentile,
    swings,
    what_must_be_true,
)
from stepwell.errors import BadInput
from stepwell.report.page import Page


@dataclass(frozen=True, slots=True)
class PlayedContract:
    """A plan played: its cash, the same in each scenario, and what it hangs on."""

    raw: dict[str, Any]
    plan: ContractPlan
    cash: Cash
    base: Measures
    scenarios: dict[str, Measures]
    swung: list[Swing]
    drawn: list[Measures]
    needed: list[Needed]
    seed: int

    @property
    def answer(self) -> str:
        return verdict(self.base, self.plan.start)

    @property
    def left_out(self) -> list[str]:
        return [f"mind: {line}" for line in left_out(self.plan, self.cash)]

    @property
    def outside(self) -> list[str]:
        return _outside(self.raw, self.plan) if self.drawn else []

    def lines(self) -> list[str]:
        """What is printed under the table of scenarios."""
        needed = [_needed(one) for one in self.needed]
        base = _base_lines(self.plan, self.base)
        return [*base, *self.left_out, *_spread(self.drawn), *self.outside, *needed]

    def page(self) -> Page:
        return contract_page(
            self.raw, self.plan, self.cash, self.base, self.scenarios, self.swung, self.drawn, self.needed,
            self.answer, [*self.left_out, *self.outside], self.seed,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        year = megawatt_year(self.plan)
        return {
            "plan": self.plan.name,
            "answer": self.answer,
            "seed": self.seed,
            "measures": self.base.as_json(),
            "mind": [*self.left_out, *self.outside],
            "megawatt_year": {"cost": year.cost, "paid": year.paid},
            "scenarios": {name: one.as_json() for name, one in self.scenarios.items()},
            "tornado": [_swing_json(one) for one in self.swung],
            "draws": _drawn_json(self.drawn),
            "must_be_true": [{"key": n.key, "now": n.now, "needed": n.needed} for n in self.needed],
            "free_cash_by_year": [round(float(f)) for f in yearly(self.cash.free())],
        }


def play(
    raw: dict[str, Any], plan: ContractPlan, solve: list[str], draws_count: int, seed: int
) -> PlayedContract:
    """``raw``: the file's tables with what was changed; ``plan``: the same, checked. Raises ``BadInput``."""
    cash = cash_flow(plan)
    base = measure(plan, cash)
    needed = what_must_be_true(raw, solve)
    scenarios = {s.name: measured(raw, s.set, s.name) for s in plan.scenarios}
    swung = swings(raw)
    drawn = list(progress(draws(raw, draws_count, seed), draws_count, "drawing")) if plan.uncertain else []
    return PlayedContract(raw, plan, cash, base, scenarios, swung, drawn, needed, seed)


def contract(
    file: Path,
    *,
    new: bool = False,
    what_if: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    solve: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    draws_count: Annotated[int, Parameter(name="--draws")] = 300,
    seed: int = 1,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """What a data centre and its contract earn, when the cash is lowest, and what that depends on.

    The plan is a TOML file: sites, what is bought, power, debt, the customer; docs/plan.md explains each key.

    Begin with one that can be changed: ``stepwell plan contract my-plan.toml --new``, then the same without
    ``--new``.

    Example: ``stepwell plan contract examples/plans/compute-300bn.toml --html plan.html``

    Inputs are changed without a new file: ``--what-if customer.utilisation=0.8 sites.delay_months=+6``
    (``x1.2`` multiplies, ``+6`` adds, a key of a list without a number means all of its entries).

    Parameters
    ----------
    file
        The plan.
    new
        Write a plan to start from here, every key explained, and stop.
    what_if
        Inputs to set, as KEY=VALUE.
    solve
        Inputs to solve for a present value of zero, instead of price, utilisation and price growth.
    draws_count
        How many times all uncertain inputs are drawn together; 0 leaves it out.
    seed
        Seed of these draws.
    """
    if new:
        return _begin(file)
    if not 0 <= draws_count <= 100_000:
        raise BadInput(f"--draws {draws_count}: give 0 to 100000")
    raw = changed(read_plan(file), parse_changes(what_if or []))
    plan = plan_of(raw, f"{file} with --what-if" if what_if else str(file))
    played = play(raw, plan, solve or [], draws_count, seed)
    console = console_for(json_file)
    scenarios = {"as planned": played.base, **played.scenarios}
    console.print(fitted(console, _scenarios(scenarios, plan.start)))
    for line in played.lines():
        console.print(line, markup=False, soft_wrap=True)
    if played.swung:
        console.print(f"the cash low hangs most on {_hangs_on(played.swung)}", soft_wrap=True)
    if html is not None:
        write_page(played.page(), html, console)
    write_json(json_file, played.as_json())
    console.print(f"contract: {played.answer}", style="bold", soft_wrap=True, markup=False)
    return 0


def _begin(file: Path) -> int:
    """Write the plan that ships. ``BadInput``: there is a file already."""
    text = resources.files("stepwell.economics").joinpath("new_contract.toml").read_text("utf-8")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as error:
        raise BadInput(f"{file} is there already: give --new a name that is not taken") from error
    print(f"contract: {file} is written: 'stepwell plan contract {file}' plays it; change it from the top.")
    return 0


def month_name(start: str, month: int) -> str:
    year, first = int(start[:4]), int(start[5:])
    whole = first - 1 + month
    return f"{year + whole // 12}-{whole % 12 + 1:02}"


def verdict(m: Measures, start: str) -> str:
    """One sentence."""
    if m.payback_month is None:
        return (
            f"it never breaks even; cash is lowest at {billions(m.cash_low)} in"
            f" {month_name(start, m.cash_low_month)} and present value is {billions(m.npv)}."
        )
    rate = "no IRR" if m.irr is None else f"IRR {m.irr:.1%}"
    return (
        f"cash is lowest at {billions(m.cash_low)} in {month_name(start, m.cash_low_month)}, back by"
        f" {month_name(start, m.payback_month)}; present value {billions(m.npv)}, {rate}."
    )


def _scenarios(columns: dict[str, Measures], start: str) -> Table:
    head = ("revenue", "margin", "capex", "lowest cash", "NPV", "IRR", "paid back", "exposure")
    largest = max(abs(v) for m in columns.values() for v in (m.revenue, m.capex, m.cash_low, m.npv))
    unit, unit_name, digits = (10**9, "billions", 1) if largest >= 10 * 10**9 else (10**6, "millions", 0)
    table = Table(
        "", *head, title=f"{unit_name} of dollars; exposure: rent and debt after the term, unrenewed"
    )
    for name, m in columns.items():
        bn = [f"{float(v) / unit:,.{digits}f}" for v in (m.revenue, m.capex, m.cash_low, m.npv, m.exposure)]
        back = "never" if m.payback_month is None else month_name(start, m.payback_month)
        low = f"{bn[2]} {month_name(start, m.cash_low_month)}"
        table.add_row(name, bn[0], _share(m.gross_margin), bn[1], low, bn[3], _share(m.irr), back, bn[4])
    return table


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _base_lines(plan: ContractPlan, m: Measures) -> list[str]:
    lost, value = cost_of_delay(plan)
    cover = "there is no debt" if m.debt_cover_least is None else f"least debt cover {m.debt_cover_least:.2f}"
    return [
        *served_lines(plan),
        megawatt_line(plan),
        f"lowest cash after debt {billions(m.equity_low)}; {cover}; free cash flow {billions(m.free_cash)}",
        f"delays of sites cost {billions(lost)} of revenue and {billions(value)} of present value",
    ]


def served_lines(plan: ContractPlan) -> list[str]:
    """What a megawatt serves and earns, where revenue is made of turns."""
    served = plan.customer.served
    if served is None:
        return []
    year = served_year(served)
    found, factor = year.found, served.price_factor / served.amplification
    per_gpu = found.turns_per_s / found.serving.chips
    return [
        f"served: {found.serving.model.name} on {found.serving.part.name}, {KINDS[served.memory]}:"
        f" {per_gpu:.3f} turns a second per GPU, {found.hit_share:.1%} of prompts found, {found.binds} binds",
        f"a paid turn is ${year.turn_usd * served.price_factor:.5f} at list price and takes"
        f" {served.amplification:g} computed ones: {billions(year.usd_per_mw_year * factor)} a megawatt and"
        f" year at full use, less {billions(year.memory_usd_per_mw_year)} for DRAM and disks",
    ]


def megawatt_line(plan: ContractPlan) -> str:
    year = megawatt_year(plan)
    parts = {"capital": year.capital, "rent": year.lease, "power": year.power, "operations": year.operations}
    told = ", ".join(f"{name} {billions(usd)}" for name, usd in parts.items())
    return (
        f"a megawatt and year in full service costs {billions(year.cost)} ({told}) and is paid"
        f" {billions(year.paid)}"
    )


def _spread(drawn: list[Measures]) -> list[str]:
    if not drawn:
        return []
    values, lows = [m.npv for m in drawn], [m.cash_low for m in drawn]
    losing = sum(1 for value in values if value < 0)
    shown = ", ".join(f"p{p} {billions(percentile(values, p))}" for p in (5, 50, 95))
    low = ", ".join(f"p{p} {billions(percentile(lows, p))}" for p in (5, 50, 95))
    return [f"{len(drawn)} draws: NPV {shown}, below zero in {losing / len(drawn):.0%}; cash low {low}"]


def _outside(raw: dict[str, Any], plan: ContractPlan) -> list[str]:
    """Inputs whose range does not hold the plan's own value: the draws are then of another plan."""
    found = []
    for key, (low, _, high) in plan.uncertain.items():
        try:
            now = number_at(raw, key)
        except BadInput:
            continue  # the file leaves it at its default
        if not low <= now <= high:
            found.append(
                f"mind: {key} is {now:,} in the plan and is drawn from {low:,} to {high:,}: the draws are of"
                " another plan until [uncertain] is changed as well"
            )
    return found


def _swing_json(one: Swing) -> dict[str, Any]:
    ends = {"at_low": one.at_low.as_json(), "at_high": one.at_high.as_json()}
    return {"key": one.key, "low": one.low, "high": one.high} | ends


def _drawn_json(drawn: list[Measures]) -> dict[str, Any] | None:
    if not drawn:
        return None
    return {
        name: {f"p{p}": percentile([getattr(m, name) for m in drawn], p) for p in (5, 25, 50, 75, 95)}
        for name in ("npv", "cash_low")
    } | {"count": len(drawn)}


def _needed(n: Needed) -> str:
    if n.needed is None:
        return f"must be true: no {n.key} between {n.low:g} and {n.high:g} brings the present value to zero"
    return f"must be true: {n.key} {amount(n.needed)} for a present value of zero (now {n.now:,})"


def _hangs_on(swung: list[Any]) -> str:
    widest = sorted(swung, key=lambda s: -s.width(lambda m: m.cash_low))[:3]
    return ", ".join(
        f"{s.key} ({billions(s.at_low.cash_low)} at {s.low:,}, {billions(s.at_high.cash_low)} at {s.high:,})"
        for s in widest
    )
