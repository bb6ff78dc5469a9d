"""``stepwell plan price``: what a million tokens costs, and what is left when agents use more of them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from stepwell.commands.plan_choice import Choice, cheapest
from stepwell.commands.plan_output import console_for, progress, write_json, write_page
from stepwell.economics.steps import Case, Steady, prefill_usd
from stepwell.errors import BadInput
from stepwell.report import charts
from stepwell.report.page import Page

SERVICE_TIERS = {"priority": (0.5, Decimal(2)), "default": (1.0, Decimal(1)), "flex": (4.0, Decimal("0.5"))}
"""Share of the target time per token, and the multiple of the list price (OpenAI's)."""
KINDS = {"hbm": "HBM only", "selective": "all KV tiers"}
AMPLIFICATIONS = (1, 2, 3)
_M = Decimal(1_000_000)


def price(
    part: str = "h200",
    *,
    choice: Choice | None = None,
    list_price: str = "1.25/0.125/10",
    price_factor: str = "1",
    utilisation: str = "0.7",
    html: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """What a million tokens costs by service tier, and the margin when intermediate tokens double and triple.

    Amplification x2: an answer that the customer pays for takes twice the turns, at the same price.

    Example: ``stepwell plan price h200 --list-price 1.25/0.125/10 --price-factor 1.2``

    Parameters
    ----------
    part
        Hardware of 'stepwell catalogue hardware'.
    list_price
        USD per million tokens: input, cached input, output.
    price_factor
        The list price is multiplied by this.
    utilisation
        Share of time that replicas are full; the rest is paid for and idle.
    html
        Write a report here.
    json_file
        Write every figure as JSON (``-``: standard output).
    """
    choice = choice or Choice()
    usd = [usd_m * _number(price_factor, "--price-factor") for usd_m in _prices(list_price)]
    busy = _number(utilisation, "--utilisation")
    if not 0 < busy <= 1:
        raise BadInput(f"--utilisation {utilisation}: give a share above 0 and up to 1")
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
    rows = [_row(case, key, steady, usd, busy) for key, steady in found.items()]
    margins = {k: [_margin(case, found["default", k], usd, busy, a) for a in AMPLIFICATIONS] for k in KINDS}
    console = console_for(json_file)
    table = Table(
        *rows[0], title="USD per million tokens; break-even: share of the list price that covers the cost"
    )
    for row in rows:
        table.add_row(*(str(cell) for cell in row.values()))
    console.print(table)
    for line in cannot:
        console.print(f"not possible: {line}", markup=False, soft_wrap=True)
    texts = [
        f"{KINDS[k]}: " + ", ".join(f"x{a} {m:.0%}" for a, m in zip(AMPLIFICATIONS, margins[k], strict=True))
        for k in KINDS
    ]
    answer = f"margin at list price by amplification, {'; '.join(texts)}."
    if html is not None:
        page = Page("Price", answer)
        shown = {KINDS[k]: [m * 100 for m in margins[k]] for k in KINDS}
        page.chart(charts.bars("Margin by amplification", "%", [f"x{a}" for a in AMPLIFICATIONS], shown))
        page.table(list(rows[0]), [list(row.values()) for row in rows])
        page.inputs(
            {"part": part, "list price": list_price, "utilisation": utilisation, **choice.as_inputs()}
        )
        write_page(page, html, console)
    write_json({"rows": rows, "margins": margins, "not_possible": cannot, "answer": answer}, json_file)
    console.print(f"price: {answer}", style="bold", markup=False, soft_wrap=True)
    return 0


def _number(text: str, flag: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise BadInput(f"{flag} {text}: that is not a number") from error
    if not value.is_finite() or value < 0:
        raise BadInput(f"{flag} {text}: give a number at or above zero")
    return value


def _prices(text: str) -> list[Decimal]:
    prices = [_number(part, "--list-price") for part in text.split("/")]
    if len(prices) != 3:
        raise BadInput(f"--list-price {text}: write input/cached/output, such as 1.25/0.125/10")
    return prices


def _revenue_usd(case: Case, usd: list[Decimal]) -> Decimal:
    """One turn at list price. What could be cached is billed as cached, whether we held it or not."""
    s = case.serving
    cached = Decimal(s.input_tokens * case.workload.number("reusable_share"))
    fresh = Decimal(s.input_tokens) - cached
    return (fresh * usd[0] + cached * usd[1] + Decimal(s.output_tokens) * usd[2]) / _M


def _margin(case: Case, found: Steady, usd: list[Decimal], busy: Decimal, amplification: int) -> float:
    revenue = _revenue_usd(case, usd)
    return float(1 - amplification * found.usd_per_turn / busy / revenue) if revenue else float("-inf")


def _row(
    case: Case, key: tuple[str, str], found: Steady, usd: list[Decimal], busy: Decimal
) -> dict[str, Any]:
    """A turn's cost is split: computed prompt tokens by what they take, output by the rest of the time."""
    tier, kind = key
    s = found.serving
    turn = found.usd_per_turn / busy
    memory = (found.usd_hour["dram"] + found.usd_hour["ssd"]) / Decimal(found.turns_per_s * 3600) / busy
    fresh = Decimal(s.input_tokens * (1 - found.hit_share))
    prompt = min(prefill_usd(case, s.input_tokens) * fresh / Decimal(s.input_tokens) / busy, turn - memory)
    cached = Decimal(s.input_tokens * found.hit_share)
    revenue = _revenue_usd(case, usd) * SERVICE_TIERS[tier][1]
    return {
        "service tier": tier,
        "memory": KINDS[kind],
        "ms/token": f"{found.tpot_ms:.1f}",
        "found": f"{found.hit_share:.1%}",
        "input": f"{prompt / fresh * _M:.3f}" if fresh else "0",
        "cached input": f"{memory / cached * _M:.4f}" if cached else "0",
        "output": f"{(turn - memory - prompt) / Decimal(s.output_tokens) * _M:.2f}",
        "USD/1,000 turns": f"{turn * 1000:.2f}",
        "break-even": f"{turn / revenue:.2f}" if revenue else "never",
        "margin": f"{1 - turn / revenue:.0%}" if revenue else "none",
    }
