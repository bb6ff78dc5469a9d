"""The flags of a simulated workload: how much of it, when it comes, and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepwell.errors import BadInput
from stepwell.simulate.arrivals import Arrivals, arranged
from stepwell.simulate.workload import Workload
from stepwell.simulate.workloads import Wanted, traces_folder, workload_of


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class WorkFlags:
    """Work."""

    count: Annotated[int | None, Parameter(name=("--count", "--sessions", "--requests"))] = None
    """Sessions of agents, or requests. More than there are: they come again under other names."""
    arrivals: str = "recorded"
    """When sessions begin: recorded, poisson:RATE, gamma:RATE:CV, weibull:RATE:CV (sessions a second), or
    servegen:FILE."""
    block_tokens: int = 512
    """Tokens of one block, rounded down to whole blocks of the trace. Smaller ones share more and take
    longer."""
    context_tokens: int | None = None
    """Leave out sessions with a longer context."""
    seed: int = 1
    """Draws sessions, arrivals, service tiers and errors of declarations."""
    bad_share: float = 0.05
    """Refuse a file with a larger share of malformed lines; fewer are left out and named."""
    closed: bool = False
    """Play a recording as a closed loop: a turn comes after those that it followed there, not at its time."""
    traces: Path | None = None
    """The directory of the named traces (default: $STEPWELL_TRACES)."""

    def workload(self, name: str) -> Workload:
        """The workload of this name or file. Raises ``BadInput``."""
        if self.count is not None and not 1 <= self.count <= 10_000_000:
            raise BadInput(f"--count {self.count}: give 1 to 10,000,000")
        if not 16 <= self.block_tokens <= 65_536:
            raise BadInput(f"--block-tokens {self.block_tokens}: give 16 to 65,536")
        if not 0 <= self.bad_share <= 1:
            raise BadInput(f"--bad-share {self.bad_share:g}: give a share from 0 to 1")
        comes = Arrivals.parse(self.arrivals)
        wanted = Wanted(
            name, traces_folder(self.traces), self.count, self.seed, self.block_tokens, self.bad_share,
            self.context_tokens, self.closed,
        )  # fmt: skip
        return arranged(workload_of(wanted)[0], comes, self.seed)
