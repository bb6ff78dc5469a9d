"""``stepwell study amplification``: margins at list prices when agents use two and three times the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from stepwell.commands.plan.choice import Choice
from stepwell.commands.plan.flash import percent
from stepwell.commands.plan.output import kept, progress, write_page
from stepwell.commands.study.amplification_played import (
    HEAD as PLAYED_HEAD,
)
from stepwell.commands.study.amplification_played import PlayedLoad, play_amplified, played_answer
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.economics.list_prices import (
    Amplified,
    ListPrice,
    busy_share,
    margin,
    named_prices,
    turn_cost_usd,
)
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Case
from stepwell.errors import BadInput
from stepwell.report import charts
from stepwell.report.page import Page

MEMORIES = {"hbm": "HBM", "dram": "+ DRAM", "selective": "+ SSD"}
TITLE = "margin by intermediate tokens; turns borne: until nothing is left"
PLAYED_TITLE = "simulated: one replica, paid for the sessions of x1"
NOT_PLAYED = PlayedLoad()
_MOST = 100
_Costs = dict[tuple[Amplified, str], dict[int, Decimal]]
"""What a paid turn costs, by the way in which tokens multiply, the memory, and how often."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One list price with one memory, intermediate tokens multiplied in one way."""

    price: str
    how: Amplified
    kind: str
    margins: dict[int, float | None]
    borne: Decimal
    """How many turns a paid one may take until nothing is left."""

    def cells(self) -> list[str]:
        shown = [percent(one) for one in self.margins.values()]
        return [self.price, self.how, MEMORIES[self.kind], *shown, f"{self.borne:.2f}"]


def amplification(
    part: str = "h200",
    *,
    choice: Choice | None = None,
    list_prices: str = "gpt-5,claude-sonnet-5-5,gemini-2.5-pro,deepseek-v4-pro",
    times: str = "1,2,3",
    utilisation: str = "0.7",
    load: PlayedLoad = NOT_PLAYED,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """What two and three times the intermediate tokens do to margins, with KV tiers and without.

    The customer pays for one turn of the workload at list price. Intermediate tokens multiply in two ways:
    more turns (agents that work for the one that is paid for), or longer answers in as many turns (thinking).
    What vendors serve their models on is not public: every price is held against the same model and part.

    Example: ``stepwell study amplification h200 --html amplification.html``

    The same in a simulated replica: ``stepwell study amplification h200 --simulated --list-prices gpt-5``

    With other figures: ``stepwell study amplification h200 --list-prices all --what-if ssd.usd_gb=x2``

    Parameters
    ----------
    part
        Hardware of 'stepwell catalogue hardware'.
    list_prices
        Names of 'stepwell catalogue prices' or input/cached/output, with commas; all.
    times
        Multiples of the intermediate tokens, with commas.
    utilisation
        Share of time that replicas are full; the rest is paid for and idle.
    """
    choice, multiples = choice or Choice(), _multiples(times)
    prices, busy = named_prices(list_prices, "--list-prices"), busy_share(utilisation)
    case = choice.case(part)
    load.check()
    costs = _costs(case, multiples, busy)
    found = [_line(case, name, usd, how, kind, costs) for name, usd in prices.items() for how, kind in costs]
    answers = [_answer(name, found) for name in prices]
    head = ("list price", "more", "memory", *(f"x{times}" for times in multiples), "turns borne")
    console = console_for(json_file)
    _show(console, TITLE, head, [line.cells() for line in found])
    rows: list[list[str]] = []
    if load.simulated:
        rows, more = _played(part, choice, load, prices, multiples)
        answers += more
        _show(console, PLAYED_TITLE, PLAYED_HEAD, rows)
    inputs: dict[str, object] = {"part": part, "list prices": list_prices, "utilisation": utilisation}
    inputs |= choice.as_inputs() | load.as_inputs()
    if html is not None:
        page = _page(found, head, answers, multiples, inputs)
        if rows:
            page.table(PLAYED_HEAD, rows)
        write_page(page, html, console)
    write_json(json_file, _figures(found, head, rows, answers, inputs))
    for answer in answers:
        console.print(f"study: {answer}", style="bold", markup=False, soft_wrap=True)
    return 0


def _show(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(fitted(console, table))


def _figures(
    found: list[_Line],
    head: tuple[str, ...],
    rows: list[list[str]],
    answers: list[str],
    inputs: dict[str, object],
) -> dict[str, Any]:
    """What is kept as JSON. ``rows``: of the simulated replica, if there was one."""
    played = [dict(zip(PLAYED_HEAD, row, strict=True)) for row in rows]
    told = {"rows": _json(found), "simulated": played, "answers": answers, "inputs": _told(inputs)}
    tables = [("Closed form", head, [line.cells() for line in found])]
    tables += [(PLAYED_TITLE, PLAYED_HEAD, rows)] if rows else []
    return kept("study amplification", inputs, tables) | told | {"notes": answers}


def _played(
    part: str, choice: Choice, load: PlayedLoad, prices: dict[str, ListPrice], multiples: list[int]
) -> tuple[list[list[str]], list[str]]:
    """Rows and answers of the simulated replica."""
    found = play_amplified(part, choice, load, list(MEMORIES), multiples)
    reusable = Decimal(str(choice.case(part).workload.number("reusable_share")))
    rows = [
        one.cells(name, usd, reusable, MEMORIES[one.kind]) for name, usd in prices.items() for one in found
    ]
    return rows, [played_answer(name, usd, reusable, found, load) for name, usd in prices.items()]


def _multiples(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if not all(1 <= times <= _MOST for times in found):
        raise BadInput(f"--times {text}: give whole numbers from 1 to {_MOST}, with commas")
    return found


def _costs(case: Case, multiples: list[int], busy: Decimal) -> _Costs:
    ways: list[Amplified] = ["turns", "answers"]
    jobs = [(how, kind) for how in ways for kind in MEMORIES]
    found = {}
    for how, kind in progress(jobs, len(jobs), "serving"):
        steady = cheapest(case, kind)[1]
        found[how, kind] = {n: turn_cost_usd(case, kind, steady, busy, n, how) for n in (1, *multiples)}
    return found


def _line(
    case: Case,
    name: str,
    usd: ListPrice,
    how: Amplified,
    kind: str,
    costs: _Costs,
) -> _Line:
    revenue, by_times = usd.turn_usd(case), costs[how, kind]
    margins = {times: margin(revenue, cost) for times, cost in by_times.items()}
    return _Line(name, how, kind, margins, revenue / costs["turns", kind][1])


def _answer(name: str, found: list[_Line]) -> str:
    """Of more turns, without KV tiers and with all of them."""
    by_kind = {line.kind: line for line in found if line.price == name and line.how == "turns"}
    told = [
        f"{words} " + ", ".join(f"x{n} {percent(m)}" for n, m in by_kind[kind].margins.items())
        for kind, words in (("hbm", "with HBM only"), ("selective", "with all KV tiers"))
    ]
    return (
        f"{name}: margin {told[0]}; {told[1]}. A paid turn may take {by_kind['hbm'].borne:.1f} computed ones"
        f" without KV tiers and {by_kind['selective'].borne:.1f} with them before nothing is left."
    )


def _page(
    found: list[_Line],
    head: tuple[str, ...],
    answers: list[str],
    multiples: list[int],
    inputs: dict[str, object],
) -> Page:
    page = Page("Amplification", " ".join(answers))
    names = [f"x{times}" for times in multiples]
    for price in dict.fromkeys(line.price for line in found):
        own = [line for line in found if line.price == price and line.how == "turns"]
        series = {MEMORIES[one.kind]: [100 * (one.margins[n] or 0.0) for n in multiples] for one in own}
        page.chart(charts.bars(f"Margin by intermediate tokens, {price}", "%", names, series))
    page.table(head, [line.cells() for line in found])
    page.inputs(inputs)
    return page


def _json(found: list[_Line]) -> list[dict[str, Any]]:
    return [
        {
            "list_price": line.price,
            "more": line.how,
            "memory": line.kind,
            "margins": {f"x{times}": value for times, value in line.margins.items()},
            "turns_borne": line.borne,
        }
        for line in found
    ]


def _told(inputs: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in inputs.items()}
