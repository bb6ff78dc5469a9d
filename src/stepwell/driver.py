"""The one loop: events in, a plan out, the plan carried out.

The only file that knows policy, engine and tiers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.policy.types import BlockId, KvTier, RequestId
from stepwell.requests import Generation, Sink
from stepwell.tiers.base import TierUsage


@dataclass(frozen=True, slots=True)
class AgentView:
    """Where one agent's KV lies now; what the live screens and ``/admin`` show."""

    tenant: str
    service_tier: str
    session: str
    agent: str
    parent_agent: str | None
    state: str
    """``waiting`` (queued), ``loading``, ``running``, ``preempted`` or ``idle`` (between turns)."""
    tokens: int
    """Length of the agent's context at its last turn."""
    kv_tokens: dict[KvTier, int]
    """Each token counted once, in the fastest KV tier that holds it."""
    turns: int
    last_ttft_us: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A picture of the whole server at one moment, for screens and metrics. Cheap to take."""

    now_us: int
    running: int
    waiting: int
    usage: dict[KvTier, TierUsage]
    agents: Sequence[AgentView]
    counters: dict[str, int]
    """Monotonic counters. Keys: ``prompt_tokens_{computed,device,host,disk}``,
    ``generation_tokens``, ``recomputed_tokens``, ``preemptions``, ``steps``,
    ``evictions_{device_host,device_gone,host_disk,host_gone,disk_gone}``,
    ``moved_bytes_{device_host,host_device,host_disk,disk_host}``,
    ``moved_us_{device_host,host_device,host_disk,disk_host}``, ``step_us``, ``engine_us``,
    ``failed_loads``, ``requests_{finished,cancelled,rejected}``."""


class Driver:
    """Runs the loop in a thread of its own between ``start`` and ``stop``."""

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        """Queue a turn. Thread-safe. Raises nothing: what is wrong arrives as ``Rejected``."""
        raise NotImplementedError

    def cancel(self, request: RequestId) -> None:
        """Stop a turn within a step. Thread-safe; unknown or ended requests are ignored."""
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        """Thread-safe."""
        raise NotImplementedError

    def demote_idle(self, tier: KvTier) -> None:
        """Push every idle block down to ``tier`` (host or disk) now, and wait for it. For benchmarks
        and operators; thread-safe."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the loop's thread."""
        raise NotImplementedError

    def stop(self, drain_s: float = 30.0) -> None:
        """Let running requests finish for up to ``drain_s``, put blocks worth keeping on disk, end."""
        raise NotImplementedError


__all__ = ["AgentView", "BlockId", "Driver", "Snapshot"]
