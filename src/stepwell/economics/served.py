"""Revenue of a contract whose capacity serves turns at a list price, as ``stepwell plan price`` counts them.

So that a change in the KV tiers, in the model or in amplification is seen in the cash flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from stepwell.economics.cases import Named, case_of
from stepwell.economics.contract_file import ContractPlan, Served
from stepwell.economics.list_prices import ListPrice
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Memory, Steady
from stepwell.errors import BadInput

HOURS_A_YEAR = 8760


@dataclass(frozen=True, slots=True)
class ServedYear:
    """A megawatt that serves for a year without a pause, at one paid turn for one computed."""

    found: Steady
    memory: Memory
    turn_usd: Decimal
    """Revenue of a paid turn."""
    usd_per_mw_year: Decimal
    memory_usd_per_mw_year: Decimal
    """What DRAM and disks lose by age or wear."""


def served_year(served: Served) -> ServedYear:
    """``BadInput`` says what cannot be, after the key ``customer.served``."""
    try:
        return _served_year(served.model_dump_json(exclude={"price_factor", "amplification"}))
    except BadInput as error:
        raise BadInput(f"customer.served: {error}") from error


@lru_cache(maxsize=256)
def _served_year(text: str) -> ServedYear:
    served = Served.model_validate_json(text)
    case = case_of(
        Named(
            served.part, served.model, served.workload, served.chips, served.weights, served.kv,
            float(served.tpot_ms), served.engine, served.ssd, None, tuple(_changes(served.figures)),
        )
    )  # fmt: skip
    memory, found = cheapest(case, served.memory)
    kw = served.kw_per_gpu or case.serving.part.get("kw_all_in")
    if not kw:
        raise BadInput("kw_per_gpu must be above zero")
    replicas_per_mw = 1000 / kw / served.chips
    turn_usd = ListPrice.parse(served.list_price, "list_price").turn_usd(case)
    turns = Decimal(found.turns_per_s) * 3600 * HOURS_A_YEAR
    rooms = (found.usd_hour["dram"] + found.usd_hour["ssd"]) * HOURS_A_YEAR
    return ServedYear(found, memory, turn_usd, turns * turn_usd * replicas_per_mw, rooms * replicas_per_mw)


def _changes(figures: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in figures.items():
        name = f"{prefix}{key}"
        found += _changes(value, f"{name}.") if isinstance(value, dict) else [f"{name}={value}"]
    return found


def sold(plan: ContractPlan) -> ContractPlan:
    """The same plan with what it serves as a price of capacity and a cost of operation."""
    served = plan.customer.served
    if served is None:
        return plan
    year = served_year(served)
    price = year.usd_per_mw_year * served.price_factor / served.amplification
    customer = plan.customer.model_copy(update={"usd_per_mw_year": price, "served": None})
    costs = plan.operations.usd_per_mw_year + year.memory_usd_per_mw_year
    operations = plan.operations.model_copy(update={"usd_per_mw_year": costs})
    return plan.model_copy(update={"customer": customer, "operations": operations})
