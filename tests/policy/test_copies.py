"""Copies on the host, the first to go first: a shortcut over claimed ones names what a plain search does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.copies import Copies
from stepwell.policy.types import BlockMeta

BLOCKS = 6
DEEDS = st.tuples(st.sampled_from(["add", "discard", "claim", "release", "ask"]), st.integers(0, BLOCKS - 1))


def block(number: int) -> Block:
    name = bytes([number])
    return Block(BlockMeta(name, None, 0, 64, (name,), "t", 64))


@given(st.lists(DEEDS, max_size=60))
def test_the_first_free_copy_is_the_oldest_that_nobody_claims(deeds: list[tuple[str, int]]) -> None:
    blocks = [block(number) for number in range(BLOCKS)]
    copies, plain = Copies(), dict[Block, None]()
    for deed, number in deeds:
        chosen = blocks[number]
        if deed == "add":
            copies.add(chosen)
            plain.setdefault(chosen)
        elif deed == "discard":
            copies.discard(chosen)
            plain.pop(chosen, None)
        elif deed == "claim":
            chosen.claims += 1
        elif deed == "release" and chosen.claims:
            chosen.claims -= 1
            copies.freed(chosen)
        named = list(copies)
        assert [b for b in named if not b.claims] == [b for b in plain if not b.claims]
        assert sorted(b.id for b in named) == sorted(b.id for b in plain), "each once, claimed ones too"
        assert len(copies) == len(plain)


def test_entries_of_copies_that_left_do_not_pile_up() -> None:
    copies = Copies()
    stays = block(0)
    copies.add(stays)
    for number in range(1_000):
        passing = block(number % 200 + 1)
        copies.add(passing)
        copies.discard(passing)
    assert len(copies._log) < 100
    assert list(copies) == [stays]
