"""``stepwell plan price``: what a million tokens costs, and what is left when agents use more of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from stepwell.commands.plan.choice import Choice
from stepwell.commands.plan.flash import (
    HEAD,
    KINDS,
    FlashChoice,
    compared,
    flash_answer,
    percent,
    rows_of,
    table_of,
)
from stepwell.commands.plan.output import progress, write_page
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.economics.list_prices import (
    MILLION,
    SERVICE_TIERS,
    ListPrice,
    at_least_zero,
    busy_share,
    margin,
    turn_cost_usd,
)
from stepwell.economics.products import Earned
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Case, Steady, prefill_usd
from stepwell.errors import BadInput
from stepwell.report import charts
from stepwell.report.page import Page

AMPLIFICATIONS = (1, 2, 3)
RISES = (Decimal(1), Decimal("1.2"), Decimal("1.5"), Decimal(2))
"""Multiples of the list price against which amplification is held."""


@dataclass(frozen=True, slots=True)
class _Priced:
    """All that one call found."""

    case: Case
    price: ListPrice
    busy: Decimal
    found: dict[tuple[str, str], Steady]
    cannot: list[str]
    flash: list[Earned]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [_row(self.case, key, steady, self.price, self.busy) for key, steady in self.found.items()]

    def margin(self, kind: str, amplification: int, rise: Decimal = Decimal(1)) -> float | None:
        cost = turn_cost_usd(self.case, kind, self.found["default", kind], self.busy, amplification)
        return margin(self.price.times(rise).turn_usd(self.case), cost)

    @property
    def margins(self) -> dict[str, list[float | None]]:
        return {kind: [self.margin(kind, a) for a in AMPLIFICATIONS] for kind in KINDS}

    @property
    def rising(self) -> list[list[str]]:
        """Margin by amplification where the price rises meanwhile."""
        return [
            [KINDS[k], f"x{a}", *(percent(self.margin(k, a, rise)) for rise in RISES)]
            for k in KINDS
            for a in AMPLIFICATIONS
        ]

    @property
    def answer(self) -> str:
        texts = [
            f"{KINDS[k]}: " + ", ".join(f"x{a} {percent(m)}" for a, m in zip(AMPLIFICATIONS, ms, strict=True))
            for k, ms in self.margins.items()
        ]
        return f"margin at list price by amplification, {'; '.join(texts)}."


RISING_HEAD = ("memory", "tokens", *(f"price x{rise}" for rise in RISES))


def price(
    part: str = "h200",
    *,
    choice: Choice | None = None,
    flash: FlashChoice | None = None,
    list_price: str = "1.25/0.125/10",
    price_factor: str = "1",
    utilisation: str = "0.7",
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """What a million tokens costs by service tier, and the margin when intermediate tokens double and triple.

    Amplification x2: an answer that the customer pays for takes twice the turns; a table holds that against
    prices that rise. With ``--flash MODEL`` a small product is compared with this one, step by step: small
    model, pruned agents, token penalty.

    Example: ``stepwell plan price h200 --list-price gpt-5 --price-factor 1.2``

    A small product beside it: ``stepwell plan price h200 --flash llama-3.1-8b --flash-price 0.30/0.03/2.50``

    Parameters
    ----------
    part
        Hardware of 'stepwell catalogue hardware'.
    list_price
        USD per million tokens: input/cached/output, or a name of 'stepwell catalogue prices'.
    price_factor
        The list price is multiplied by this.
    utilisation
        Share of time that replicas are full; the rest is paid for and idle.
    """
    choice, flash = choice or Choice(), flash or FlashChoice()
    usd = ListPrice.parse(list_price, "--list-price").times(at_least_zero(price_factor, "--price-factor"))
    busy = busy_share(utilisation)
    priced = _priced(choice, flash, part, usd, busy)
    console = console_for(json_file)
    _show(priced, console)
    if html is not None:
        inputs = {"part": part, "list price": list_price, "price factor": price_factor}
        inputs |= {"utilisation": utilisation}
        write_page(_page(priced, {**inputs, **choice.as_inputs(), **flash.as_inputs()}), html, console)
    write_json(
        json_file,
        {
            "rows": priced.rows,
            "margins": priced.margins,
            "margins_as_prices_rise": [dict(zip(RISING_HEAD, row, strict=True)) for row in priced.rising],
            "flash": rows_of(priced.flash),
            "not_possible": priced.cannot,
            "answer": priced.answer,
        },
    )
    if priced.flash:
        console.print(f"flash: {flash_answer(priced.flash)}", markup=False, soft_wrap=True)
    console.print(f"price: {priced.answer}", style="bold", markup=False, soft_wrap=True)
    return 0


def _priced(choice: Choice, flash: FlashChoice, part: str, usd: ListPrice, busy: Decimal) -> _Priced:
    """Every service tier with every kind of memory. ``BadInput``: the default one cannot be served."""
    case = choice.case(part)
    jobs = [(tier, kind) for tier in SERVICE_TIERS for kind in KINDS]
    found: dict[tuple[str, str], Steady] = {}
    cannot: list[str] = []
    for tier, kind in progress(jobs, len(jobs), "pricing"):
        target = replace(case, target_tpot_ms=case.target_tpot_ms * SERVICE_TIERS[tier][0])
        try:
            found[tier, kind] = cheapest(target, kind)[1]
        except BadInput as error:
            cannot.append(f"{tier}: {error}")
    if ("default", "hbm") not in found:
        raise BadInput(cannot[0])
    return _Priced(case, usd, busy, found, cannot, compared(flash, choice, part, usd, busy))


def _show(priced: _Priced, console: Console) -> None:
    rows = priced.rows
    title = "USD per million tokens; break-even: share of the list price that covers the cost"
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(str(cell) for cell in row.values()))
    console.print(fitted(console, table))
    rising = Table(*RISING_HEAD, title="margin when intermediate tokens multiply and the price rises")
    for line in priced.rising:
        rising.add_row(*line)
    console.print(fitted(console, rising))
    if priced.flash:
        console.print(fitted(console, table_of(priced.flash)))
    for sentence in priced.cannot:
        console.print(f"not possible: {sentence}", markup=False, soft_wrap=True)


def _page(priced: _Priced, inputs: dict[str, object]) -> Page:
    page = Page("Price", priced.answer)
    shown = {KINDS[k]: [100 * (m or 0.0) for m in ms] for k, ms in priced.margins.items()}
    page.chart(charts.bars("Margin by amplification", "%", [f"x{a}" for a in AMPLIFICATIONS], shown))
    rows = priced.rows
    page.table(list(rows[0]), [list(row.values()) for row in rows])
    page.heading("Margin when intermediate tokens multiply and the price rises")
    page.table(RISING_HEAD, priced.rising)
    if priced.flash:
        page.heading("A small product beside it")
        page.text(flash_answer(priced.flash))
        tiers = [one for one in priced.flash if one.kind == "selective"]
        names = [one.product.name for one in tiers]
        cost = {"cost": [float(one.cost) * 1000 for one in tiers]}
        page.chart(charts.bars("Cost of 1,000 answers, all KV tiers", "USD", names, cost))
        page.table(HEAD, [list(row.values()) for row in rows_of(priced.flash)])
    for sentence in priced.cannot:
        page.text(f"not possible: {sentence}")
    page.inputs(inputs)
    return page


def _row(case: Case, key: tuple[str, str], found: Steady, usd: ListPrice, busy: Decimal) -> dict[str, Any]:
    """A turn's cost is split: computed prompt tokens by what they take, output by the rest of the time."""
    tier, kind = key
    s = found.serving
    turn = found.usd_per_turn / busy
    memory = (found.usd_hour["dram"] + found.usd_hour["ssd"]) / Decimal(found.turns_per_s * 3600) / busy
    fresh = Decimal(s.input_tokens * (1 - found.hit_share))
    prompt = min(prefill_usd(case, s.input_tokens) * fresh / Decimal(s.input_tokens) / busy, turn - memory)
    cached = Decimal(s.input_tokens * found.hit_share)
    revenue = usd.turn_usd(case) * SERVICE_TIERS[tier][1]
    return {
        "service tier": tier,
        "memory": KINDS[kind],
        "ms/token": f"{found.tpot_ms:.1f}",
        "found": f"{found.hit_share:.1%}",
        "input": f"{prompt / fresh * MILLION:.3f}" if fresh else "0",
        "cached input": f"{memory / cached * MILLION:.4f}" if cached else "0",
        "output": f"{(turn - memory - prompt) / Decimal(s.output_tokens) * MILLION:.2f}",
        "USD/1,000 turns": f"{turn * 1000:.2f}",
        "break-even": f"{turn / revenue:.2f}" if revenue else "never",
        "margin": percent(margin(revenue, turn)),
    }
