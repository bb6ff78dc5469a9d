"""``StepwellDisk``: a secondary tier of vLLM's KV offloading on a shared, bounded, checksummed disk store.

Named in vLLM's configuration, with nothing else of Stepwell::

    "secondary_tiers": [{"type": "StepwellDisk", "module_path": "stepwell.vllm.disk",
                         "root": "/var/cache/kv", "max_bytes": "200GB"}]

Settings are those of ``docs/vllm-disk-tier.md``.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vllm.v1.kv_offload.base import Medium, OffloadingEvent
from vllm.v1.kv_offload.file_mapper import FileMapper
from vllm.v1.kv_offload.tiering.base import JobResult, TransferJob

from stepwell.ledger.types import Resource
from stepwell.policy.types import Caller
from stepwell.tiers.shared.admission import ADMIT_ALL, DiskAdmission
from stepwell.tiers.shared.store import SharedStore
from stepwell.tiers.shared.tier import JobEnded, SharedTier, TierLimits
from stepwell.vllm.engine_meter import EngineMeter, Owner, engine_meter, owner_of
from stepwell.vllm.secondary import SharedStoreTier, bounds_of, result_of, size_of

_WHAT = "the disk tier"


class StepwellDisk(SharedStoreTier):
    """One engine's part of a disk store that several engines may use at once."""

    PREFIX = "vllm:kv_offload_disk_"
    PARAM = "disk"
    COUNTERS: ClassVar[Mapping[str, str]] = {
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
    GAUGES: ClassVar[Mapping[str, str]] = {
        "used_bytes": "Bytes of all records in the disk tier's directory, of all engines.",
        "limit_bytes": "The disk tier's bound.",
    }

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
        super().__init__(
            offloading_spec, primary_kv_view, tier_type, backpressure_detector, tenant_param, locality
        )
        per_day = None if max_write_bytes_per_day is None else size_of(_WHAT, max_write_bytes_per_day)
        bounds = bounds_of(_WHAT, max_bytes, max_bytes_per_tenant, tenants)
        self._come_and_gone: deque[tuple[bool, Sequence[bytes]]] = deque()
        self._meter = engine_meter()
        self._payers: dict[int, Owner] = {}
        self._told_usage: Mapping[str, int] | None = None
        self._events_wanted = bool(offloading_spec.kv_events_config.enable_kv_cache_events)
        self.tier = SharedTier(
            SharedStore(Path(root), bounds, identity(offloading_spec, self.block_size_bytes)),
            self.block_size_bytes,
            limits=TierLimits(deadline_s=deadline_s, readers=read_threads),
            admission=DiskAdmission(admit, per_day),
            on_change=self._note_change if self._events_wanted else None,
        )

    # --- books --------------------------------------------------------------------------------

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._note_payer(job_metadata)
        super().submit_store(job_metadata)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._note_payer(job_metadata)
        super().submit_load(job_metadata)

    def _note_payer(self, job: TransferJob) -> None:
        if self._meter is not None:
            self._payers[job.job_id] = owner_of(job.req_context.kv_transfer_params)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        ended = self.tier.ended()
        if self._meter is not None:
            self._tell_moved(self._meter, ended)
            if (usage := self.tier.usage) is not self._told_usage:
                self._tell_usage(self._meter, usage)
        return [result_of(job) for job in ended]

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

    # --- events -------------------------------------------------------------------------------

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
