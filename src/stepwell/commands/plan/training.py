"""Flags and table of ``stepwell plan hardware --train-tokens``: training on one part, serving on another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter

from stepwell.catalogue.load import entry
from stepwell.commands.plan.choice import Choice
from stepwell.economics.generations import Split, Training, splits
from stepwell.economics.steps import Steady
from stepwell.errors import BadInput

HEAD = ("trains on", "serves on", "chips train", "chips serve", "train", "USD/hour", "MW")


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingChoice:
    """A training run beside the serving: which generation does which."""

    train_tokens: float | None = None
    """Tokens of the run. Without it only serving is compared."""
    train_days: float = 90.0
    """How long it may take."""
    train_model: str | None = None
    """What is trained; the model that is served where none is named."""
    mfu: float = 0.4
    """Share of the part's dense bf16 rate that training reaches."""
    turns_per_s: float = 100.0
    """Turns a second that are served meanwhile."""

    def as_inputs(self) -> dict[str, object]:
        if self.train_tokens is None:
            return {}
        return {name.replace("_", " "): getattr(self, name) for name in self.__dataclass_fields__}


def divided(wanted: TrainingChoice, choice: Choice, serving: Mapping[str, Steady]) -> list[Split]:
    """Every pair of parts, the cheapest first; nothing without a training run."""
    if wanted.train_tokens is None:
        return []
    for flag, value, most in (
        ("--train-tokens", wanted.train_tokens, 1e18),
        ("--train-days", wanted.train_days, 36_500),
        ("--mfu", wanted.mfu, 1),
        ("--turns-per-s", wanted.turns_per_s, 1e9),
    ):
        if not 0 < value <= most:
            raise BadInput(f"{flag} {value:g}: give a number above 0 and up to {most:g}")
    model = entry("models", wanted.train_model or choice.model)
    training = Training(model, wanted.train_tokens, wanted.train_days, wanted.mfu)
    cases = {name: choice.case(name) for name in serving}
    parts = {name: case.serving.part for name, case in cases.items()}
    prices = {name: case.usd_chip_hour for name, case in cases.items()}
    return splits(training, parts, serving, wanted.turns_per_s, prices)


def rows_of(found: list[Split]) -> list[list[str]]:
    return [
        [
            one.trains_on, one.serves_on, f"{one.training_chips:,}", f"{one.serving_chips:,}",
            f"{one.training_share:.0%}", f"{one.usd_hour:,.0f}",
            "unknown" if one.mw is None else f"{one.mw:,.1f}",
        ]
        for one in found
    ]  # fmt: skip


def as_json(found: list[Split]) -> list[dict[str, Any]]:
    return [
        {
            "trains_on": one.trains_on,
            "serves_on": one.serves_on,
            "training_chips": one.training_chips,
            "serving_chips": one.serving_chips,
            "training_share": one.training_share,
            "usd_hour": one.usd_hour,
            "mw": one.mw,
        }
        for one in found
    ]


def split_answer(found: list[Split]) -> str:
    """The cheapest pair against the cheapest part that does both."""
    best = found[0]
    text = (
        f"training on {best.trains_on} and serving on {best.serves_on} is cheapest:"
        f" {best.training_chips:,} and {best.serving_chips:,} chips ({best.training_share:.0%} of the fleet"
        f" trains), ${best.usd_hour:,.0f} an hour"
    )
    alone = next((one for one in found if one.trains_on == one.serves_on), None)
    if alone is None or alone is best:
        return f"{text}."
    more = float(alone.usd_hour / best.usd_hour - 1)
    return f"{text}; {alone.trains_on} for both costs {more:.0%} more."
