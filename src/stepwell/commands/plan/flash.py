"""Flags and table of ``stepwell plan price --flash``: what a small product earns beside a large one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from cyclopts import Parameter
from rich.table import Table

from stepwell.commands.plan.choice import Choice
from stepwell.economics.list_prices import ListPrice, at_least_zero
from stepwell.economics.products import Earned, Flash, Product, earned, steps_to_flash
from stepwell.economics.steps import Case
from stepwell.errors import BadInput

KINDS = {"hbm": "HBM only", "selective": "all KV tiers"}
HEAD = (
    "product", "model", "memory", "turns", "tokens/turn", "USD/1,000 answers", "margin, answers paid",
    "margin, tokens billed", "USD/chip-hour", "right", "USD/1,000 right",
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class FlashChoice:
    """A small product beside the one above (pro).

    Turns, tokens and right answers default to what was measured with SmolLM2 on small programs
    (docs/profiles.md); they are yours to set.
    """

    flash: str | None = None
    """The small product's model, of 'stepwell catalogue models'. Without it nothing is compared."""
    flash_chips: int = 1
    """Parts of one of its replicas."""
    flash_price: str = "gemini-2.5-flash"
    """Its list price: input/cached/output, or a name of 'stepwell catalogue prices'."""
    answer_turns: str = "8.1"
    """Turns of an answer of pro."""
    flash_turns: str = "0.49"
    """Share of these turns that is left without the pruned agents."""
    flash_tokens: str = "0.93"
    """Share of a turn's output tokens that the token penalty leaves."""
    pro_right: str = "0.625"
    """Share of pro's answers that is right."""
    flash_right: str = "0.625"
    """Share of the small product's answers that is right."""
    profiles: Path | None = None
    """Take turns, tokens and right answers from a file of 'stepwell profile compare --json'."""

    def as_inputs(self) -> dict[str, object]:
        if self.flash is None:
            return {}
        return {name.replace("_", " "): getattr(self, name) for name in self.__dataclass_fields__}


def compared(wanted: FlashChoice, choice: Choice, part: str, pro: ListPrice, busy: Decimal) -> list[Earned]:
    """Pro and each step to flash, without KV tiers and with them. Nothing without ``--flash``."""
    if wanted.flash is None:
        return []
    if wanted.profiles is not None:
        wanted = _measured(wanted, wanted.profiles)
    large = choice.case(part)
    flash = _flash(wanted, choice, part)
    turns = _above_zero(wanted.answer_turns, "--answer-turns")
    first = Product("pro", large, pro, turns, _share(wanted.pro_right, "--pro-right"))
    return [earned(product, first, kind, busy) for product in steps_to_flash(first, flash) for kind in KINDS]


def _flash(wanted: FlashChoice, choice: Choice, part: str) -> Flash:
    small: Case = replace(choice, model=wanted.flash or "", chips=wanted.flash_chips).case(part)
    return Flash(
        small,
        ListPrice.parse(wanted.flash_price, "--flash-price"),
        _above_zero(wanted.flash_turns, "--flash-turns"),
        _above_zero(wanted.flash_tokens, "--flash-tokens"),
        _share(wanted.flash_right, "--flash-right"),
    )


def _above_zero(text: str, flag: str) -> Decimal:
    value = at_least_zero(text, flag)
    if not value:
        raise BadInput(f"{flag} {text}: give a number above zero")
    return value


def _share(text: str, flag: str) -> Decimal:
    value = at_least_zero(text, flag)
    if value > 1:
        raise BadInput(f"{flag} {text}: give a share from 0 to 1")
    return value


def _measured(wanted: FlashChoice, file: Path) -> FlashChoice:
    """Shares of flash over pro, as ``stepwell profile compare --json`` measured them."""
    try:
        found = {one["label"]: one for one in json.loads(file.read_text("utf-8"))["profiles"]}
        pro, flash = found["pro"], found["flash"]
        turns = Decimal(str(pro["turns_per_item"]))
        share = Decimal(str(flash["turns_per_item"])) / turns
        tokens = [
            Decimal(str(one["intermediate_tokens_per_item"] + one["visible_tokens_per_item"]))
            / Decimal(str(one["turns_per_item"]))
            for one in (flash, pro)
        ]
        per_turn = tokens[0] / tokens[1]
        right = [f"{one['accuracy']:.6f}" for one in (pro, flash)]
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise BadInput(
            f"--profiles {file}: this is no output of 'stepwell profile compare --json' with pro and flash"
            f" ({error!r})"
        ) from error
    return replace(
        wanted,
        answer_turns=f"{turns:.6f}",
        flash_turns=f"{share:.6f}",
        flash_tokens=f"{per_turn:.6f}",
        pro_right=right[0],
        flash_right=right[1],
    )


def rows_of(found: list[Earned]) -> list[dict[str, Any]]:
    return [_row(one) for one in found]


def _row(one: Earned) -> dict[str, Any]:
    right = one.cost_of_right
    cells = (
        one.product.name,
        one.found.serving.model.key,
        KINDS[one.kind],
        f"{one.product.turns:.1f}",
        f"{one.found.serving.output_tokens:,.0f}",
        f"{one.cost * 1000:.2f}",
        percent(one.margin_by_answer),
        percent(one.margin_by_token),
        f"{one.usd_chip_hour:.2f}",
        f"{one.product.right:.1%}",
        "none" if right is None else f"{right * 1000:.2f}",
    )
    return dict(zip(HEAD, cells, strict=True))


def percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.0%}"


def table_of(found: list[Earned]) -> Table:
    """The steps side by side, with all KV tiers; the page has them without, too."""
    steps = [_row(one) for one in found if one.kind == "selective"]
    table = Table("all KV tiers", *(step["product"] for step in steps))
    for name in (name for name in HEAD if name not in ("product", "memory")):
        table.add_row(name, *(step[name] for step in steps))
    return table


def flash_answer(found: list[Earned]) -> str:
    """One sentence, with all KV tiers."""
    tiers = [one for one in found if one.kind == "selective"]
    pro, flash = tiers[0], tiers[-1]
    share = float(flash.cost / pro.cost)
    return (
        f"an answer of flash costs {share:.0%} of pro's (${flash.cost * 1000:.2f} against"
        f" ${pro.cost * 1000:.2f} for 1,000); a chip-hour earns ${flash.usd_chip_hour:.2f} against"
        f" ${pro.usd_chip_hour:.2f} beyond its cost, margins {percent(flash.margin_by_answer)} against"
        f" {percent(pro.margin_by_answer)} where the answer is paid for."
    )
