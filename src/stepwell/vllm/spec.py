"""``StepwellSpec``: vLLM's tiering specification on every platform, the CPU included.

vLLM's own ``TieringOffloadingSpec`` refuses engines on the CPU because its worker copies with CUDA. On the
CPU the copies are plain ones, made by ``CpuCopyWorker``; on every other platform vLLM's own worker is used.
Named in the configuration as ``"spec_name": "StepwellSpec", "spec_module_path": "stepwell.vllm.spec"``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    OffloadingManager,
    OffloadingWorker,
    ReqContext,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from stepwell.ledger.types import Resource
from stepwell.vllm.ahead import StepwellAhead
from stepwell.vllm.engine_meter import EngineMeter, engine_meter, owner_of
from stepwell.vllm.host import StepwellHost
from stepwell.vllm.secondary import SharedStoreTier


class StepwellSpec(TieringOffloadingSpec):
    """vLLM's tiering specification, with a worker for engines on the CPU."""

    _worker: OffloadingWorker | None

    def get_manager(self) -> OffloadingManager:
        made = self._manager is None
        manager = super().get_manager()
        if made:
            connect_ahead(manager)
        meter = engine_meter()
        if made and meter is not None:
            count_moves(manager, meter, self.kv_bytes_per_chunk)
        return manager

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if not current_platform.is_cpu():
            return super().get_worker(kv_caches)
        if self._worker is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._worker = CpuCopyWorker(kv_caches, self.blocks_per_chunk, region)
        return self._worker


def connect_ahead(manager: Any) -> None:
    """Tell the tier that fetches ahead of use, if there is one, what the host and the cold tiers are. Without
    our host policy and a cold tier of ours it cannot ask and fetches nothing."""
    tiers, policy = manager.secondary_tiers, manager.primary_tier._policy
    cold = [tier for tier in tiers if isinstance(tier, SharedStoreTier)]
    for tier in tiers:
        if isinstance(tier, StepwellAhead) and isinstance(policy, StepwellHost) and cold:
            tier.connect(policy, cold)


def count_moves(manager: Any, meter: EngineMeter, chunk_bytes: int) -> None:
    """Tell the front end whose chunks move between device and host, and which owners hold the host's. vLLM
    asks the spec for its manager and nothing else, so that the two calls that end a transfer are wrapped."""
    loaded, stored = manager.complete_load, manager.complete_store

    def complete_load(keys: Collection[bytes], req_context: ReqContext) -> None:
        loaded(keys, req_context)
        meter.used(Resource.LOADED, owner_of(req_context.kv_transfer_params), len(keys) * chunk_bytes)

    def complete_store(keys: Collection[bytes], req_context: ReqContext, success: bool = True) -> None:
        stored(keys, req_context, success)
        if success:
            owner = owner_of(req_context.kv_transfer_params)
            meter.used(Resource.STORED, owner, len(keys) * chunk_bytes)

    manager.complete_load, manager.complete_store = complete_load, complete_store
    if isinstance(policy := manager.primary_tier._policy, StepwellHost):
        policy.tell(meter, chunk_bytes)


class CpuCopyWorker(OffloadingWorker):
    """Copies blocks between the engine's KV tensors and the shared host region, in one thread of its own.

    The engine's tensors are (blocks, page bytes), the region's views (chunks, page bytes x blocks per chunk),
    both of bytes. A chunk of a group is a run of ``blocks_per_chunk`` blocks of one request.
    """

    def __init__(self, kv_caches: CanonicalKVCaches, blocks_per_chunk: int, region: Any) -> None:
        self._per_chunk, self._region = blocks_per_chunk, region
        self._engine = [tensor.tensor for tensor in kv_caches.tensors]
        self._host = [
            region.create_next_worker_view(tensor.page_size_bytes * blocks_per_chunk)
            for tensor in kv_caches.tensors
        ]
        self._tensors_of_group = [[ref.tensor_idx for ref in refs] for refs in kv_caches.group_data_refs]
        self._thread = ThreadPoolExecutor(1, "stepwell-kv-copy")
        self._jobs: dict[int, Future[None]] = {}
        self._ended: list[TransferResult] = []
        self._lock = threading.Lock()

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: BlockIDsLoadStoreSpec) -> bool:
        self._jobs[job_id] = self._thread.submit(self._run, job_id, src_spec, dst_spec, True)
        return True

    def submit_load(
        self,
        job_id: int,
        src_spec: BlockIDsLoadStoreSpec,
        dst_spec: GPULoadStoreSpec,
        expedited: bool = False,
    ) -> bool:
        """``expedited`` is what vLLM 0.33 says of a load that a request waits for; here all are alike."""
        self._jobs[job_id] = self._thread.submit(self._run, job_id, dst_spec, src_spec, False)
        return True

    def _run(self, job_id: int, engine: GPULoadStoreSpec, host: BlockIDsLoadStoreSpec, store: bool) -> None:
        started_s, copied_bytes = time.perf_counter(), 0
        for group, block, chunk, part in _pairs(engine, host.block_ids, self._per_chunk):
            for index in self._tensors_of_group[group]:
                here = self._engine[index][block].view(-1)
                page_bytes = here.numel()
                there = self._host[index][chunk, part * page_bytes : (part + 1) * page_bytes]
                target, source = (there, here) if store else (here, there)
                target.copy_(source)
                copied_bytes += page_bytes
        result = TransferResult(job_id, True, copied_bytes, time.perf_counter() - started_s)
        with self._lock:
            self._ended.append(result)

    def get_finished(self) -> list[TransferResult]:
        for job_id, future in list(self._jobs.items()):
            if future.done():
                del self._jobs[job_id]
                future.result()  # raises what the copy raised: the engine must not go on with half a block
        with self._lock:
            ended, self._ended = self._ended, []
        return ended

    def wait(self, job_ids: set[int]) -> None:
        for job_id in job_ids:
            if (future := self._jobs.get(job_id)) is not None:
                future.result()

    def shutdown(self) -> None:
        self._thread.shutdown()
        self._engine, self._host = [], []
        self._region.cleanup()


def _pairs(engine: GPULoadStoreSpec, chunks: Any, per_chunk: int) -> Iterator[tuple[int, int, int, int]]:
    """Group, engine block, host chunk and the block's place in that chunk, for every block of a transfer.

    The blocks of a group follow one another in a request from ``block_indices[group]`` on; its first chunk
    may begin before that, and the next group begins a new chunk.
    """
    block_at = chunk_at = 0
    for group, (count, first) in enumerate(zip(engine.group_sizes, engine.block_indices, strict=True)):
        if not count:
            continue
        skipped = first % per_chunk
        for number in range(count):
            place = skipped + number
            chunk = int(chunks[chunk_at + place // per_chunk])
            yield group, int(engine.block_ids[block_at + number]), chunk, place % per_chunk
        block_at += count
        chunk_at += -(-(skipped + count) // per_chunk)
