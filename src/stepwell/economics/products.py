"""A large product and a small one beside it: what each step from one to the other changes in what is earned.

An answer of the large product (pro) takes ``turns`` turns. The small one (flash) runs on a smaller model,
leaves agents out (fewer turns), and weighs tokens (shorter answers of each turn).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from stepwell.economics.list_prices import ListPrice, margin
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Case, Steady


@dataclass(frozen=True, slots=True)
class Product:
    """What is sold under one name."""

    name: str
    case: Case
    price: ListPrice
    turns: Decimal
    """Of an answer."""
    right: Decimal
    """Share of answers."""


@dataclass(frozen=True, slots=True)
class Earned:
    """One answer of a product. Dollars."""

    product: Product
    kind: str
    found: Steady
    cost: Decimal
    by_answer: Decimal
    """Revenue where the customer pays for the answer: the turns of pro, at the product's own list price."""
    by_token: Decimal
    """Revenue where all tokens are billed: what is not computed is not paid for either."""
    chip_hours: Decimal

    @property
    def margin_by_answer(self) -> float | None:
        return margin(self.by_answer, self.cost)

    @property
    def margin_by_token(self) -> float | None:
        return margin(self.by_token, self.cost)

    @property
    def cost_of_right(self) -> Decimal | None:
        """Of a right answer; None: none is right."""
        return self.cost / self.product.right if self.product.right else None

    @property
    def usd_chip_hour(self) -> Decimal:
        """What an hour of one chip earns beyond its cost, where answers are paid for."""
        return (self.by_answer - self.cost) / self.chip_hours


@dataclass(frozen=True, slots=True)
class Flash:
    """How the small product differs from the large one."""

    case: Case
    price: ListPrice
    turns_share: Decimal
    tokens_share: Decimal
    """Of the output tokens of a turn."""
    right: Decimal


def steps_to_flash(pro: Product, flash: Flash) -> Iterator[Product]:
    """Pro, then one change after another. Right answers are known of both ends; the steps have flash's."""
    yield pro
    fewer = pro.turns * flash.turns_share
    yield Product("small model", flash.case, flash.price, pro.turns, flash.right)
    yield Product("+ pruned agents", flash.case, flash.price, fewer, flash.right)
    shorter = flash.case.serving.output_tokens * float(flash.tokens_share)
    serving = replace(flash.case.serving, output_tokens=shorter)
    short = replace(flash.case, serving=serving)
    yield Product("+ token penalty = flash", short, flash.price, fewer, flash.right)


def earned(product: Product, pro: Product, kind: str, busy: Decimal) -> Earned:
    """``BadInput``: the product's model cannot do the work on its part."""
    found = cheapest(product.case, kind)[1]
    chip_hours = product.turns * found.serving.chips / Decimal(found.turns_per_s * 3600) / busy
    return Earned(
        product,
        kind,
        found,
        product.turns * found.usd_per_turn / busy,
        pro.turns * product.price.turn_usd(pro.case),
        product.turns * product.price.turn_usd(product.case),
        chip_hours,
    )
