"""A fleet that trains on one generation of parts and serves on another: how it divides, and what that costs.

Training takes six operations for each parameter that a token meets and each token (Kaplan et al. 2020), at a
share of the part's dense bf16 rate (model FLOP utilisation). Whether the model's state fits is not looked at:
a training run is spread over far more parts than that needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from stepwell.catalogue.load import Entry
from stepwell.economics.steps import Steady

OPERATIONS_PER_PARAMETER = 6
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Training:
    """One run."""

    model: Entry
    tokens: float
    days: float
    mfu: float
    """Model FLOP utilisation: what is reached of the part's dense bf16 rate."""


@dataclass(frozen=True, slots=True)
class Split:
    """Training on one part, serving on another (or the same). Dollars are per hour of the whole fleet."""

    trains_on: str
    serves_on: str
    training_chips: int
    serving_chips: int
    usd_hour: Decimal
    mw: float | None
    """None: the catalogue does not know a part's power."""

    @property
    def training_share(self) -> float:
        """Of the fleet's chips."""
        return self.training_chips / (self.training_chips + self.serving_chips)


def training_chips(training: Training, part: Entry) -> int:
    """Chips that end the run in its days."""
    work = OPERATIONS_PER_PARAMETER * training.model.number("active_params_b") * 1e9 * training.tokens
    rate = float(part.get("tflops_bf16")) * 1e12 * training.mfu
    return math.ceil(work / (rate * training.days * DAY_S))


def splits(
    training: Training,
    parts: Mapping[str, Entry],
    serving: Mapping[str, Steady],
    turns_per_s: float,
    usd_chip_hour: Mapping[str, Decimal],
) -> list[Split]:
    """Every part that trains with every part that serves, the cheapest first.

    ``serving``: a replica of each part that can do the work. Its DRAM and disks are paid for, too.
    """
    found = [
        _split(training, part, one, turns_per_s, usd_chip_hour)
        for part in parts.values()
        for one in serving.values()
    ]
    return sorted(found, key=lambda split: split.usd_hour)


def _split(
    training: Training, part: Entry, steady: Steady, turns_per_s: float, usd_chip_hour: Mapping[str, Decimal]
) -> Split:
    chips = training_chips(training, part)
    replicas = math.ceil(turns_per_s / steady.turns_per_s)
    serving = replicas * steady.serving.chips
    usd = chips * usd_chip_hour[part.key] + replicas * sum(steady.usd_hour.values(), Decimal(0))
    power = [(part, chips), (steady.serving.part, serving)]
    return Split(part.key, steady.serving.part.key, chips, serving, usd, _mw(power))


def _mw(chips: Iterable[tuple[Entry, int]]) -> float | None:
    total = 0.0
    for part, count in chips:
        kw = part.find("kw_all_in")
        if kw is None:
            return None
        total += float(kw) * count / 1000
    return total
