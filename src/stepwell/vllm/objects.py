"""``StepwellObjects``: a secondary tier of vLLM's KV offloading in an object store that engines on several
machines share: S3 and what speaks like it, or a folder that all of them mount.

Named in vLLM's configuration, behind the disk tier or without it, with nothing else of Stepwell::

    "secondary_tiers": [{"type": "StepwellObjects", "module_path": "stepwell.vllm.objects",
                         "url": "s3://bucket/kv", "max_bytes": "2TB"}]

Settings are those of ``docs/object-store.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import xxhash
from vllm.platforms import current_platform
from vllm.v1.kv_offload.file_mapper import FileMapper

from stepwell.errors import BadInput
from stepwell.tiers.objects.client import open_objects
from stepwell.tiers.objects.store import ColdLimits, ColdStore
from stepwell.tiers.shared.admission import ADMIT_ALL, DiskAdmission
from stepwell.tiers.shared.tier import SharedTier, TierLimits
from stepwell.vllm.install import installed
from stepwell.vllm.secondary import SharedStoreTier, bounds_of, size_of

_WHAT = "the object tier"
_READ_BYTES = 8 << 20
_PARTS = (".safetensors", ".bin", ".json", ".gguf")


class StepwellObjects(SharedStoreTier):
    """One engine's part of an object store. No KV event tells its blocks: every engine can have them."""

    PREFIX = "vllm:kv_offload_objects_"
    PARAM = "objects"
    COUNTERS: ClassVar[Mapping[str, str]] = {
        "written": "Blocks put into the object store.",
        "read": "Blocks read from the object store into host memory.",
        "evicted": "Objects removed by this engine to make room within the bounds.",
        "refused": "Blocks not written because they would not fit within a bound.",
        "skipped": "Blocks not written because admission or the request said so.",
        "dropped": "Blocks not written because the store could not keep up or was failing.",
        "damaged": "Objects whose bytes were not what was written; they are computed again.",
        "gone": "Objects that had been removed before they were read.",
        "late": "Jobs given up because the store did not answer in time.",
        "errors": "Reads that failed because the store did.",
    }
    GAUGES: ClassVar[Mapping[str, str]] = {
        "used_bytes": "Bytes of all objects of the store, of all engines, as last listed.",
        "limit_bytes": "The object tier's bound.",
    }

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        url: str,
        max_bytes: str | int,
        max_bytes_per_tenant: str | int | None = None,
        tenants: Mapping[str, str | int] | None = None,
        tenant_param: str = "tenant",
        admit: str = ADMIT_ALL,
        max_write_bytes_per_day: str | int | None = None,
        deadline_s: float = 5.0,
        read_threads: int = 8,
        write_threads: int = 4,
        buffer_bytes: str | int = 256 << 20,
        namespace: str = "",
        locality: str | None = None,
    ) -> None:
        super().__init__(
            offloading_spec, primary_kv_view, tier_type, backpressure_detector, tenant_param, locality
        )
        per_day = None if max_write_bytes_per_day is None else size_of(_WHAT, max_write_bytes_per_day)
        self.store = ColdStore(
            open_objects(url, deadline_s),
            bounds_of(_WHAT, max_bytes, max_bytes_per_tenant, tenants),
            shared_identity(offloading_spec, self.block_size_bytes, namespace),
            limits=ColdLimits(uploads=write_threads, buffer_bytes=size_of(_WHAT, buffer_bytes)),
        )
        self.tier = SharedTier(
            self.store,
            self.block_size_bytes,
            limits=TierLimits(deadline_s=deadline_s, readers=read_threads),
            admission=DiskAdmission(admit, per_day),
            name="the object store",
            lines=self.store.lines,
        )

    def counted(self, name: str) -> int:
        return self.tier.counters[name] + self.store.counters[name]


def shared_identity(offloading_spec: Any, block_bytes: int, namespace: str) -> str:
    """What must be the same for a block of one machine to be a block of another.

    Where the model's folder lies and when it was written differ between machines, so that its files are read
    and their contents count; vLLM's version and platform count because they lay KV out. ``namespace``: what
    else changes KV and cannot be seen from here.
    """
    mapper = FileMapper.from_offloading_spec(
        "", offloading_spec, offloading_spec.blocks_per_chunk, parallel_agnostic=True
    )
    folder = Path(str(mapper.fields["model_name"]))
    if not folder.is_dir():
        raise BadInput(
            f"{_WHAT} needs a model in a folder, and {str(folder)!r} is none: what a name means may differ "
            "between machines"
        )
    fields = {
        **{name: value for name, value in mapper.fields.items() if name != "model_name"},
        "rank": mapper.rank,
        "block_bytes": block_bytes,
        "engine": installed(),
        "platform": current_platform.device_type,
        "layout": getattr(offloading_spec.config, "kv_cache_layout", None),
        "namespace": namespace,
        "files": digest_of_model(folder),
    }
    text = json.dumps(fields, sort_keys=True, default=str)
    return f"vllm {xxhash.xxh3_128_hexdigest(text.encode())}"


def digest_of_model(folder: Path) -> str:
    """Over names and bytes of what a model in a folder consists of: as quick as it can be read."""
    digest = xxhash.xxh3_128()
    for part in sorted(p for p in folder.iterdir() if p.suffix in _PARTS):
        digest.update(f"{part.name}\0{part.stat().st_size}\0".encode())
        with part.open("rb") as reader:
            while data := reader.read(_READ_BYTES):
                digest.update(data)
    return digest.hexdigest()
