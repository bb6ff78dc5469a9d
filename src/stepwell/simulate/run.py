"""One run: a workload, a machine of a stated size, a policy by name."""

from __future__ import annotations

import time
from typing import Any

from stepwell.basics.per_tier import PerTier
from stepwell.policy.config import PolicyConfig
from stepwell.policy.eviction.base import Future
from stepwell.policy.scheduler import Scheduler
from stepwell.simulate.bound import Bound, miss_bound
from stepwell.simulate.hardware import StepCosts
from stepwell.simulate.machine import Machine, TurnSource
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.report import RunReport, report_of
from stepwell.simulate.workload import Workload

Room = PerTier[int]
"""Sizes of the KV tiers, in blocks."""


def config_for(workload: Workload, model: StepCosts, room: Room, policy: str, **more: Any) -> PolicyConfig:
    """The policy's configuration on that machine. ``more`` overrides what a server would have by default."""
    block_bytes = workload.block_tokens * model.token_bytes
    return PolicyConfig(
        block_tokens=workload.block_tokens,
        unit_tokens=workload.unit_tokens,
        device_blocks=room.device,
        block_bytes=block_bytes,
        token_bytes=model.token_bytes,
        host_bytes=room.host * block_bytes,
        disk_bytes=room.disk * block_bytes,
        context_tokens=room.device * workload.block_tokens,
        eviction=policy,
        **more,
    )


def simulate(
    workload: Workload,
    model: StepCosts,
    config: PolicyConfig,
    declared: Declared,
    *,
    bounded: bool = False,
) -> RunReport:
    """Play the workload to its end under the policy that ``config`` names. ``bounded``: report the lower
    bound on the cost of misses as well."""
    player = Player(workload, declared)
    return play(player, player.future(), model, config, str(declared), bounded=bounded)


def play(
    source: TurnSource,
    future: Future,
    model: StepCosts,
    config: PolicyConfig,
    declared: str,
    *,
    bounded: bool = False,
) -> RunReport:
    """Serve what ``source`` sends until it has ended. ``declared`` only names the run."""
    started_s = time.process_time()
    scheduler = Scheduler(config)
    scheduler.context.future = future  # for the oracle alone
    machine = Machine(scheduler, model, source, SimulatedMeter(model, config.unit_tokens), bounded=bounded)
    machine.run()
    cpu_s = time.process_time() - started_s
    bound = bound_of(machine) if bounded else None
    return report_of(config.eviction, declared, machine, cpu_s, bound)


def bound_of(machine: Machine) -> Bound:
    """The lower bound on the cost of misses for what the machine has done."""
    config = machine.scheduler.config
    below = config.host_bytes // config.block_bytes + config.disk_bytes // config.disk_size_of(
        config.block_bytes
    )
    return miss_bound(
        machine.timeline,
        machine.model,
        device=config.device_blocks,
        everything=config.device_blocks + below,
        block_tokens=config.block_tokens,
    )
