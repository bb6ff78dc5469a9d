"""``StepwellScheduler``: vLLM's scheduler with service tiers: order, preemption, and a bound on waiting.

Named as ``--scheduler-cls stepwell.vllm.scheduler.StepwellScheduler --scheduling-policy priority``. Of vLLM's
insides it touches ``running``, ``waiting``, ``_preempt_request``, ``_request_blocks_can_be_freed``, the count
of free blocks, the look into the prefix cache and the connector's tiers, and nothing else;
``tests/vllm/test_hooks.py`` says so when one of them has moved.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.request import Request, RequestStatus

from stepwell.policy.contracts import DEFAULT_CONTRACTS
from stepwell.vllm.ahead import StepwellAhead
from stepwell.vllm.engine_meter import engine_meter, stop_reporting
from stepwell.vllm.kv_events import session_of
from stepwell.vllm.owner import caller_of, request_of
from stepwell.vllm.preemption import Running, victims
from stepwell.vllm.step_meter import StepMeter

_AGED = -1
"""Before every service tier: it has waited for as long as its contract allows."""


class StepwellScheduler(AsyncScheduler):
    """A request's service tier is in its ``kv_transfer_params``; without one it keeps vLLM's priority."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        heaviest_first = sorted(DEFAULT_CONTRACTS, key=lambda contract: -contract.weight)
        self._rank = {contract.name: rank for rank, contract in enumerate(heaviest_first)}
        self._patience_s = {contract.name: contract.max_wait_us / 1e6 for contract in DEFAULT_CONTRACTS}
        self._since_s: dict[str, float] = {}
        self.preempted_for_others = 0
        for tier in _ahead_of(self.connector):
            tier.on_device = self._on_device
        meter = engine_meter()
        self._meter = None if meter is None else StepMeter(meter, self)

    def _on_device(self, key: bytes) -> bool:
        """Whether the prefix cache has a chunk of the host's; its key ends with the group of layers."""
        group = int.from_bytes(key[-4:], "big")
        return self.kv_cache_manager.block_pool.get_cached_block(key[:-4], [group]) is not None

    def add_request(self, request: Request) -> None:
        params = request.kv_transfer_params
        if params and "service_tier" in params:
            request.priority = self._rank.get(caller_of(params).service_tier, request.priority)
        if request_of(params):  # from a front end of ours, which follows this engine's KV events
            caller = caller_of(params)
            request.session_id = session_of(caller) if caller.agent else None
            request.kv_cache_report_mode = "full"
        self._since_s[request.request_id] = time.monotonic()
        if self._meter is not None:
            self._meter.came(request)
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> Any:
        if self.policy == SchedulingPolicy.PRIORITY and self.waiting:
            self._age()
            self._give_way()
        output = super().schedule(throttle_prefills)
        if self._meter is not None:
            self._meter.began(output.num_scheduled_tokens)
        return output

    def _age(self) -> None:
        """No request starves: one that has waited for too long goes before all others, once."""
        now_s = time.monotonic()
        for request in list(self.waiting):
            tier = caller_of(request.kv_transfer_params).service_tier
            patience_s = self._patience_s.get(tier)
            waited_s = now_s - self._since_s.get(request.request_id, now_s)
            if patience_s is not None and waited_s > patience_s and request.priority > _AGED:
                self.waiting.remove_request(request)
                request.priority = _AGED
                self.waiting.add_request(request)

    def _give_way(self) -> None:
        head = self.waiting.peek_request()
        if head.status not in (RequestStatus.WAITING, RequestStatus.PREEMPTED) or not self.running:
            return
        running = [
            Running(
                request.priority,
                request.arrival_time,
                sum(map(len, self.kv_cache_manager.get_block_ids(request.request_id))),
                self._request_blocks_can_be_freed(request),
            )
            for request in self.running
        ]
        leaving = victims(
            head.priority,
            -(-(head.num_tokens + 1) // self.block_size),
            self.kv_cache_manager.block_pool.get_num_free_blocks(),
            self.max_num_running_reqs - len(self.running),
            running,
        )
        for request in [self.running[position] for position in leaving]:
            self.running.remove(request)
            self._preempt_request(request, time.monotonic())
            self.preempted_for_others += 1

    def finish_requests(self, request_ids: Any, finished_status: RequestStatus) -> Any:
        ended = super().finish_requests(request_ids, finished_status)
        self._forget()
        if self._meter is not None:
            self._meter.left()
        return ended

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self._forget()
        if self._meter is not None:
            self._meter.ended(scheduler_output.num_scheduled_tokens)
        return outputs

    def shutdown(self) -> None:
        super().shutdown()
        stop_reporting()

    def _forget(self) -> None:
        if len(self._since_s) > 2 * len(self.requests) + 64:
            self._since_s = {name: at for name, at in self._since_s.items() if name in self.requests}


def _ahead_of(connector: Any) -> list[StepwellAhead]:
    """The tier that fetches KV ahead of use, if this engine has one."""
    manager = getattr(getattr(connector, "connector_scheduler", None), "manager", None)
    return [tier for tier in getattr(manager, "secondary_tiers", ()) if isinstance(tier, StepwellAhead)]
