"""``stepwell plan capacity``: how many replicas, and how much of each memory, for the least money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from stepwell.commands.plan.choice import Choice, named_parts
from stepwell.commands.plan.output import progress, write_page
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.economics.splits import KINDS, cheapest
from stepwell.economics.steps import Case, Memory, Steady, drives, prefill_usd, ssd_write_usd
from stepwell.errors import BadInput
from stepwell.report import charts
from stepwell.report.page import Page

HEAD = ("part", "memory", "replicas", "DRAM GB", "drives", "found", "ms/token", "USD/1,000 turns", "binds")


def capacity(
    parts: str = "h200",
    *,
    choice: Choice | None = None,
    turns_per_s: float = 10.0,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """Replicas, HBM, DRAM and SSD that meet a target for the least money.

    Four splits of memory are compared, each at its cheapest size: HBM only, with DRAM, with disks that get
    what is new and outlives DRAM (selective), and with disks that get all that is new. Averages in closed
    form: docs/plan.md says what that leaves out.

    Example: ``stepwell plan capacity h200,b200 --html capacity.html``

    The same with dearer disks: ``stepwell plan capacity h200 --what-if ssd.usd_gb=0.7``

    Parameters
    ----------
    parts
        Hardware of 'stepwell catalogue hardware', with commas.
    turns_per_s
        Turns a second, of all replicas together.
    """
    choice = choice or Choice()
    if not 0 < turns_per_s < 1e9:
        raise BadInput(f"--turns-per-s {turns_per_s}: give a number above zero")
    named = named_parts(parts)
    cases = {name: choice.case(name) for name in named}
    jobs = [(name, kind) for name in named for kind in KINDS]
    found = {job: cheapest(cases[job[0]], job[1]) for job in progress(jobs, len(jobs), "sizing")}
    rows = [_row(name, kind, turns_per_s, cases[name], *found[name, kind]) for name, kind in jobs]
    console = console_for(json_file)
    table = Table(*HEAD)
    for row in rows:
        table.add_row(*(str(row[column]) for column in HEAD))
    console.print(fitted(console, table))
    answers = [_answer(name, {k: found[name, k][1] for k in KINDS}) for name in named]
    wear = [_wear(name, cases[name]) for name in named]
    for line in wear:
        console.print(line, markup=False, soft_wrap=True)
    if html is not None:
        page = _page(rows, wear, answers, {n: [found[n, k][1] for k in KINDS] for n in named})
        page.inputs({"parts": parts, "turns a second": turns_per_s, **choice.as_inputs()})
        write_page(page, html, console)
    write_json(
        json_file,
        {
            "rows": rows,
            "answer": " ".join(answers),
            "answers": answers,
            "wear": wear,
            "inputs": {k: str(v) for k, v in choice.as_inputs().items()},
        },
    )
    for answer in answers:
        console.print(f"capacity: {answer}", style="bold", markup=False, soft_wrap=True)
    return 0


def _page(
    rows: Sequence[dict[str, Any]],
    wear: Sequence[str],
    answers: Sequence[str],
    found: Mapping[str, Sequence[Steady]],
) -> Page:
    """``found``: by part, what each of ``KINDS`` comes to."""
    page = Page("Capacity", " ".join(answers))
    costs = {
        kind: [float(of[number].usd_per_turn) * 1000 for of in found.values()]
        for number, kind in enumerate(KINDS.values())
    }
    page.chart(charts.bars("Cost of 1,000 turns", "USD", list(found), costs))
    page.table(HEAD, [[row[column] for column in HEAD] for row in rows])
    for line in wear:
        page.text(line)
    return page


def _row(
    name: str, kind: str, turns_per_s: float, case: Case, memory: Memory, found: Steady
) -> dict[str, Any]:
    replicas = math.ceil(turns_per_s / found.turns_per_s)
    return {
        "part": name,
        "memory": KINDS[kind],
        "replicas": replicas,
        "DRAM GB": f"{memory.dram_gb * replicas:,.0f}",
        "drives": round(drives(memory, case.ssd) * replicas),
        "found": f"{found.hit_share:.1%}",
        "ms/token": f"{found.tpot_ms:.1f}",
        "USD/1,000 turns": f"{found.usd_per_turn * 1000:.2f}",
        "binds": found.binds,
    }


def _answer(name: str, found: dict[str, Steady]) -> str:
    before, after = found["dram"].usd_per_turn, found["selective"].usd_per_turn
    best = min(found, key=lambda kind: found[kind].usd_per_turn)
    change = float(1 - after / before)
    word = "cheaper" if change >= 0 else "dearer"
    return (
        f"on {name} the third step with selective admission is {abs(change):.0%} {word} than HBM and DRAM;"
        f" cheapest is {KINDS[best]} at ${found[best].usd_per_turn * 1000:.2f} for 1,000 turns."
    )


def _wear(name: str, case: Case) -> str:
    """Whether writing a context once costs more than computing it once."""
    tokens = case.serving.input_tokens
    write, compute = ssd_write_usd(case, tokens), prefill_usd(case, tokens)
    dear = "more" if write > compute else "less"
    return (
        f"{name}: writing one context of {tokens:,.0f} tokens wears ${write:.4f} off a disk, {dear} than"
        f" computing it once (${compute:.4f}); a write must be read"
        f" {float(write / compute):.2f} times to pay for its wear"
    )
