"""The flags that plans share: which work, which model, which part, and what things cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stepwell.catalogue.load import entry
from stepwell.economics.cases import Named, case_of
from stepwell.economics.steps import Case
from stepwell.errors import BadInput


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
    """The engine whose constants are used: all, vllm, trtllm or sglang."""
    constants: Path | None = None
    """Constants of 'stepwell calibrate --out' instead of those that ship."""
    ssd: str = "ssd-1dwpd"
    """The disks: a memory of 'stepwell catalogue hardware'."""
    what_if: Annotated[list[str], Parameter(consume_multiple=True)] = field(default_factory=list)
    """Figures to set, as KEY=VALUE (x1.2 multiplies): of workload or part by name, of memory as ssd.dwpd."""

    def case(self, part_key: str) -> Case:
        if self.chips < 1 or self.chips > 1024:
            raise BadInput(f"--chips {self.chips}: give 1 to 1024")
        if not 0 < self.tpot_ms < 1e6:
            raise BadInput(f"--tpot-ms {self.tpot_ms}: give milliseconds above zero")
        return case_of(
            Named(
                part_key, self.model, self.workload, self.chips, self.weights, self.kv, self.tpot_ms,
                self.engine, self.ssd, self.constants, tuple(self.what_if),
            )
        )  # fmt: skip

    def as_inputs(self) -> dict[str, object]:
        shown: dict[str, object] = {n: getattr(self, n) for n in self.__dataclass_fields__ if n != "what_if"}
        return shown | {"what_if": ", ".join(self.what_if) or "nothing"}


def named_parts(text: str) -> list[str]:
    """Parts by name, each once. Raises ``BadInput`` for a name that the catalogue does not have."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        entry("parts", name)
    return names
