"""The load-or-recompute gate: measured, and never dearer than the best of all cuts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.costs import Costs, PrefillFit, Step, best_cut
from stepwell.policy.types import Computed, KvTier, Moved

steps = st.lists(st.tuples(st.integers(1, 64), st.integers(0, 2_000_000)), max_size=12)


@given(steps, st.integers(0, 1000))
def test_the_cut_is_the_cheapest(path: list[Step], extra: int) -> None:
    costs = Costs()
    prompt = sum(n_tokens for n_tokens, _ in path) + extra

    def total(cut: int) -> int:
        loaded = sum(n_tokens for n_tokens, _ in path[:cut])
        return sum(load_us for _, load_us in path[:cut]) + costs.compute_us(loaded, prompt)

    cut = best_cut(path, prompt, costs)
    assert total(cut) == min(total(c) for c in range(len(path) + 1))
    assert all(total(c) > total(cut) for c in range(cut + 1, len(path) + 1)), "ties load"


def test_a_slow_disk_makes_it_recompute() -> None:
    costs = Costs()
    for _ in range(50):
        costs.saw_move(Moved(b"b", KvTier.DISK, KvTier.HOST, True, 1 << 20, 60_000_000))
    for _ in range(50):
        costs.saw_step(Computed(256, 0, 256 * 128, 100_000))
    slow = costs.move_us(KvTier.DISK, KvTier.HOST, 1 << 20)
    assert best_cut([(64, slow)], 100, costs) == 0


def test_part_is_loaded_and_part_recomputed() -> None:
    path = [(64, 10), (64, 10), (64, 50_000_000)]
    assert best_cut(path, 200, Costs()) == 2


@given(st.integers(1, 5_000), st.integers(0, 20))
def test_the_fit_finds_the_price_of_depth(per_token_us: int, per_depth_ns: int) -> None:
    fit = PrefillFit()
    for tokens, start in [(256, 0), (256, 2048), (128, 512), (64, 4096), (256, 8192)] * 4:
        depth = tokens * (2 * start + tokens) // 2
        fit.add(tokens, depth, tokens * per_token_us * 1000 + depth * per_depth_ns)
    depth = 100 * (2 * 1000 + 100) // 2
    wanted = 100 * per_token_us * 1000 + depth * per_depth_ns
    assert abs(fit.estimate_ns(100, depth) - wanted) <= wanted // 50 + 1000


def test_failed_and_tiny_transfers_teach_nothing() -> None:
    costs, before = Costs(), dict(Costs().ns_per_kib)
    costs.saw_move(Moved(b"b", KvTier.DISK, KvTier.HOST, False, 1 << 20, 9_000_000))
    costs.saw_move(Moved(b"b", KvTier.DISK, KvTier.HOST, True, 10, 9_000_000))
    assert costs.ns_per_kib == before


def test_steps_that_mostly_decode_say_nothing_about_prefill() -> None:
    costs = Costs()
    costs.saw_step(Computed(16, 12, 100, 1_000_000))
    assert costs.prefill.nn == 0
