"""How much of a stored path is loaded: told as runs, the answer is that of a look at every block."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from stepwell.policy.block_index import Block, Match
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs, best_cut
from stepwell.policy.loading import Run, best_cut_of_runs, load_runs, steps_of
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import BlockMeta, Computed, KvTier

RUNS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([1, 15, 16, 63, 64]), st.integers(0, 400_000)), max_size=6
)
STEPS = st.lists(
    st.tuples(st.integers(16, 512), st.integers(0, 2_000_000), st.integers(0, 2_000_000)), max_size=4
)


@given(RUNS, st.integers(-200, 2_000), STEPS)
@example([(40, 64, 0), (40, 64, 4_000), (30, 16, 9)], 10, [(64, 2_048, 900_000), (256, 900_000, 5_000_000)])
def test_runs_are_cut_where_their_blocks_are(
    runs: list[Run], extra: int, seen: list[tuple[int, int, int]]
) -> None:
    costs = Costs()
    for tokens, depth_tokens, duration_us in seen:
        costs.saw_step(Computed(tokens, 0, depth_tokens, duration_us))
    prompt = max(0, sum(count * tokens for count, tokens, _ in runs) + extra)
    assert best_cut_of_runs(runs, prompt, costs) == best_cut(steps_of(runs), prompt, costs)


@given(st.integers(1, 30), st.integers(0, 64_000), st.integers(64, 6_000))
def test_of_equal_costs_the_last_counts(count: int, off_us: int, extra: int) -> None:
    """Loading a block costs about what computing it does, so that many cuts are within a microsecond."""
    costs = Costs()
    costs.saw_step(Computed(256, 0, 256 * 128, 16_400))
    block_us = costs.compute_us(0, 64) - 32 + off_us % 64
    runs = [(count, 64, block_us), (count, 64, 0), (count, 64, block_us + 1)]
    prompt = 3 * 64 * count + extra
    assert best_cut_of_runs(runs, prompt, costs) == best_cut(steps_of(runs), prompt, costs)


WHERE = st.sampled_from([KvTier.DEVICE, KvTier.HOST, KvTier.DISK])


@given(st.lists(st.tuples(WHERE, st.sampled_from([64, 32]), st.sampled_from([65_536, 70_000])), max_size=30))
def test_every_block_is_in_a_run_at_its_price(found: list[tuple[KvTier, int, int]]) -> None:
    config = PolicyConfig(64, 16, 64, 65_536, 1_024, 1 << 30, 1 << 30)
    memory = Scheduler(config).block_manager
    memory.reading_bytes = 1 << 20
    path = []
    for depth, (tier, n_tokens, size_bytes) in enumerate(found):
        block = Block(BlockMeta(bytes([depth]), None, depth, n_tokens, (), "t", size_bytes))
        block.set_on(tier, True)
        path.append(Match(block, n_tokens))
    steps = steps_of(load_runs(memory, path))
    assert [tokens for tokens, _ in steps] == [n_tokens for _, n_tokens, _ in found]
    queued_us = memory.costs.move_us(KvTier.DISK, KvTier.HOST, memory.reading_bytes)
    prices = memory.costs.ns_per_kib
    up, read = prices[KvTier.HOST, KvTier.DEVICE], prices[KvTier.DISK, KvTier.HOST]
    for (tier, _, size_bytes), (_, load_us) in zip(found, steps, strict=True):
        if tier is KvTier.DEVICE:
            assert load_us == 0
        elif tier is KvTier.HOST:
            assert load_us == up * size_bytes // 1_024_000
        else:
            assert load_us == (up + read) * size_bytes // 1_024_000 + queued_us
            queued_us = 0
