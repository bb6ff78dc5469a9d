"""What it costs when a block goes one KV tier down, in units that compare within a KV tier."""

from __future__ import annotations

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.base import EvictionContext
from stepwell.policy.types import KvTier


def cost_below(context: EvictionContext, depth: int, at: int) -> int:
    """Getting back one token of a block of ``depth`` blocks (it included) that leaves KV tier number ``at``:
    where it would be gone, deep tokens cost more."""
    if is_flat(context, at):
        return 1
    tokens = depth * context.config.block_tokens
    return 1 + context.costs.compute_us(max(0, tokens - context.config.block_tokens), tokens)


def is_flat(context: EvictionContext, at: int) -> bool:
    """Whether that costs the same at every depth, because the bytes are kept."""
    config = context.config
    if at == 1:
        return config.disk_bytes > 0
    if at == 2 or not config.host_bytes:
        return False
    return context.copies_pay()


def saved_by_write(context: EvictionContext, block: Block) -> tuple[int, int]:
    """The time that a block on disk saves when it is used again, and the time that its write takes."""
    costs, meta = context.costs, block.meta
    start = meta.depth * context.config.block_tokens
    saved_us = costs.compute_us(start, start + meta.n_tokens)
    saved_us -= costs.move_us(KvTier.DISK, KvTier.HOST, meta.size_bytes)
    return saved_us, costs.move_us(KvTier.HOST, KvTier.DISK, meta.size_bytes)
