"""What the scheduler sees, for the books: the owners of a step's tokens and of the device's blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from stepwell.ledger.metering.metered import split
from stepwell.ledger.types import Resource
from stepwell.vllm.engine_meter import EngineMeter, Owner, merged, owner_of


class StepMeter:
    """Beside one scheduler of vLLM, told by it before and after each step.

    A step's time is split by the tokens that it runs of each request. With asynchronous scheduling (not on a
    CPU) vLLM begins a step, even an empty one, while the one before still runs: time is the oldest one's.

    The device's blocks in use are split by the blocks that each request holds, so that a block that several
    share is shared; blocks that are only cached belong to no request (vLLM gives them to any that needs room)
    and are ``idle``.
    """

    def __init__(self, meter: EngineMeter, scheduler: Any) -> None:
        config = scheduler.kv_cache_config
        self._meter, self._scheduler, self._blocks = meter, scheduler, int(config.num_blocks)
        self._block_bytes = sum(tensor.size for tensor in config.kv_cache_tensors) // self._blocks
        self._owners: dict[str, Owner] = {}
        self._steps: deque[dict[Owner, int]] = deque()
        """Begun and not ended, the oldest first."""
        meter.room(Resource.DEVICE, self._blocks * self._block_bytes)

    def came(self, request: Any) -> None:
        self._owners[request.request_id] = owner_of(request.kv_transfer_params)

    def began(self, tokens: Mapping[str, int]) -> None:
        """A step runs so many tokens of each request, once those before it have ended."""
        if tokens:
            self._steps.append(merged((self._owner(name), count) for name, count in tokens.items()))
        self._running()
        self._hold()

    def ended(self, tokens: Mapping[str, int]) -> None:
        """The oldest step, which was begun with ``tokens``, has ended."""
        if tokens and self._steps:
            self._steps.popleft()
        self._running()
        self.left()

    def left(self) -> None:
        """Requests are gone; a step that runs goes on."""
        self._hold()
        if len(self._owners) > 2 * len(self._scheduler.requests) + 64:
            self._owners = {n: owner for n, owner in self._owners.items() if n in self._scheduler.requests}

    def _owner(self, name: str) -> Owner:
        return self._owners.get(name) or owner_of(None)

    def _running(self) -> None:
        self._meter.running(self._steps[0] if self._steps else {})

    def _hold(self) -> None:
        cache = self._scheduler.kv_cache_manager
        used = self._blocks - cache.block_pool.get_num_free_blocks() - 1  # vLLM keeps one without an owner
        held = merged(
            (self._owner(name), sum(map(len, cache.get_blocks(name).blocks)))
            for name in self._scheduler.requests
        )
        held = {owner: blocks for owner, blocks in held.items() if blocks}
        parts = split(max(0, used) * self._block_bytes, list(held.values())) if held else []
        self._meter.hold_all(Resource.DEVICE, dict(zip(held, parts, strict=True)))
