"""Several models in one server: a loop for each, all in one thread that gives them steps in turn.

What is decided within a model its scheduler decides; what is decided between them (whose step is next, how
host memory and disk are divided) ``policy/between_models.py`` does. This file carries it out, and keeps the
weights of models in memory or out of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepwell.basics.clock import Clock
from stepwell.engines.base import EngineInfo
from stepwell.loop.collector import Collector
from stepwell.loop.model_views import merged
from stepwell.loop.requests import Generation, Sink
from stepwell.loop.served_model import LEAVING, LOADED, LOADING, ServedModel
from stepwell.loop.snapshot import AgentView, Snapshot
from stepwell.policy.between_models import StepOrder, divide, granted, room_shares
from stepwell.policy.contracts import Contract
from stepwell.policy.types import Elsewhere, Embedded, Hint, KvTier, RequestId, Resized

log = logging.getLogger("stepwell.loop")

_LOOK_S = 0.5
_DIVIDE_US = 1_000_000
_WORTH_TELLING = 64  # a part changes by a sixty-fourth of the whole at least
_STOP_S = 30.0
_MOST_FAILURES = 5  # in a row


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the models have together."""

    host_bytes: int
    disk_bytes: int
    idle_us: int | None = None
    """A model that had no turn for so long is unloaded; None: none is for that."""
    memory_bytes: int | None = None
    """Of all models that are loaded at a time; None: all may be."""
    turn_us: int = 30_000_000
    """How long a model that is never idle keeps its memory while another is wanted."""


class ModelLoop:
    """``LoopPort`` over several models. Requests are numbered so that their number says whose they are."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        contracts: Sequence[Contract],
        clock: Clock,
        bell: threading.Condition,
        sharing: Sharing,
    ) -> None:
        """``bell``: the one that all the models' loops ring."""
        self.models = tuple(models)
        self.clock, self.sharing = clock, sharing
        self._contracts = tuple(contracts)
        self.collector = Collector()
        self._by_name = {model.name: model for model in models}
        self._bell = bell
        self._order = StepOrder(contracts, len(models))
        self._ended_us = clock.now_us()
        self._divided_us = self._ended_us
        for model in models:
            model.ended_us = model.used_us = model.loaded_us = self._ended_us
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._failures = 0

    # --- LoopPort -----------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        """Of the first model."""
        return self.models[0].engine.info

    @property
    def serves(self) -> bool:
        return all(model.driver.serves for model in self.models)

    def now_us(self) -> int:
        return self.clock.now_us()

    def validate(self, generation: Generation) -> None:
        self._of(generation.model).driver.validate(generation)

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        return self._of(generation.model).driver.submit(generation, sink)

    def cancel(self, request: RequestId, reason: str = "cancelled") -> None:
        self._with(request).driver.cancel(request, reason)

    def hint(
        self, request: RequestId, tenant: str, agent: str, hint: Hint, *, paid_only: bool = False
    ) -> None:
        for model in [self._with(request)] if request else self.models:
            model.driver.hint(request, tenant, agent, hint, paid_only=paid_only)

    def embedded(self, event: Embedded) -> None:
        self.models[0].driver.embedded(event)

    def named(self, requests: Sequence[RequestId], name: str) -> None:
        for request in requests:
            self._with(request).driver.named((request,), name)

    def why(self, what: str) -> list[dict[str, Any]]:
        return [{**one, "model": model.name} for model in self.models for one in model.driver.why(what)]

    def snapshot(self) -> Snapshot:
        return merged(self.models, self.sharing.host_bytes)

    def agent(self, tenant: str, agent: str) -> AgentView | None:
        """Of the model at which the agent has had most turns, where it speaks with several."""
        views = [(model.name, model.driver.agent(tenant, agent)) for model in self.models]
        found = [replace(view, model=name) for name, view in views if view is not None]
        return max(found, key=lambda view: (view.state != "idle", view.turns), default=None)

    def _of(self, name: str) -> ServedModel:
        return self._by_name.get(name, self.models[0])

    def _with(self, request: RequestId) -> ServedModel:
        return self.models[(request - 1) % len(self.models)]

    def start(self) -> None:
        """Start the thread."""
        assert self._thread is None, "the loop runs already"
        self._thread = threading.Thread(target=self._run, name="stepwell-driver", daemon=True)
        self._thread.start()

    def stop(self, drain_s: float = 30.0) -> None:
        """See ``Driver.stop``; the first model's stores and books are those of all, so it is closed last."""
        if self._stopping:
            return
        self._stopping = True
        for model in self.models:
            model.driver.begin_stop(drain_s)
        if self._thread is None:
            self._run()
        else:
            self._thread.join(drain_s + _STOP_S)
        for model in reversed(self.models):
            model.join()
            model.driver.end()

    # --- the loop -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not all(self._is_over(model) for model in self.models):
            if not self._tried_turn():
                self._wait()

    def _is_over(self, model: ServedModel) -> bool:
        return model.driver.broken or (self._stopping and model.driver.is_over())

    def _tried_turn(self) -> bool:
        """A turn. What fails within a model its own loop has seen to; what fails between them, again and
        again, must not leave all callers waiting for a thread that is gone."""
        try:
            busy = self.turn()
            self._failures = 0
            return busy
        except Exception:
            log.exception("looking after the models failed")
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            for model in self.models:
                model.driver.give_up()
        self.clock.sleep_us(50_000)
        return True

    def turn(self) -> bool:
        """Look after memory and give one model a step. False: none has anything to do now."""
        now_us = self.clock.now_us()
        self._tend(now_us)
        ready = [number for number, model in enumerate(self.models) if model.is_due(now_us)]
        if not ready:
            return False
        self._step(self._order.pick(ready, self._demands()))
        return True

    def _demands(self) -> list[frozenset[str]]:
        """The service tiers with turns at each model, those included that its loop has not seen yet."""
        return [
            frozenset() if m.driver.broken else m.driver.scheduler.demanding() | m.driver.inbox.arriving()
            for m in self.models
        ]

    def run_until_idle(self, max_turns: int = 100_000) -> None:
        """Turn until nothing is left to do. For loops without a thread."""
        for _ in range(max_turns):
            if not self.turn():
                changing = any(m.state in (LOADING, LEAVING) or m.wanted for m in self.models)
                transfers = any(m.driver.busy for m in self.models)
                if not (changing or transfers):
                    return
                self._wait()
        raise RuntimeError("the models do not come to rest")

    def _step(self, number: int) -> None:
        """One step. What the others took since this model's last one is in their books, not in its."""
        model, started_us = self.models[number], self.clock.now_us()
        if (elsewhere_us := self._ended_us - model.ended_us) > 0:
            model.driver.inbox.put(Elsewhere(elsewhere_us))
        model.wake_at_us = model.driver.turn()
        self.collector.between_steps()
        model.ended_us = self._ended_us = self.clock.now_us()
        self._order.took(number, self._ended_us - started_us, self._demands())
        if model.driver.scheduler.table.turns:
            model.used_us = self._ended_us

    def _wait(self) -> None:
        now_us = self.clock.now_us()
        wakes = [model.wake_at_us for model in self.models if model.wake_at_us is not None]
        left_s = min([_LOOK_S, *(max(0, at_us - now_us) / 1e6 for at_us in wakes)])
        with self._bell:
            rung = any(model.is_due(now_us) for model in self.models) or self._bell.wait(left_s)
        if not rung and not any(model.driver.busy for model in self.models):
            self.collector.idle()

    def check(self) -> None:
        """Assert every invariant within the models and between them."""
        for model in self.models:
            model.driver.check()
        assert sum(model.driver.scheduler.block_manager.host_used for model in self.models) <= (
            self.sharing.host_bytes
        )
        limits = [model.tiers.disk.limit_bytes for model in self.models if model.tiers.disk is not None]
        assert sum(limits) <= self.sharing.disk_bytes

    # --- memory -------------------------------------------------------------------------------

    def _tend(self, now_us: int) -> None:
        """Loads and unloads that are under way or due, and the parts of host and disk."""
        for model in self.models:
            if model.driver.broken:
                model.has_broken()
            elif model.state == LEAVING:
                if model.driver.inbox.held and self._fits_with(0) and not self._waits():
                    model.stay()
                else:
                    model.go_on_leaving()
            elif model.state == LOADING:
                model.has_come(now_us)
            elif model.idle and self._has_been_idle(model, now_us):
                model.leave()
        for model in sorted((m for m in self.models if m.wanted), key=lambda m: m.used_us):
            if not self._bring(model, now_us):
                break  # none gets in before the one that has waited longest
        if not self._waits():
            self._release()
        if now_us - self._divided_us >= _DIVIDE_US:
            self._divided_us = now_us
            self._divide()

    def _has_been_idle(self, model: ServedModel, now_us: int) -> bool:
        idle_us = self.sharing.idle_us
        return idle_us is not None and not self._stopping and now_us - model.used_us >= idle_us

    def _waits(self) -> bool:
        return any(model.wanted for model in self.models)

    def _fits_with(self, more_bytes: int) -> bool:
        limit = self.sharing.memory_bytes
        held = sum(model.need_bytes for model in self.models if model.in_memory)
        return limit is None or held + more_bytes <= limit

    def _bring(self, model: ServedModel, now_us: int) -> bool:
        """Load it if there is memory; else another makes room, the one that was idle longest first, and one
        that is never idle after its turn. Whether it comes."""
        if model.refuses(now_us):
            return True
        if self._fits_with(model.need_bytes):
            model.come()
            return True
        if any(other.state in (LEAVING, LOADING) for other in self.models):
            return False
        idle = [other for other in self.models if other.idle]
        if idle:
            min(idle, key=lambda other: other.used_us).leave()
            return False
        busy = [other for other in self.models if other.state == LOADED]
        had_its_turn = [other for other in busy if now_us - other.loaded_us >= self.sharing.turn_us]
        if had_its_turn:  # what it has begun it may finish; the rest waits
            min(had_its_turn, key=lambda other: other.loaded_us).driver.inbox.hold(True)
        return False

    def _release(self) -> None:
        for model in self.models:
            if model.state == LOADED and model.driver.inbox.holding:
                model.driver.inbox.hold(False)

    def _divide(self) -> None:
        """Host memory and disk go to the models that need them."""
        hosts = self._host_parts()
        disks = self._disk_parts()
        for number, model in enumerate(self.models):
            told = model.host_bytes, model.disk_bytes
            if (hosts[number], disks[number]) != told:
                model.host_bytes, model.disk_bytes = hosts[number], disks[number]
                model.driver.inbox.put(Resized(hosts[number], disks[number]))

    def _host_parts(self) -> list[int]:
        total = self.sharing.host_bytes
        used = [model.driver.scheduler.block_manager.host_used for model in self.models]
        told = [model.host_bytes for model in self.models]
        targets = divide(total, used, told, self._shares("host"))
        if not _differs(total, targets, told):
            return told
        return granted(total, targets, [max(pair) for pair in zip(told, used, strict=True)])

    def _shares(self, resource: str) -> list[int]:
        """By the service tiers of the agents that each model remembers."""
        agents = [model.driver.scheduler.agents.records.values() for model in self.models]
        holders = [frozenset([record.service_tier for record in records]) for records in agents]
        return room_shares(self._contracts, holders, resource)

    def _disk_parts(self) -> list[int]:
        """The bounds that the policies plan with: each a little below its store's own."""
        total, told = self.sharing.disk_bytes, [model.disk_bytes for model in self.models]
        stores = [model.tiers.disk for model in self.models]
        if not total or any(store is None for store in stores):
            return told
        limits = [store.limit_bytes for store in stores if store is not None]
        used = [model.tiers.usage(KvTier.DISK).used_bytes for model in self.models]
        targets = divide(total, used, limits, self._shares("disk"))
        if not _differs(total, targets, limits):
            return told
        parts = granted(total, targets, limits)
        for number, store in sorted(enumerate(stores), key=lambda pair: parts[pair[0]] - limits[pair[0]]):
            if store is not None:
                over = store.resize(parts[number]) - parts[number]
                told[number] = max(0, self.models[number].tiers.usage(KvTier.DISK).limit_bytes - over)
        return told


def _differs(total: int, targets: Sequence[int], parts: Sequence[int]) -> bool:
    return any(
        abs(target - part) > total // _WORTH_TELLING for target, part in zip(targets, parts, strict=True)
    )
