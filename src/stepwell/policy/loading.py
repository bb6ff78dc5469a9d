"""What it costs to bring a stored path onto the device, and how much of it is loaded sooner than computed.

A path is hundreds of blocks, of which nearly all that lie on one KV tier cost the same. So it is looked at as
*runs* of blocks with equal costs: inside one, loading pays most at an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepwell.policy.block_index import Match
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.costs import Costs, Step
from stepwell.policy.types import DEVICE, DISK, HOST

Run = tuple[int, int, int]
"""So many blocks of so many tokens each, and the microseconds to load each."""


def load_runs(memory: BlockManager, path: Iterable[Match]) -> list[Run]:
    """What the blocks of a path would cost to bring onto the device now."""
    costs = memory.costs
    up, read = costs.ns_per_kib[HOST, DEVICE], costs.ns_per_kib[DISK, HOST]
    queued_us = costs.move_us(DISK, HOST, memory.reading_bytes)
    runs: list[Run] = []
    count = tokens = load_us = known_bytes = host_us = 0
    for block, n_tokens in path:
        us = 0
        if not block.device:
            size_bytes = block.meta.size_bytes
            if size_bytes != known_bytes:
                known_bytes, host_us = size_bytes, up * size_bytes // (1024 * 1000)
            us = host_us
            if not block.host:
                us, queued_us = (up + read) * size_bytes // (1024 * 1000) + queued_us, 0
        if us == load_us and n_tokens == tokens:
            count += 1
            continue
        if count:
            runs.append((count, tokens, load_us))
        count, tokens, load_us = 1, n_tokens, us
    if count:
        runs.append((count, tokens, load_us))
    return runs


def steps_of(runs: Sequence[Run]) -> list[Step]:
    """The same block by block."""
    return [(tokens, load_us) for count, tokens, load_us in runs for _ in range(count)]


def best_cut_of_runs(runs: Sequence[Run], prompt_tokens: int, costs: Costs) -> int:
    """``costs.best_cut`` of a path told as runs.

    Within a run the cost of loading ``n`` blocks and computing the rest is linear in ``n`` less a square
    (what is left is computed at its depth), so it is least at an end; whole microseconds change nothing in
    that as long as the tokens of a block are even. Of equal costs the last one counts.
    """
    prices = costs.prefill.coefficients()
    start, loading_us, before = 0, 0, 0
    best, best_us = 0, _compute_us(0, prompt_tokens, prices)
    for count, tokens, load_us in runs:
        ends: Sequence[int] = range(1, count + 1)
        if not tokens % 2 and start + count * tokens <= prompt_tokens:
            first_us, blocks = load_us + _compute_us(start + tokens, prompt_tokens, prices), 1
            while blocks < count and loading_us + first_us <= best_us:
                next_us = (blocks + 1) * load_us
                next_us += _compute_us(start + (blocks + 1) * tokens, prompt_tokens, prices)
                if next_us != first_us:
                    break
                blocks += 1
            ends = (blocks, count)
        for blocks in ends:
            us = loading_us + blocks * load_us + _compute_us(start + blocks * tokens, prompt_tokens, prices)
            if us <= best_us:
                best, best_us = before + blocks, us
        start, loading_us, before = start + count * tokens, loading_us + count * load_us, before + count
    return best


def _compute_us(start: int, prompt_tokens: int, prices: tuple[int, int, int]) -> int:
    """The time to compute what stands behind ``start`` of a prompt."""
    a, b, divisor = prices
    left = prompt_tokens - start if start < prompt_tokens else 0
    return (left * a + left * (start + prompt_tokens) // 2 * b) // (divisor * 1000)
