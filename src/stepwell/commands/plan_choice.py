"""The flags that plans share: which work, which model, which part, and what things cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stepwell.catalogue.load import Entry, entry
from stepwell.commands.plan_output import decimals
from stepwell.economics.constants import load_constants
from stepwell.economics.roofline import Serving
from stepwell.economics.steps import Case, Memory, Steady, steady
from stepwell.errors import BadInput

WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.56}
DRAM_GB = (0, 250, 500, 1000, 1500)
SSD_DRIVES = (1, 2, 4, 8, 16, 32)

_DIVISORS = (
    "hbm_",
    "tflops_",
    "host_link",
    "life_years",
    "dwpd",
    "drive_tb",
    "read_gb_s",
    "write_gb_s",
    "gap_s",
)


@Parameter(name="*")
@dataclass(frozen=True)
class Choice:
    """Work and machine."""

    workload: str = "agentic"
    """What is asked for: agentic, conversation or chat."""
    model: str = "llama-3.1-70b"
    """A model of 'stepwell catalogue models'."""
    chips: int = 4
    """Parts of one replica, in tensor parallel."""
    weights: Literal["bf16", "fp8", "fp4"] = "fp8"
    """Precision of the weights."""
    kv: Literal["bf16", "fp8"] = "bf16"
    """Precision of the KV."""
    tpot_ms: float = 60.0
    """Target: milliseconds per output token."""
    engine: str = "all"
    """Whose constants: all, vllm, trtllm or sglang."""
    constants: Path | None = None
    """Constants of 'stepwell calibrate --out' instead of those that ship."""
    ssd: str = "ssd-1dwpd"
    """The disks: a memory of 'stepwell catalogue hardware'."""
    what_if: Annotated[list[str], Parameter(consume_multiple=True)] = field(default_factory=list)
    """Figures to set, as KEY=VALUE: of workload or part by name, of memory as dram.usd_gb, ssd.dwpd."""

    def case(self, part_key: str) -> Case:
        if self.chips < 1 or self.chips > 1024:
            raise BadInput(f"--chips {self.chips}: give 1 to 1024")
        if not 0 < self.tpot_ms < 1e6:
            raise BadInput(f"--tpot-ms {self.tpot_ms}: give milliseconds above zero")
        workload, part = entry("workloads", self.workload), entry("parts", part_key)
        dram, ssd = entry("memory", "dram"), entry("memory", self.ssd)
        found = {"": workload, "part": part, "dram": dram, "ssd": ssd}
        found = with_changes(found, self.what_if)
        part = found["part"]
        price_usd = part.find("usd_hour_rent") or part.get("usd_hour_tco")
        work = found[""]
        serving = Serving(
            entry("models", self.model), part, self.chips, WEIGHT_BYTES[self.weights],
            2.0 if self.kv == "bf16" else 1.0, 1, work.number("input_tokens"), work.number("output_tokens"),
        )  # fmt: skip
        if serving.input_tokens <= 0 or serving.output_tokens <= 0 or work.number("reusable_share") >= 1:
            raise BadInput("input_tokens and output_tokens must be above zero, reusable_share below one")
        constants = tuple(load_constants(self.engine, self.constants))
        return Case(work, serving, constants, self.tpot_ms, price_usd, found["dram"], found["ssd"])

    def as_inputs(self) -> dict[str, object]:
        shown: dict[str, object] = {n: getattr(self, n) for n in self.__dataclass_fields__ if n != "what_if"}
        return shown | {"what_if": ", ".join(self.what_if) or "nothing"}


def named_parts(text: str) -> list[str]:
    """Parts by name, each once. Raises ``BadInput`` for a name that the catalogue does not have."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        entry("parts", name)
    return names


def with_changes(found: dict[str, Entry], texts: list[str]) -> dict[str, Entry]:
    """Figures set by hand; those of ``dram`` and ``ssd`` are named after them."""
    known = {
        (f"{room}.{name}" if room in ("dram", "ssd") else name): (room, name)
        for room, item in found.items()
        for name in [*item.figures, *(("usd_hour_rent",) if room == "part" else ())]
    }
    changes: dict[str, dict[str, Decimal]] = {room: {} for room in found}
    for key, number in decimals(texts, known).items():
        room, name = known[key]
        if not number and name.startswith(_DIVISORS):
            raise BadInput(f"--what-if {key}={number}: this figure must be above zero")
        changes[room][name] = number
    return {room: item.changed(changes[room]) for room, item in found.items()}


def cheapest(case: Case, kind: str) -> tuple[Memory, Steady]:
    """The split of least cost per turn: ``hbm``, ``dram``, ``selective`` or ``everything``."""
    drive_gb = case.ssd.number("drive_tb") * 1000
    drams = (0,) if kind == "hbm" else DRAM_GB
    disks = (0,) if kind in ("hbm", "dram") else SSD_DRIVES
    admission = kind if kind == "everything" else "selective"
    tried = [Memory(dram, count * drive_gb, admission) for dram in drams for count in disks]
    results = [(memory, steady(case, memory)) for memory in tried]
    return min(results, key=lambda pair: pair[1].usd_per_turn)
