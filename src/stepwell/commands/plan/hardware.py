"""``stepwell plan hardware``: the same work on several parts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from stepwell.commands.plan import training as plan_training
from stepwell.commands.plan.choice import Choice, named_parts
from stepwell.commands.plan.output import progress, write_page
from stepwell.commands.plan.training import TrainingChoice, divided, split_answer
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.economics.generations import Split
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Steady
from stepwell.errors import BadInput
from stepwell.report import charts
from stepwell.report.page import Page

HEAD = ("part", "USD/M tokens", "Wh/M tokens", "ms/token", "turns/s", "batch", "found", "binds")


def hardware(
    parts: str = "h100,h200,b200,gb200,mi300x,tpu-v6e",
    *,
    choice: Choice | None = None,
    training: TrainingChoice | None = None,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """The same work on several parts: cost and energy per token, latency, and what binds.

    Each part has its cheapest split of HBM, DRAM and disks. A part that cannot do the work says why. With
    ``--train-tokens`` a training run is beside the serving: every pair of a part that trains and one that
    serves, as a split of the fleet.

    Example: ``stepwell plan hardware h100,h200,b200 --model qwen3-32b --workload conversation``

    Training on one generation, serving on the next: ``stepwell plan hardware h100,b200 --train-tokens 15e12``

    Parameters
    ----------
    parts
        Hardware of 'stepwell catalogue hardware', with commas.
    """
    choice, training = choice or Choice(), training or TrainingChoice()
    named = named_parts(parts)
    found, cannot = _served(named, choice)
    split = divided(training, choice, found)
    rows = [_row(name, steady) for name, steady in found.items()]
    console = console_for(json_file)
    _table(console, HEAD, rows)
    for line in cannot:
        console.print(f"not possible: {line}", markup=False, soft_wrap=True)
    answer = _answer(found)
    if split:
        _table(console, plan_training.HEAD, plan_training.rows_of(split))
        answer = f"{answer} {split_answer(split)}"
    if html is not None:
        inputs = {"parts": parts, **choice.as_inputs(), **training.as_inputs()}
        write_page(_page(found, rows, cannot, split, answer, inputs), html, console)
    shown = [dict(zip(HEAD, row, strict=True)) for row in rows]
    splits = plan_training.as_json(split)
    write_json(json_file, {"rows": shown, "splits": splits, "not_possible": cannot, "answer": answer})
    console.print(f"hardware: {answer}", style="bold", markup=False, soft_wrap=True)
    return 0


def _served(named: list[str], choice: Choice) -> tuple[dict[str, Steady], list[str]]:
    """A replica of each part that can do the work, and why the others cannot."""
    found: dict[str, Steady] = {}
    cannot: list[str] = []
    for name in progress(named, len(named), "serving"):
        try:
            found[name] = cheapest(choice.case(name), "selective")[1]
        except BadInput as error:
            cannot.append(str(error))
    if not found:
        raise BadInput(cannot[0])
    return found, cannot


def _answer(found: dict[str, Steady]) -> str:
    costs = {name: usd_per_m_tokens(steady) for name, steady in found.items()}
    best = min(costs, key=costs.__getitem__)
    return f"{best} is cheapest: ${costs[best]:.3f} per million tokens in and out, {found[best].binds} binds."


def _table(console: Console, head: Sequence[str], rows: list[list[str]]) -> None:
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console.print(fitted(console, table))


def _page(
    found: dict[str, Steady],
    rows: list[list[str]],
    cannot: list[str],
    split: list[Split],
    answer: str,
    inputs: dict[str, object],
) -> Page:
    page = Page("Hardware", answer)
    costs = {"cost": [usd_per_m_tokens(steady) for steady in found.values()]}
    page.chart(charts.bars("Cost", "USD per million tokens", list(found), costs))
    page.table(HEAD, rows)
    for line in cannot:
        page.text(line)
    if split:
        page.heading("Training on one part, serving on another")
        page.table(plan_training.HEAD, plan_training.rows_of(split))
    page.inputs(inputs)
    return page


def _tokens(found: Steady) -> float:
    return found.serving.input_tokens + found.serving.output_tokens


def usd_per_m_tokens(found: Steady) -> float:
    return float(found.usd_per_turn) / _tokens(found) * 1e6


def _row(name: str, found: Steady) -> list[str]:
    power_kw = found.serving.part.find("kw_all_in")
    if power_kw is None:
        energy = "unknown"
    else:
        energy_wh = float(power_kw) * 1000 * found.serving.chips / 3600 / found.turns_per_s
        energy = f"{energy_wh / _tokens(found) * 1e6:,.0f}"
    return [
        name, f"{usd_per_m_tokens(found):.3f}", energy, f"{found.tpot_ms:.1f}", f"{found.turns_per_s:.3f}",
        str(found.serving.batch), f"{found.hit_share:.1%}", found.binds,
    ]  # fmt: skip
