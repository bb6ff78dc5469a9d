"""``StepwellHost``: the order in which vLLM's host memory gives chunks up, decided by Stepwell's policy.

Named as ``"eviction_policy": "StepwellHost", "cache_policy_module_path": "stepwell.vllm.host"``. It turns
vLLM's calls into entries of ``host_book.HostBook`` and the book's answer into vLLM's. vLLM says too little in
three places: ``insert`` and ``evict`` do not name the request (it is the one of the ``on_store_miss`` just
before), ``on_request_finished`` comes a step late, and nothing tells the policy whether there is a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vllm.v1.kv_offload.base import ReqContext, get_offload_group_idx
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus

from stepwell.ledger.types import Resource
from stepwell.policy.types import BlockId, Caller
from stepwell.vllm.ahead_count import AheadCount
from stepwell.vllm.engine_meter import EngineMeter, Owner
from stepwell.vllm.host_book import HostBook, Position
from stepwell.vllm.owner import caller_of, hint_of

NO_OWNER = Owner(Caller(""))


@dataclass(frozen=True, slots=True)
class Promotion:
    """The state of a ``ReqContext`` that stands for no turn: a chunk comes up before its agent does. Only our
    own code can set it (``ahead.py``)."""

    caller: Caller


class StepwellHost(CachePolicy):
    """vLLM's chunks, and their owners."""

    eviction = "stepwell"

    def __init__(self, cache_capacity: int) -> None:
        super().__init__(cache_capacity)
        self.book = HostBook(cache_capacity, eviction=self.eviction)
        self._chunks: dict[BlockId, ChunkStatus] = {}
        self._storing = ""
        self._taker = ""
        self._meter: EngineMeter | None = None
        self._chunk_bytes = 0
        self._holders: dict[BlockId, Owner] = {}
        """Of each chunk: the owner that used it last."""
        self._owner = NO_OWNER
        self.fetched = AheadCount()
        self._fetching = False
        """The chunks that are inserted next come up ahead of use."""
        self.is_cold: Callable[[BlockId], bool] | None = None
        """Whether a cold tier has a chunk; None: they are not followed."""

    def tell(self, meter: EngineMeter, chunk_bytes: int) -> None:
        """The front end is told the holders of host memory from now on. Nothing is there yet."""
        self._meter, self._chunk_bytes = meter, chunk_bytes
        meter.room(Resource.HOST, self.cache_capacity * chunk_bytes)

    def _held_by(self, key: BlockId, owner: Owner | None) -> None:
        """``owner`` None: the chunk is gone."""
        if self._meter is None or self._holders.get(key) == owner:
            return
        if (before := self._holders.pop(key, None)) is not None:
            self._meter.hold(Resource.HOST, before, -self._chunk_bytes)
        if owner is not None:
            self._holders[key] = owner
            self._meter.hold(Resource.HOST, owner, self._chunk_bytes)

    @staticmethod
    def _now_us() -> int:
        return time.monotonic_ns() // 1000

    def get(self, key: BlockId) -> ChunkStatus | None:
        return self._chunks.get(key)

    def insert(self, key: BlockId, chunk: ChunkStatus, req_context: ReqContext | None = None) -> None:
        """``req_context`` comes with vLLM 0.33."""
        if req_context is not None:
            self._hear(req_context)
        self._chunks[key] = chunk
        now_us = self._now_us()
        self.book.insert(key, self._storing, now_us)
        if self._fetching:
            self.fetched.begin(key)
        elif self.is_cold is not None and self.is_cold(key):
            self.book.cold(key, held=True, now_us=now_us)
        self._held_by(key, self._owner)

    def remove(self, key: BlockId) -> None:
        del self._chunks[key]
        self.book.remove(key)
        self._gone(key)

    def _gone(self, key: BlockId) -> None:
        self.fetched.gone(key)
        self._held_by(key, None)

    def touch(self, keys: Iterable[BlockId], req_context: ReqContext) -> None:
        self._hear(req_context)
        if self._fetching:
            return
        used = self._with_positions(keys, req_context)
        self.book.used(req_context.req_id, used, self._now_us())
        for key, _ in used:
            if key in self._chunks:
                self._held_by(key, self._owner)

    def on_store_miss(self, keys: Iterable[BlockId], req_context: ReqContext) -> None:
        self.touch(keys, req_context)

    def on_request_finished(
        self,
        key_groups: Sequence[Sequence[BlockId]],
        insertion_only_keys: set[BlockId],
        reused_keys: set[BlockId],
        req_context: ReqContext,
    ) -> None:
        for keys in key_groups:
            self.touch(keys, req_context)
        self.book.finish(req_context.req_id, self._now_us())

    def on_request_access(
        self,
        key_groups: Sequence[Sequence[BlockId]],
        insertion_only_keys: set[BlockId],
        reused_keys: set[BlockId],
        req_context: ReqContext,
    ) -> None:
        """vLLM 0.33's name for a request's use of its chunks, told while it runs."""
        for keys in key_groups:
            self.touch(keys, req_context)

    def _hear(self, req_context: ReqContext) -> None:
        ahead = req_context.get_state(Promotion)
        self._fetching = ahead is not None
        if ahead is not None:  # not a turn: its agent rests as before
            self._storing, self._taker, self._owner = "", ahead.caller.service_tier, Owner(ahead.caller)
            return
        params = req_context.kv_transfer_params
        caller = caller_of(params)
        self._storing, self._taker = req_context.req_id, caller.service_tier
        self._owner = Owner(caller)
        self.book.begin(req_context.req_id, caller, hint_of(params), self._now_us())

    @staticmethod
    def _with_positions(keys: Iterable[BlockId], req_context: ReqContext) -> list[tuple[BlockId, Position]]:
        return [
            (key, (req_context.get_offload_key_position(key) or 0, get_offload_group_idx(key)))
            for key in keys
        ]

    def evict(self, n: int, protected: set[BlockId]) -> list[tuple[BlockId, ChunkStatus]] | None:
        victims = self.book.evict(n, protected, self._taker, self._now_us()) if n else ()
        if victims is None:
            return None
        for key in victims:
            self._gone(key)
        return [(key, self._chunks.pop(key)) for key in victims]

    def clear(self) -> None:
        for key in self._chunks:
            self._gone(key)
        self._chunks.clear()
        self.book.clear()

    def mark_evictable(self, key: BlockId) -> None:
        self.fetched.came(key)
        self.book.free(key, self._now_us())

    def mark_non_evictable(self, key: BlockId) -> None:
        self.fetched.used(key)  # a turn loads it: what came from a cold tier is not written there
        self.book.busy(key)
