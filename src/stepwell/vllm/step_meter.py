"""What the scheduler sees, for the books: whose tokens a step runs, and who holds the device's blocks."""

from __future__ import annotations

from typing import Any

from stepwell.ledger.metered import split
from stepwell.ledger.types import Resource
from stepwell.vllm.engine_meter import EngineMeter, Owner, merged, owner_of


class StepMeter:
    """Beside one scheduler of vLLM, told by it before and after each step.

    A step's time is split by the tokens that it runs of each request. The device's blocks in use are split by
    the blocks that each request holds, so that a block that several share is shared; blocks that are only
    cached hold nobody's KV in particular (vLLM gives them to whoever needs room) and are ``idle``.
    """

    def __init__(self, meter: EngineMeter, scheduler: Any) -> None:
        config = scheduler.kv_cache_config
        self._meter, self._scheduler, self._blocks = meter, scheduler, int(config.num_blocks)
        self._block_bytes = sum(tensor.size for tensor in config.kv_cache_tensors) // self._blocks
        self._owners: dict[str, Owner] = {}
        meter.room(Resource.DEVICE, self._blocks * self._block_bytes)

    def came(self, request: Any) -> None:
        self._owners[request.request_id] = owner_of(request.kv_transfer_params)

    def began(self, tokens: dict[str, int]) -> None:
        """A step runs so many tokens of each request."""
        self._meter.running(merged((self._owner(name), count) for name, count in tokens.items()))
        self._hold()

    def ended(self) -> None:
        self._meter.running({})
        self._hold()
        if len(self._owners) > 2 * len(self._scheduler.requests) + 64:
            self._owners = {n: owner for n, owner in self._owners.items() if n in self._scheduler.requests}

    def _owner(self, name: str) -> Owner:
        return self._owners.get(name) or owner_of(None)

    def _hold(self) -> None:
        cache = self._scheduler.kv_cache_manager
        used = self._blocks - cache.block_pool.get_num_free_blocks() - 1  # vLLM keeps one that is nobody's
        held = merged(
            (self._owner(name), sum(map(len, cache.get_blocks(name).blocks)))
            for name in self._scheduler.requests
        )
        held = {owner: blocks for owner, blocks in held.items() if blocks}
        parts = split(max(0, used) * self._block_bytes, list(held.values())) if held else []
        self._meter.hold_all(Resource.DEVICE, dict(zip(held, parts, strict=True)))
