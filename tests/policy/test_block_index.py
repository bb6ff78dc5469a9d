"""The block index against a plain model: a list of blocks that is searched from end to end."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stepwell.policy.block_index import BlockIndex
from stepwell.policy.chain import TokenChain, root_hash
from stepwell.policy.types import BlockMeta, KvTier

BLOCK, UNIT = 8, 2
ROOT = root_hash("model", "tenant")
token_lists = st.lists(st.integers(0, 1), max_size=3 * BLOCK)  # two tokens, so that prefixes collide


def metas_of(tokens: list[int]) -> list[BlockMeta]:
    """The blocks of a prefix: whole ones, then the tail."""
    chain = TokenChain(ROOT, UNIT, tokens)
    metas: list[BlockMeta] = []
    for start in range(0, len(tokens), BLOCK):
        stop = min(start + BLOCK, len(tokens))
        units = tuple(chain.units[start // UNIT : stop // UNIT])
        parent = metas[-1].id if metas else None
        metas.append(
            BlockMeta(chain.name(stop), parent, start // BLOCK, stop - start, units, "t", stop - start)
        )
    return metas


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = BlockIndex(BLOCK, UNIT)
        self.stored: dict[bytes, tuple[BlockMeta, tuple[int, ...]]] = {}

    @rule(tokens=token_lists, tier=st.sampled_from(KvTier))
    def store(self, tokens: list[int], tier: KvTier) -> None:
        for depth, meta in enumerate(metas_of(tokens)):
            self.index.add(meta).set_on(tier, True)
            self.stored[meta.id] = (meta, tuple(tokens[: depth * BLOCK + meta.n_tokens]))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.stored:
            block = data.draw(st.sampled_from(sorted(self.stored)))
            del self.stored[block]
            self.index.remove(block)

    @rule(tokens=token_lists, limit=st.integers(0, 3 * BLOCK))
    def walk(self, tokens: list[int], limit: int) -> None:
        limit = min(limit, len(tokens))
        chain = TokenChain(ROOT, UNIT, tokens)
        path = self.index.walk(chain.units, limit)
        assert sum(m.n_tokens for m in path) == self._longest(tokens, limit)
        for depth, match in enumerate(path):
            start = depth * BLOCK
            kept = self.stored[match.block.id][1]
            assert match.block.meta.depth == depth
            assert list(kept[: start + match.n_tokens]) == tokens[: start + match.n_tokens]
            assert match.n_tokens == BLOCK or depth == len(path) - 1

    def _longest(self, tokens: list[int], limit: int) -> int:
        """Whole blocks as long as each is stored, then whole units of one more stored block."""
        prefixes = {kept for _, kept in self.stored.values()}
        done = 0
        while done + BLOCK <= limit and tuple(tokens[: done + BLOCK]) in prefixes:
            done += BLOCK
        for extra in range(BLOCK - UNIT, 0, -UNIT):
            wanted = tuple(tokens[: done + extra])
            if done + extra <= limit and any(
                kept[: done + extra] == wanted and done < len(kept) <= done + BLOCK for kept in prefixes
            ):
                return done + extra
        return done

    @invariant()
    def both_tables_agree(self) -> None:
        self.index.check()
        assert set(self.index.blocks) == set(self.stored)


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_walk_goes_on_from_an_earlier_one_but_not_over_what_was_forgotten() -> None:
    index = BlockIndex(BLOCK, UNIT)
    tokens = [0, 1] * (2 * BLOCK)
    metas, units = metas_of(tokens), TokenChain(ROOT, UNIT, tokens).units
    for meta in metas[:2]:
        index.add(meta).set_on(KvTier.DISK, True)
    begun = index.walk(units, len(tokens))
    index.add(metas[2]).set_on(KvTier.HOST, True)
    assert index.walk(units, len(tokens), begun) == index.walk(units, len(tokens))
    assert [m.block.meta for m in index.walk(units, len(tokens), begun)] == metas[:3]
    begun[1].block.set_on(KvTier.DISK, False)
    index.remove(metas[1].id)
    assert [m.block.meta for m in index.walk(units, len(tokens), begun)] == metas[:1]
    again = index.add(metas[1])
    again.set_on(KvTier.HOST, True)
    assert index.walk(units, len(tokens), begun)[1].block is again


def test_a_shared_half_is_taken_from_the_nearest_copy() -> None:
    index = BlockIndex(BLOCK, UNIT)
    far, near = metas_of([0, 1, 0, 1, 0, 0, 0, 0])[0], metas_of([0, 1, 0, 1, 1, 1])[0]
    index.add(far).set_on(KvTier.DISK, True)
    index.add(near).set_on(KvTier.HOST, True)
    path = list(index.walk(TokenChain(ROOT, UNIT, [0, 1, 0, 1]).units, 4))
    assert [(m.block.id, m.n_tokens) for m in path] == [(near.id, 4)]
