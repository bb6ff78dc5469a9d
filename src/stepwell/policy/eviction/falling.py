"""What it costs when a block goes one KV tier down, in units that compare within a KV tier."""

from __future__ import annotations

from stepwell.policy.eviction.base import EvictionContext


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
    return context.costs.copies_pay(config.block_bytes, 0, config.block_tokens)
