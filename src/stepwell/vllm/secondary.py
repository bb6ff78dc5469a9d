"""What our secondary tiers of vLLM's KV offloading have in common, whatever store is below them.

Thin: it turns vLLM's calls into jobs of ``stepwell.tiers.shared.tier`` and their ends into vLLM's results.
vLLM calls it from the scheduler's thread of the engine core, and nothing here waits for the store but
``drain_jobs`` and ``shutdown``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingCounterMetadata,
    OffloadingGaugeMetadata,
    OffloadingMetricMetadata,
    ReqContext,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from stepwell.basics.units import parse_size
from stepwell.errors import BadInput
from stepwell.tiers.shared.store import Bounds
from stepwell.tiers.shared.tier import JobEnded, JobItem, LookupAnswer, SharedTier

_ANSWERS = {
    LookupAnswer.THERE: LookupResult.HIT,
    LookupAnswer.NOT_THERE: LookupResult.MISS,
    LookupAnswer.LATER: LookupResult.RETRY,
}
_LONGEST_TENANT_BYTES = 200


class SharedStoreTier(SecondaryTierManager):
    """One engine's part of a store that several use. A subclass makes ``tier`` and names its numbers."""

    medium = Medium.STORAGE
    PREFIX: ClassVar[str]
    COUNTERS: ClassVar[Mapping[str, str]]
    """By name, with the sentence that explains it."""
    GAUGES: ClassVar[Mapping[str, str]]
    PARAM: ClassVar[str]
    """The field of a request's ``kv_transfer_params`` that keeps its blocks out of here when it is false."""
    tier: SharedTier

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any,
        tenant_param: str,
        locality: str | None,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.locality = None if locality is None else Locality(locality)
        self._host: np.ndarray | None = np.asarray(primary_kv_view).view(np.uint8)  # (chunks, bytes)
        self._tenant_param = tenant_param
        self._asked: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def follow(self, told: Callable[[Sequence[bytes]], None]) -> None:
        """``told`` is called, in a thread, with the blocks that have come or gone since."""
        before = self.tier.on_change

        def on_change(come: Sequence[bytes], gone: Sequence[bytes]) -> None:
            if before is not None:
                before(come, gone)
            told([*come, *gone])

        self.tier.on_change = on_change

    # --- requests -----------------------------------------------------------------------------

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        self._asked[req_context.req_id] = self.tier.ask()
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        self._asked.pop(req_context.req_id, None)

    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        return _ANSWERS[self.tier.lookup(key, self._asked.get(req_context.req_id, 0))]

    # --- jobs ---------------------------------------------------------------------------------

    def submit_store(self, job_metadata: TransferJob) -> None:
        params = job_metadata.req_context.kv_transfer_params or {}
        wanted = params.get(self.PARAM, True) is not False
        tenant = tenant_name(params.get(self._tenant_param))
        self.tier.store_blocks(job_metadata.job_id, self._items(job_metadata), tenant, wanted=wanted)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self.tier.load_blocks(job_metadata.job_id, self._items(job_metadata))

    def _items(self, job: TransferJob) -> list[JobItem]:
        """In the order of the prefix: the keys' own order is arbitrary."""
        items = [
            JobItem(key, partial(self._chunk, int(chunk)), job.req_context.get_offload_key_position(key) or 0)
            for key, chunk in zip(job.keys, job.chunk_ids, strict=True)
        ]
        return sorted(items, key=lambda item: item.position)

    def _chunk(self, chunk: int) -> memoryview:
        assert self._host is not None, "the tier has been shut down"
        return memoryview(self._host[chunk])

    def get_finished_jobs(self) -> Iterable[JobResult]:
        return [result_of(job) for job in self.tier.ended()]

    def has_pending_work(self) -> bool:
        return self.tier.busy

    def drain_jobs(self) -> None:
        self.tier.drain()

    def shutdown(self) -> None:
        self.tier.close()
        self._host = None  # vLLM releases the memory next, and cannot while a view of it is there

    # --- metrics ------------------------------------------------------------------------------

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        labels = ("tier",)
        return {
            **{cls.PREFIX + name: OffloadingGaugeMetadata(text, labels) for name, text in cls.GAUGES.items()},
            **{cls._full(n): OffloadingCounterMetadata(text, labels) for n, text in cls.COUNTERS.items()},
        }

    @classmethod
    def _full(cls, counter: str) -> str:
        return cls.PREFIX + counter + ("_jobs" if counter == "late" else "_blocks")

    def get_stats(self) -> OffloadingConnectorStats:
        stats, label = OffloadingConnectorStats(), (self.tier_type,)
        stats.set_gauge(self.PREFIX + "used_bytes", self.tier.used_bytes, label)
        stats.set_gauge(self.PREFIX + "limit_bytes", self.tier.store.bounds.limit_bytes, label)
        for name in self.COUNTERS:
            now = self.counted(name)
            if more := now - self._told.get(name, 0):
                stats.increase_counter(self._full(name), more, label)
                self._told[name] = now
        return stats

    def counted(self, name: str) -> int:
        """What a counter has come to."""
        return self.tier.counters[name]


def result_of(job: JobEnded) -> JobResult:
    part = job.done if job.loading and job.done and not job.ok else None
    return JobResult(job.job, job.ok, part, job.seconds, job.bytes_moved)


def bounds_of(
    what: str,
    max_bytes: str | int,
    max_bytes_per_tenant: str | int | None,
    tenants: Mapping[str, str | int] | None,
) -> Bounds:
    """``BadInput`` names the tier: ``what``."""
    return Bounds(
        size_of(what, max_bytes),
        None if max_bytes_per_tenant is None else size_of(what, max_bytes_per_tenant),
        {tenant: size_of(what, most) for tenant, most in (tenants or {}).items()},
    )


def size_of(what: str, value: str | int) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise BadInput(f"{what} cannot read the size {value!r}: {error}") from error


def tenant_name(value: object) -> str:
    """The tenant of a block, from what the request carries; its hash in place of a name that is too long."""
    name = value if isinstance(value, str) else ""
    if len(name.encode()) <= _LONGEST_TENANT_BYTES:
        return name
    return "#" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
