"""``StepwellAhead``: KV comes up from disk or an object store to host memory before its agent does.

Named in vLLM's configuration behind the cold tiers, with ``StepwellHost`` and ``StepwellSpec``::

    {"type": "StepwellAhead", "module_path": "stepwell.vllm.ahead"}

It holds nothing itself. Which chunks are worth it, and whether something may leave the host for them, says
the book of the host (``host_book.py``), which is the policy's. vLLM lets a tier look chunks up on behalf of
others (``serve_external_requests``), which makes it fetch them from the other tiers. Few at a time, and none
while a turn waits for a cold tier. An engine without work is woken for it (``waking.py``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    LookupResult,
    OffloadingCounterMetadata,
    OffloadingMetricMetadata,
    ReqContext,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, ParentManager, SecondaryTierManager, TransferJob

from stepwell.vllm.ahead_count import FAILED, PROMOTED, USED, WASTED
from stepwell.vllm.host import Promotion, StepwellHost
from stepwell.vllm.host_book import Fetch
from stepwell.vllm.owner import params_of
from stepwell.vllm.secondary import SharedStoreTier
from stepwell.vllm.waking import engine_ear

PREFIX = "vllm:kv_offload_ahead_"
LOOK_US = 20_000
"""Between two looks of an engine that has nothing to do."""
WAKE_MS = 500
"""Until the next look of an engine that has nothing to do and an agent that is expected."""
ASKED_US = WAKE_MS * 1000 - LOOK_US
"""So long the next look is asked for already. A look in the last moment before that takes its place, so that
it asks again."""
ON_DEVICE_US = 5_000_000


class StepwellAhead(SecondaryTierManager):
    """A tier without chunks. ``connect`` tells it of the others; until then it does nothing."""

    COUNTERS: ClassVar[dict[str, str]] = {
        PROMOTED: "Blocks that came up to host memory before a turn asked for them.",
        USED: "Of those: blocks that a turn has used.",
        WASTED: "Of those: blocks that left host memory before a turn used them.",
        FAILED: "Blocks that should have come up and could not be read.",
    }

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        in_flight: int = 4,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self._most = in_flight
        self._host: StepwellHost | None = None
        self._cold: Sequence[SharedStoreTier] = ()
        self._changed: deque[Sequence[bytes]] = deque()
        self._flying: dict[bytes, ReqContext] = {}
        self._jobs: list[JobResult] = []
        self._told: dict[str, int] = {}
        self._number = 0
        self._looked_us = self._woken_us = 0
        self._found = False
        """There was something to fetch: vLLM asks several times until it makes the step that fetches it."""
        self._asked_cold = False
        """The cold tiers were asked what they have, and nothing has looked at the answer."""
        self._ear = engine_ear()
        self.on_device: Callable[[bytes], bool] = lambda key: False
        """Whether vLLM's own prefix cache has a chunk: what is there need not come up. The scheduler says."""

    def connect(self, host: StepwellHost, cold: Sequence[SharedStoreTier]) -> None:
        self._host, self._cold = host, cold
        host.is_cold = self._is_cold
        for tier in cold:
            tier.follow(self._changed.append)

    def _is_cold(self, key: bytes) -> bool:
        return any(tier.tier.holds(key) for tier in self._cold)

    # --- fetching -----------------------------------------------------------------------------

    def serve_external_requests(self, parent: ParentManager) -> None:
        if self._host is None:
            return
        self._land(self._host, parent)
        self._found = False
        for fetch in self._wanted(self._host):
            self._fetch(self._host, parent, fetch)

    def has_pending_work(self) -> bool:
        """Also asked when vLLM would go to sleep, and when it was woken."""
        if self._host is None:
            return False
        if not self._found and (self._now_us() - self._looked_us >= LOOK_US or self._hears()):
            self._found = bool(self._wanted(self._host))
        return bool(self._flying) or self._found

    def _hears(self) -> bool:
        """A hint wakes an engine that may have looked just before, and nothing wakes it once more."""
        return self._ear is not None and self._ear.hears()

    @staticmethod
    def _now_us() -> int:
        return time.monotonic_ns() // 1000

    def _wanted(self, host: StepwellHost) -> list[Fetch]:
        """What could be fetched at this moment."""
        now_us = self._looked_us = self._now_us()
        self._hear(host, now_us)
        room = self._most - len(self._flying)
        for_turns = sum(tier.tier.loads for tier in self._cold) - len(self._flying)
        wanted = host.book.worth_fetching(room, now_us) if room > 0 and for_turns <= 0 else []
        if not wanted:
            self._look_again_later(host, now_us)
        return wanted

    def _look_again_later(self, host: StepwellHost, now_us: int) -> None:
        if self._ear is None or now_us - self._woken_us < ASKED_US:
            return
        if not self._asked_cold and not host.book.expects(now_us):
            return
        self._woken_us, self._asked_cold = now_us, False
        self._ear.ask_to_be_woken(WAKE_MS)

    def _hear(self, host: StepwellHost, now_us: int) -> None:
        while self._changed:
            for key in self._changed.popleft():
                if host.book.knows(key):
                    host.book.cold(key, held=self._is_cold(key), now_us=now_us)
        hints = self._ear.hints() if self._ear is not None else []
        for caller, hint in hints:
            host.book.hinted(caller.tenant, caller.agent, hint, now_us)
        if hints:  # between turns nothing else asks, and an upload may have ended since the last one
            self._asked_cold = True
            for tier in self._cold:
                tier.tier.ask()

    def _fetch(self, host: StepwellHost, parent: ParentManager, fetch: Fetch) -> None:
        now_us = self._now_us()
        if self.on_device(fetch.key):
            return host.book.shun(fetch.key, now_us)
        self._number += 1
        context = ReqContext(f"stepwell-ahead-{self._number}", params_of(fetch.caller))
        context.set_state(Promotion(fetch.caller))
        context.set_offload_key_position(fetch.key, fetch.depth)
        parent.on_new_request(context)
        answer = parent.lookup(fetch.key, context)
        if answer is LookupResult.HIT_PENDING:
            self._flying[fetch.key] = context
            return None
        parent.on_request_finished(context)
        host.book.cold(fetch.key, held=self._is_cold(fetch.key), now_us=now_us)
        host.book.shun(fetch.key, now_us)
        return None

    def _land(self, host: StepwellHost, parent: ParentManager) -> None:
        for key, context in list(self._flying.items()):
            chunk = host.get(key)
            if chunk is not None and not chunk.is_ready:
                continue
            del self._flying[key]
            parent.on_request_finished(context)
            if chunk is None:
                now_us = self._now_us()
                host.book.cold(key, held=self._is_cold(key), now_us=now_us)
                host.book.shun(key, now_us)

    # --- a tier that has nothing --------------------------------------------------------------

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        return LookupResult.MISS

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._jobs.append(JobResult(job_metadata.job_id, True, transfer_time=0.0, transfer_bytes=0))

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._jobs.append(JobResult(job_metadata.job_id, False))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        ended, self._jobs = self._jobs, []
        return ended

    def drain_jobs(self) -> None:
        """There is nothing that lasts."""

    def shutdown(self) -> None:
        if self._ear is not None:
            self._ear.close()

    # --- metrics ------------------------------------------------------------------------------

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        return {
            f"{PREFIX}{name}_blocks": OffloadingCounterMetadata(text) for name, text in cls.COUNTERS.items()
        }

    def get_stats(self) -> OffloadingConnectorStats:
        stats = OffloadingConnectorStats()
        for name in self.COUNTERS if self._host is not None else ():
            now = self._host.fetched.counters[name] if self._host is not None else 0
            if more := now - self._told.get(name, 0):
                stats.increase_counter(f"{PREFIX}{name}_blocks", more)
                self._told[name] = now
        return stats
