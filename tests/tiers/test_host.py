"""The host pool's memory: reused, clean, and honest about how much it really takes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.tiers.host import HostPool
from tests.tiers.harness import name_of

SIZES = (1, 4_095, 4_096, 4_097, 20_000, 100_000)
LIMIT = 400_000


def test_memory_of_a_dropped_block_is_used_again() -> None:
    pool = HostPool(LIMIT)
    assert pool.put(name_of(1), b"a" * 20_000, 20_000)
    first = pool.pin(name_of(1))
    assert first is not None
    memory = first.pages._memory
    pool.unpin(first)
    pool.drop(name_of(1))
    assert pool.put(name_of(2), b"b" * 19_000, 19_000)
    second = pool.pin(name_of(2))
    assert second is not None
    assert second.pages._memory is memory


def test_nothing_of_the_last_owner_is_left_behind_a_block() -> None:
    """The padding goes to disk with the block."""
    pool = HostPool(LIMIT)
    pool.put(name_of(1), b"\xff" * 8_192, 8_192)
    pool.drop(name_of(1))
    pool.put(name_of(2), b"b" * 5_000, 5_000)
    place = pool.pin(name_of(2))
    assert place is not None
    assert bytes(place.pages.whole) == b"b" * 5_000 + bytes(8_192 - 5_000)


def test_a_pinned_block_outlives_its_drop() -> None:
    pool = HostPool(LIMIT)
    pool.put(name_of(1), b"a" * 100_000, 100_000)
    place = pool.pin(name_of(1))
    assert place is not None
    pool.drop(name_of(1))
    assert pool.used_bytes == 100_000
    assert all(pool.put(name_of(n), b"b" * 100_000, 100_000) for n in (2, 3, 4))
    assert not pool.put(name_of(5), b"b" * 100_000, 100_000)
    assert place.pages.payload == b"a" * 100_000
    pool.unpin(place)
    assert pool.put(name_of(5), b"b" * 100_000, 100_000)
    pool.check()


def test_spare_memory_of_one_size_makes_room_for_another() -> None:
    pool = HostPool(LIMIT)
    for number in range(4):
        pool.put(name_of(number), bytes(100_000), 100_000)
    for number in range(4):
        pool.drop(name_of(number))
    for number in range(20):
        assert pool.put(name_of(number), bytes(20_000), 20_000)
        assert pool.real_bytes <= LIMIT + LIMIT // 32 + 4_096


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(SIZES), st.booleans()), max_size=80))
def test_real_memory_is_a_few_percent_over_the_bound_at_most(steps: list[tuple[int, int, bool]]) -> None:
    pool = HostPool(LIMIT)
    held: dict[int, int] = {}
    for number, size_bytes, put in steps:
        if put and number not in held:
            fits = sum(held.values()) + size_bytes <= LIMIT
            assert pool.put(name_of(number), bytes([number]) * size_bytes, size_bytes) == fits
            if fits:
                held[number] = size_bytes
        else:
            pool.drop(name_of(number))
            held.pop(number, None)
        for there, size in held.items():
            assert pool.get(name_of(there)) == bytes([there]) * size
        assert pool.real_bytes <= max(LIMIT + LIMIT // 32, LIMIT + 4_096 * len(held)), (
            "the bound, a page per block, a little spare"
        )
        pool.check()
    assert pool.used_bytes == sum(held.values())
