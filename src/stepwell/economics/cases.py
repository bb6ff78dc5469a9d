"""A case from names of the catalogues: which work, on which part, with which model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stepwell.catalogue.load import entry
from stepwell.economics.changes import with_changes
from stepwell.economics.constants import load_constants
from stepwell.economics.roofline import Serving
from stepwell.economics.steps import Case
from stepwell.errors import BadInput

WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.56}
KV_BYTES = {"bf16": 2.0, "fp8": 1.0}


@dataclass(frozen=True, slots=True)
class Named:
    """What a case is made of, by name."""

    part: str
    model: str
    workload: str
    chips: int
    weights: str
    kv: str
    tpot_ms: float
    engine: str
    ssd: str
    constants: Path | None = None
    changes: tuple[str, ...] = ()
    """Figures set by hand, as ``KEY=VALUE``."""


def case_of(named: Named) -> Case:
    """``BadInput``: a name or a figure that cannot be."""
    figures = {
        "": entry("workloads", named.workload),
        "part": entry("parts", named.part),
        "dram": entry("memory", "dram"),
        "ssd": entry("memory", named.ssd),
    }
    figures = with_changes(figures, list(named.changes))
    part, work = figures["part"], figures[""]
    price_usd = part.find("usd_hour_rent") or part.get("usd_hour_tco")
    serving = Serving(
        entry("models", named.model), part, named.chips, WEIGHT_BYTES[named.weights], KV_BYTES[named.kv],
        1, work.number("input_tokens"), work.number("output_tokens"),
    )  # fmt: skip
    if serving.input_tokens <= 0 or serving.output_tokens <= 0 or work.number("reusable_share") >= 1:
        raise BadInput("input_tokens and output_tokens must be above zero, reusable_share below one")
    constants = tuple(load_constants(named.engine, named.constants))
    return Case(work, serving, constants, named.tpot_ms, price_usd, figures["dram"], figures["ssd"])
