"""A picture of the whole server at one moment: what screens, metrics and ``/admin`` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepwell.policy.scheduler import Scheduler
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import NO_HINT, Hint, KvTier
from stepwell.tiers.base import Tiers, TierUsage

ROUTES = ("device_host", "host_device", "host_disk", "disk_host")


@dataclass(frozen=True, slots=True)
class AgentView:
    """Where one agent's KV lies now."""

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
    role: str = ""
    """What kind of agent it is: gaps are learned per role."""
    expected_us: int | None = None
    """When its next turn is expected, by the driver's clock; None: not known, or one is open."""
    why: str = ""
    """How the policy came to ``expected_us``, in one sentence; may be empty."""
    hint: Hint = NO_HINT
    """What was said last about what it waits for."""
    model: str = ""
    """Where a server has several: whose turns these were."""
    paid_us: int | None = None
    """How long its turns have paid for its context to be kept."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One of several models of a server."""

    state: str
    """``loaded``, ``loading``, ``leaving`` (its KV goes down) or ``unloaded``."""
    running: int
    waiting: int
    loads: int
    """How often its weights were read so far."""
    host_bytes: int
    """Its part of the host pool now, and of the disk."""
    disk_bytes: int
    counters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment. Cheap to take."""

    now_us: int
    running: int
    waiting: int
    usage: dict[KvTier, TierUsage]
    agents: Sequence[AgentView]
    counters: dict[str, int]
    """Monotonic counters. Keys: ``prompt_tokens_{computed,device,host,disk}``,
    ``generation_tokens``, ``drafted_tokens``, ``accepted_tokens``, ``recomputed_tokens``,
    ``computed_tokens``, ``preemptions``, ``steps``,
    ``evictions_{device_host,device_gone,host_disk,host_gone,disk_gone}``, ``lost_blocks_{wanted,needless}``,
    ``moved_bytes_{device_host,host_device,host_disk,disk_host}``,
    ``moved_us_{device_host,host_device,host_disk,disk_host}``, ``step_us``, ``engine_us``,
    ``disk_written_bytes``, ``disk_useful_bytes`` (read and then used),
    ``failed_loads``, ``failed_steps``, ``requests_{finished,cancelled,rejected}``."""
    models: dict[str, ModelView] = field(default_factory=dict)
    """By name, where a server has several."""
    token_bytes: int = 0
    """Of KV; 0: models differ, or the engine does not say."""


def take(
    scheduler: Scheduler,
    tiers: Tiers,
    counters: Mapping[str, int],
    ttft_us: Mapping[tuple[str, str], int],
    now_us: int,
) -> Snapshot:
    """The caller keeps the policy still meanwhile."""
    memory, config = scheduler.block_manager, scheduler.config
    device = TierUsage(
        memory.device_used * config.block_bytes, config.device_blocks * config.block_bytes, memory.device_used
    )
    return Snapshot(
        now_us=now_us,
        running=len(scheduler.table.running),
        waiting=len(scheduler.table.waiting),
        usage={KvTier.DEVICE: device, **{t: tiers.usage(t) for t in (KvTier.HOST, KvTier.DISK)}},
        agents=_agent_views(scheduler, ttft_us, now_us),
        counters=_all_counters(scheduler, counters),
        token_bytes=config.token_bytes,
    )


def take_one(
    scheduler: Scheduler, key: tuple[str, str], ttft_us: Mapping[tuple[str, str], int], now_us: int
) -> AgentView | None:
    """One agent by tenant and name. The caller keeps the policy still meanwhile."""
    record = scheduler.agents.records.get(key)
    return None if record is None else _agent_view(scheduler, record, ttft_us.get(key), now_us)


def _agent_views(
    scheduler: Scheduler, ttft_us: Mapping[tuple[str, str], int], now_us: int
) -> list[AgentView]:
    records = scheduler.agents.records.items()
    return [_agent_view(scheduler, record, ttft_us.get(key), now_us) for key, record in records]


def _agent_view(scheduler: Scheduler, record: AgentRecord, ttft_us: int | None, now_us: int) -> AgentView:
    tokens, kv_tokens = scheduler.agents.where(record)
    expected_us, why = scheduler.block_manager.eviction.expectation(record, now_us)
    return AgentView(
        record.tenant,
        record.service_tier,
        record.session,
        record.agent,
        record.parent_agent,
        scheduler.agents.state_of(record),
        tokens,
        kv_tokens,
        record.turns,
        ttft_us,
        record.role,
        expected_us,
        why,
        record.hint,
        paid_us=scheduler.agents.paid_us(record),
    )


def _all_counters(scheduler: Scheduler, own: Mapping[str, int]) -> dict[str, int]:
    counters = {
        **own,
        "recomputed_tokens": scheduler.recomputed_tokens,
        "preemptions": scheduler.table.preemptions,
    }
    counters["disk_written_bytes"] = scheduler.block_manager.written_bytes
    counters["disk_useful_bytes"] = scheduler.block_manager.useful_read_bytes
    counters["lost_blocks_wanted"] = scheduler.block_manager.descent.wanted_losses
    counters["lost_blocks_needless"] = scheduler.block_manager.descent.needless_losses
    for name, count in scheduler.block_manager.evictions.items():
        counters[f"evictions_{name}"] = count
    return counters
