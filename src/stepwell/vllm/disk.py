"""``StepwellDisk``: a secondary tier of vLLM's KV offloading on a shared, bounded, checksummed disk store.

Named in vLLM's configuration, with nothing else of Stepwell::

    "secondary_tiers": [{"type": "StepwellDisk", "module_path": "stepwell.vllm.disk",
                         "root": "/var/cache/kv", "max_bytes": "200GB"}]

Thin: it turns vLLM's calls into jobs of ``stepwell.tiers.shared.tier`` and their ends into vLLM's results.
vLLM calls it from the scheduler's thread of the engine core, and nothing here waits for the disk but
``drain_jobs`` and ``shutdown``. Settings are those of ``docs/vllm-disk-tier.md``.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingCounterMetadata,
    OffloadingEvent,
    OffloadingGaugeMetadata,
    OffloadingMetricMetadata,
    ReqContext,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.file_mapper import FileMapper
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from stepwell.errors import BadInput
from stepwell.ledger.types import Resource
from stepwell.policy.types import Caller
from stepwell.tiers.shared.admission import ADMIT_ALL, DiskAdmission
from stepwell.tiers.shared.store import Bounds, SharedStore
from stepwell.tiers.shared.tier import JobEnded, JobItem, LookupAnswer, SharedTier, TierLimits
from stepwell.units import parse_size
from stepwell.vllm.engine_meter import EngineMeter, Owner, engine_meter, owner_of

_ANSWERS = {
    LookupAnswer.THERE: LookupResult.HIT,
    LookupAnswer.NOT_THERE: LookupResult.MISS,
    LookupAnswer.LATER: LookupResult.RETRY,
}
_PREFIX = "vllm:kv_offload_disk_"
_COUNTERS = {
    "written": "Blocks written to the disk tier, or found there already.",
    "read": "Blocks read from the disk tier into host memory.",
    "evicted": "Blocks removed from the disk tier to make room within its bounds.",
    "refused": "Blocks not written because they would not fit within a bound.",
    "skipped": "Blocks not written because admission or the request said so.",
    "dropped": "Blocks not written because the disk could not keep up or was failing.",
    "damaged": "Blocks whose checksum was wrong; they are computed again.",
    "gone": "Blocks that another engine had evicted before they were read.",
    "late": "Jobs given up because the disk did not answer in time.",
    "errors": "Reads that failed with an error of the operating system.",
}
_LONGEST_TENANT_BYTES = 200


class StepwellDisk(SecondaryTierManager):
    """One engine's part of a disk store that several engines may use at once."""

    medium = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        root: str,
        max_bytes: str | int,
        max_bytes_per_tenant: str | int | None = None,
        tenants: Mapping[str, str | int] | None = None,
        tenant_param: str = "tenant",
        admit: str = ADMIT_ALL,
        max_write_bytes_per_day: str | int | None = None,
        deadline_s: float = 5.0,
        read_threads: int = 2,
        locality: str | None = None,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.locality = None if locality is None else Locality(locality)
        per_day = None if max_write_bytes_per_day is None else _size(max_write_bytes_per_day)
        limits = TierLimits(deadline_s=deadline_s, readers=read_threads)
        bounds = Bounds(
            _size(max_bytes),
            None if max_bytes_per_tenant is None else _size(max_bytes_per_tenant),
            {tenant: _size(most) for tenant, most in (tenants or {}).items()},
        )
        self._host: np.ndarray | None = np.asarray(primary_kv_view).view(np.uint8)  # (chunks, bytes)
        self._tenant_param = tenant_param
        self._asked: dict[str, int] = {}
        self._come_and_gone: deque[tuple[bool, Sequence[bytes]]] = deque()
        self._told: dict[str, int] = {}
        self._meter = engine_meter()
        self._payers: dict[int, Owner] = {}
        self._told_usage: Mapping[str, int] | None = None
        self._events_wanted = bool(offloading_spec.kv_events_config.enable_kv_cache_events)
        store = SharedStore(Path(root), bounds, identity(offloading_spec, self.block_size_bytes))
        self.tier = SharedTier(
            store,
            self.block_size_bytes,
            limits=limits,
            admission=DiskAdmission(admit, per_day),
            on_change=self._note_change if self._events_wanted else None,
        )

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
        self._note_payer(job_metadata)
        params = job_metadata.req_context.kv_transfer_params or {}
        wanted = params.get("disk", True) is not False
        tenant = tenant_name(params.get(self._tenant_param))
        self.tier.store_blocks(job_metadata.job_id, self._items(job_metadata), tenant, wanted=wanted)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._note_payer(job_metadata)
        self.tier.load_blocks(job_metadata.job_id, self._items(job_metadata))

    def _note_payer(self, job: TransferJob) -> None:
        if self._meter is not None:
            self._payers[job.job_id] = owner_of(job.req_context.kv_transfer_params)

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
        ended = self.tier.ended()
        if self._meter is not None:
            self._tell_moved(self._meter, ended)
            if (usage := self.tier.usage) is not self._told_usage:
                self._tell_usage(self._meter, usage)
        return [_result(job) for job in ended]

    def _tell_moved(self, meter: EngineMeter, ended: Iterable[JobEnded]) -> None:
        for job in ended:
            if (payer := self._payers.pop(job.job, None)) is not None:
                meter.used(Resource.READ if job.loading else Resource.WRITTEN, payer, job.bytes_moved)

    def _tell_usage(self, meter: EngineMeter, usage: Mapping[str, int]) -> None:
        """The disk is told by tenant: records do not know their agents. Of a directory that several engines
        use each tells its part."""
        self._told_usage, sharers = usage, self.tier.sharers
        meter.room(Resource.DISK, self.tier.store.bounds.limit_bytes // sharers)
        held = {Owner(Caller(tenant, "")): size // sharers for tenant, size in usage.items()}
        meter.hold_all(Resource.DISK, held)

    def has_pending_work(self) -> bool:
        return self.tier.busy

    def drain_jobs(self) -> None:
        self.tier.drain()

    def shutdown(self) -> None:
        self.tier.close()
        self._host = None  # vLLM releases the memory next, and cannot while a view of it is there

    # --- events and metrics -------------------------------------------------------------------

    def _note_change(self, come: Sequence[bytes], gone: Sequence[bytes]) -> None:
        for removed, keys in ((False, come), (True, gone)):
            if keys:
                self._come_and_gone.append((removed, keys))

    def take_events(self) -> Iterable[OffloadingEvent]:
        """What can be loaded from this disk from now on and what cannot any more, by any process: also
        what was found there at the start."""
        while self._come_and_gone:
            removed, keys = self._come_and_gone.popleft()
            yield OffloadingEvent(
                list(keys), Medium.STORAGE, removed, locality=self.locality, ownership=self.tier_type
            )

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        labels = ("tier",)
        gauges = {
            "used_bytes": "Bytes of all records in the disk tier's directory, of all engines.",
            "limit_bytes": "The disk tier's bound.",
        }
        return {
            **{_PREFIX + name: OffloadingGaugeMetadata(text, labels) for name, text in gauges.items()},
            **{
                _PREFIX + name + ("_jobs" if name == "late" else "_blocks"): OffloadingCounterMetadata(
                    text, labels
                )
                for name, text in _COUNTERS.items()
            },
        }

    def get_stats(self) -> OffloadingConnectorStats:
        stats, label = OffloadingConnectorStats(), (self.tier_type,)
        stats.set_gauge(_PREFIX + "used_bytes", self.tier.used_bytes, label)
        stats.set_gauge(_PREFIX + "limit_bytes", self.tier.store.bounds.limit_bytes, label)
        for name in _COUNTERS:
            now = self.tier.counters[name]
            if more := now - self._told.get(name, 0):
                full = _PREFIX + name + ("_jobs" if name == "late" else "_blocks")
                stats.increase_counter(full, more, label)
                self._told[name] = now
        return stats


def _result(job: JobEnded) -> JobResult:
    part = job.done if job.loading and job.done and not job.ok else None
    return JobResult(job.job, job.ok, part, job.seconds, job.bytes_moved)


def _size(value: str | int) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise BadInput(f"the disk tier cannot read the size {value!r}: {error}") from error


def tenant_name(value: object) -> str:
    """Whose block it is, from what the request carries; a name that is too long is replaced by its hash."""
    name = value if isinstance(value, str) else ""
    if len(name.encode()) <= _LONGEST_TENANT_BYTES:
        return name
    return "#" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def identity(offloading_spec: Any, block_bytes: int) -> str:
    """What must be the same for a block of one engine to be a block of another.

    vLLM's key says which tokens and not of which model; vLLM's own naming of files knows model, data type,
    groups and parallel layout. A model that lies in a folder is told by its files as well, so that new
    weights under an old name find nothing of the old ones.
    """
    mapper = FileMapper.from_offloading_spec(
        "", offloading_spec, offloading_spec.blocks_per_chunk, parallel_agnostic=True
    )
    fields = {**mapper.fields, "rank": mapper.rank, "block_bytes": block_bytes}
    fields["files"] = _files_of(Path(str(fields["model_name"])))
    text = json.dumps(fields, sort_keys=True, default=str)
    name = str(fields["model_name"]).rstrip("/").rpartition("/")[2][-60:]
    return f"vllm {name} {hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _files_of(folder: Path) -> Collection[tuple[str, int, int]]:
    """Name, size and time of change of what a model in a folder consists of."""
    if not folder.is_dir():
        return ()
    parts = sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".json", ".gguf"})
    return [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
