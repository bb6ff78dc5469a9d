"""What it costs to bring a stored path onto the device."""

from __future__ import annotations

from collections.abc import Iterable

from stepwell.policy.block_index import Match
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.costs import Step
from stepwell.policy.types import KvTier

DEVICE, HOST, DISK = KvTier.DEVICE, KvTier.HOST, KvTier.DISK


def load_steps(memory: BlockManager, path: Iterable[Match]) -> list[Step]:
    """What each block of a path would cost to bring onto the device now."""
    costs = memory.costs
    up = costs.ns_per_kib[HOST, DEVICE]
    read = costs.ns_per_kib[DISK, HOST]
    queued_us = costs.move_us(DISK, HOST, memory.reading_bytes)
    steps: list[Step] = []
    for block, n_tokens in path:
        if block.device:
            steps.append((n_tokens, 0))
        elif block.host:
            steps.append((n_tokens, up * block.meta.size_bytes // (1024 * 1000)))
        else:
            load_us = (up + read) * block.meta.size_bytes // (1024 * 1000) + queued_us
            steps.append((n_tokens, load_us))
            queued_us = 0
    return steps
