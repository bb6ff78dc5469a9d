"""Who holds which bytes: pools against a list per block, advanced at every event with exact fractions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stepwell.ledger.metering.holdings import AT, KV_TIERS, Holder, Holdings
from stepwell.ledger.types import Account, Kind
from stepwell.policy.types import BlockId, BlockMeta, KvTier

FRAME, OVERHEAD = 100_003, 4_099
NAMES = ("ann", "bob", "cyd")


def meta(path: str) -> BlockMeta:
    """The block at the end of a path in a tree of prompts; every path has a size of its own."""
    size = 70_001 + 977 * int(path, 3) + 7 * len(path)
    parent = path[:-1].encode() if len(path) > 1 else None
    return BlockMeta(path.encode(), parent, len(path) - 1, 16, (), "acme", size)


def upto(path: str) -> list[BlockId]:
    """The context that ends in this block."""
    return [path[:end].encode() for end in range(1, len(path) + 1)]


def bytes_of(block: BlockMeta, kv_tier: KvTier) -> int:
    if kv_tier is KvTier.DEVICE:
        return FRAME
    return block.size_bytes + (OVERHEAD if kv_tier is KvTier.DISK else 0)


@dataclass
class Listed:
    """A block as the model knows it."""

    meta: BlockMeta
    holders: set[str]
    left: bool
    on: set[KvTier] = field(default_factory=set)


class Model:
    """The rules as they are written down, and nothing clever."""

    def __init__(self) -> None:
        self.blocks: dict[BlockId, Listed] = {}
        self.contexts: dict[str, list[BlockId]] = {name: [] for name in NAMES}
        self.frames = dict.fromkeys(NAMES, 0)
        self.share = {name: [Fraction(0)] * 3 for name in NAMES}
        self.total = [0, 0, 0]

    def advance(self, passed_us: int) -> None:
        for block in self.blocks.values():
            for kv_tier in block.on:
                amount = bytes_of(block.meta, kv_tier) * passed_us
                self.total[AT[kv_tier]] += amount
                for name in block.holders:
                    self.share[name][AT[kv_tier]] += Fraction(amount, len(block.holders))
        for name, frames in self.frames.items():
            self.share[name][0] += frames * passed_us
            self.total[0] += frames * passed_us

    def hold(self, name: str, block: BlockId) -> None:
        listed = self.blocks.get(block)
        if listed is None:
            return
        if listed.left:
            listed.holders, listed.left = {name}, False
        listed.holders.add(name)

    def let_go(self, name: str, block: BlockId) -> None:
        listed = self.blocks.get(block)
        if listed is None or name not in listed.holders:
            return
        if len(listed.holders) > 1:
            listed.holders.remove(name)
        else:
            listed.left = True

    def turn_to(self, name: str, context: list[BlockId]) -> None:
        old, self.contexts[name] = self.contexts[name], context
        for block in context:
            self.hold(name, block)
        for block in old:
            if block not in context:
                self.let_go(name, block)

    def sealed(self, name: str, block: BlockMeta) -> None:
        context = self.contexts[name]
        goes_on = not block.depth or context[block.depth - 1 : block.depth] == [block.parent]
        if block.id not in self.blocks:
            self.blocks[block.id] = Listed(block, {name}, not goes_on)
        if goes_on:
            self.extend(name, block)
        self.blocks[block.id].on.add(KvTier.DEVICE)

    def extend(self, name: str, block: BlockMeta) -> None:
        context = self.contexts[name]
        self.hold(name, block.id)
        rest = [other for other in context[block.depth :] if other != block.id]
        self.contexts[name] = [*context[: block.depth], block.id]
        for other in rest:
            self.let_go(name, other)

    def found(self, name: str, block: BlockMeta) -> None:
        if block.id not in self.blocks:
            self.blocks[block.id] = Listed(block, {name}, True, {KvTier.DISK})

    def gone(self, block: BlockId, kv_tier: KvTier) -> bool:
        listed = self.blocks.get(block)
        if listed is None or kv_tier not in listed.on:
            return False
        listed.on.remove(kv_tier)
        if not listed.on:
            del self.blocks[block]
        return not listed.on


names = st.sampled_from(NAMES)
paths = st.text("01", min_size=1, max_size=3)
kv_tiers = st.sampled_from(KV_TIERS)


class Held(RuleBasedStateMachine):
    """The pools and the model live through the same."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0
        self.pools = Holdings(FRAME, OVERHEAD)
        self.model = Model()
        self.holders = {name: Holder(Account(Kind.AGENT, "acme", agent=name), 0) for name in NAMES}
        self.taken = {name: [0, 0, 0] for name in NAMES}
        self.changes = 0

    @rule(us=st.sampled_from([1, 2, 7, 1_000, 999_983, 10**9 + 7]))
    def time_passes(self, us: int) -> None:
        self.now_us += us
        self.model.advance(us)

    @rule(name=names, path=paths)
    def seal(self, name: str, path: str) -> None:
        self.changes += 1
        self.pools.sealed(self.holders[name], meta(path), self.now_us)
        self.model.sealed(name, meta(path))

    @rule(name=names, path=paths)
    def compute_a_prompt(self, name: str, path: str) -> None:
        """Opened with what is there, and every further block sealed."""
        self.turn_to(name, path, len(path))
        for end in range(1, len(path) + 1):
            self.seal(name, path[:end])

    @rule(name=names, path=paths, cut=st.integers(0, 4))
    def turn_to(self, name: str, path: str, cut: int) -> None:
        """To a context of which any part may be gone."""
        self.changes += 1
        context = upto(path)[:cut]
        self.pools.turn_to(self.holders[name], context, self.now_us)
        self.model.turn_to(name, context)

    @rule(name=names, other=names, cut=st.integers(0, 4))
    def go_on_from_anothers(self, name: str, other: str, cut: int) -> None:
        context = self.model.contexts[other][:cut]
        self.changes += 1
        self.pools.turn_to(self.holders[name], context, self.now_us)
        self.model.turn_to(name, list(context))

    @rule(name=names, path=paths)
    def find(self, name: str, path: str) -> None:
        self.changes += 1
        self.pools.found(self.holders[name], meta(path), self.now_us)
        self.model.found(name, meta(path))

    @rule(path=paths, kv_tier=kv_tiers)
    def come(self, path: str, kv_tier: KvTier) -> None:
        block = path.encode()
        self.pools.came(block, kv_tier, self.now_us)
        if block in self.model.blocks:
            self.model.blocks[block].on.add(kv_tier)

    @rule(which=st.integers(0, 100), kv_tier=kv_tiers)
    def go(self, which: int, kv_tier: KvTier) -> None:
        if self.model.blocks:
            self.changes += 1
            block = sorted(self.model.blocks)[which % len(self.model.blocks)]
            held = self.pools.gone(block, kv_tier, self.now_us)
            assert (held is not None) is self.model.gone(block, kv_tier)

    @rule(path=paths)
    def go_for_good(self, path: str) -> None:
        self.changes += 1
        for kv_tier in KV_TIERS:
            held = self.pools.gone(path.encode(), kv_tier, self.now_us)
            assert (held is not None) is self.model.gone(path.encode(), kv_tier)

    @rule(name=names, frames=st.integers(0, 3))
    def frames(self, name: str, frames: int) -> None:
        self.pools.frames(self.holders[name], frames * FRAME, self.now_us)
        self.model.frames[name] = frames * FRAME

    @rule(name=names)
    def settle(self, name: str) -> None:
        self.holders[name].settle(self.now_us)

    @rule(name=names)
    def take(self, name: str) -> None:
        for at, amount in enumerate(self.holders[name].take(self.now_us)):
            assert amount >= 0
            self.taken[name][at] += amount
        assert self.holders[name].take(self.now_us) == (0, 0, 0)

    @invariant()
    def the_same_hold_the_same(self) -> None:
        assert self.pools.blocks.keys() == self.model.blocks.keys()
        for block, listed in self.model.blocks.items():
            held = sorted(holder.account.agent for holder in self.pools.holders_of(block))
            assert held == sorted(listed.holders)
            assert self.pools.blocks[block].pool.left is listed.left
        self.pools.check(self.holders.values())

    @invariant()
    def shares_are_those_of_the_model(self) -> None:
        sums = [0, 0, 0]
        for name, holder in self.holders.items():
            holder.settle(self.now_us)
            for at, exact in enumerate(self.model.share[name]):
                counted = self.taken[name][at] + holder.accrued[at]
                # A division leaves less than one unit, and who is there next may get what was left.
                assert abs(counted - exact) <= 4 * (self.changes + 1)
                sums[at] += counted
        for pool in {held.pool for held in self.pools.blocks.values()}:
            assert all(0 <= rest < len(NAMES) for rest in pool.carry)
            sums = [a + b for a, b in zip(sums, pool.carry, strict=True)]
        assert sums == self.model.total

    @invariant()
    def what_each_holds_now(self) -> None:
        blocks = self.model.blocks.values()
        for name, holder in self.holders.items():
            for at, kv_tier in enumerate(KV_TIERS):
                exact = sum(
                    Fraction(bytes_of(block.meta, kv_tier), len(block.holders))
                    for block in blocks
                    if name in block.holders and kv_tier in block.on
                )
                exact += self.model.frames[name] if at == 0 else 0
                assert exact - len(self.model.blocks) <= holder.holds()[at] <= exact


TestHeld = Held.TestCase
TestHeld.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)


# --- the rules, one at a time ------------------------------------------------------------------


@pytest.fixture
def pools() -> Holdings:
    return Holdings(FRAME, OVERHEAD)


def holder(name: str) -> Holder:
    return Holder(Account(Kind.AGENT, "acme", agent=name), 0)


def test_what_two_share_is_split_and_who_stays_pays_alone(pools: Holdings) -> None:
    ann, bob = holder("ann"), holder("bob")
    pools.sealed(ann, meta("0"), 0)
    pools.turn_to(bob, upto("0"), 1_000)
    pools.turn_to(bob, [], 3_000)
    assert ann.take(4_000)[0] == FRAME * (1_000 + 2_000 // 2 + 1_000)
    assert bob.take(4_000)[0] == FRAME * 2_000 // 2


def test_an_odd_byte_is_carried_and_not_lost(pools: Holdings) -> None:
    three = [holder(name) for name in NAMES[:3]]
    pools.sealed(three[0], meta("0"), 0)
    for one in three[1:]:
        pools.turn_to(one, upto("0"), 0)
    taken = [0, 0, 0]
    for us in range(1, 8):
        for at, one in enumerate(three):
            taken[at] += one.take(us)[0]
    assert FRAME * 7 % 3
    assert taken == [FRAME * 7 // 3] * 3
    assert pools.blocks[b"0"].pool.carry[0] == FRAME * 7 % 3


def test_a_rest_that_could_not_be_divided_goes_to_one_of_them_once(pools: Holdings) -> None:
    """It waits where nothing lies any more until somebody takes the block over."""
    ann, bob, cyd = (holder(name) for name in NAMES)
    pools.sealed(ann, meta("0"), 0)
    pools.came(b"0", KvTier.HOST, 0)
    pools.turn_to(bob, upto("0"), 0)
    pools.gone(b"0", KvTier.DEVICE, 1)  # an odd number of byte-microseconds for two
    pools.turn_to(bob, [], 1)
    pools.turn_to(ann, [], 1)
    pools.turn_to(cyd, upto("0"), 1)
    pools.came(b"0", KvTier.DEVICE, 1)
    assert [one.take(2)[0] for one in (ann, bob, cyd)] == [FRAME // 2, FRAME // 2, FRAME + 1]


def test_what_is_left_behind_stays_with_who_made_it_until_somebody_uses_it(pools: Holdings) -> None:
    ann, bob = holder("ann"), holder("bob")
    pools.sealed(ann, meta("0"), 0)
    pools.turn_to(ann, [], 1_000)
    assert pools.holders_of(b"0") == [ann]
    pools.turn_to(bob, upto("0"), 5_000)
    assert pools.holders_of(b"0") == [bob]
    assert ann.take(9_000)[0] == FRAME * 5_000
    assert bob.take(9_000)[0] == FRAME * 4_000


def test_who_made_it_and_comes_back_to_it_has_it_still(pools: Holdings) -> None:
    ann = holder("ann")
    pools.sealed(ann, meta("0"), 0)
    pools.turn_to(ann, [], 1_000)
    pools.turn_to(ann, upto("0"), 2_000)
    bob = holder("bob")
    pools.turn_to(bob, upto("0"), 2_000)
    assert pools.holders_of(b"0") == [ann, bob]


def test_a_block_on_three_kv_tiers_takes_a_frame_its_bytes_and_a_record(pools: Holdings) -> None:
    ann, block = holder("ann"), meta("0")
    pools.sealed(ann, block, 0)
    pools.came(block.id, KvTier.HOST, 0)
    pools.came(block.id, KvTier.DISK, 0)
    assert ann.holds() == (FRAME, block.size_bytes, block.size_bytes + OVERHEAD)
    assert pools.used == list(ann.holds())
    assert pools.gone(block.id, KvTier.DEVICE, 10) is None
    assert pools.gone(block.id, KvTier.DISK, 10) is None
    held = pools.gone(block.id, KvTier.HOST, 30)
    assert held is not None and held.meta is block
    size = block.size_bytes
    assert ann.take(99) == (FRAME * 10, size * 30, (size + OVERHEAD) * 10)
    assert not ann.pools and pools.used == [0, 0, 0]


def test_recovered_blocks_are_the_tenants_until_somebody_uses_them(pools: Holdings) -> None:
    tenant, ann = holder(""), holder("ann")
    for path in ("0", "01", "02"):
        pools.found(tenant, meta(path), 0)
    assert len(tenant.pools) == 1
    pools.turn_to(ann, upto("01"), 10)
    assert [pools.holders_of(p) for p in (b"0", b"01", b"02")] == [[ann], [ann], [tenant]]


def test_blocks_with_the_same_holders_are_one_pool(pools: Holdings) -> None:
    ann, bob = holder("ann"), holder("bob")
    path = "0" * 60
    for end in range(1, len(path) + 1):
        pools.sealed(ann, meta(path[:end]), 0)
    assert len(ann.pools) == 1
    for turn in range(30):
        pools.turn_to(bob, upto(path[:40]), turn)
        pools.turn_to(bob, [], turn)
    assert len(ann.pools) == 2, "one that was shared and one that never was"


def test_a_block_computed_again_by_another_is_shared_when_the_first_comes_back(pools: Holdings) -> None:
    ann, bob = holder("ann"), holder("bob")
    for path in ("0", "01"):
        pools.sealed(ann, meta(path), 0)
    pools.gone(b"01", KvTier.DEVICE, 5)
    pools.turn_to(bob, upto("0"), 5)
    pools.sealed(bob, meta("01"), 5)
    pools.turn_to(ann, upto("01"), 5)
    assert ann in pools.holders_of(b"01") and bob in pools.holders_of(b"01")


def test_a_block_that_goes_on_from_one_that_was_set_aside_is_not_set_aside(pools: Holdings) -> None:
    ann = holder("ann")
    pools.turn_to(ann, upto("0"), 0)
    pools.found(ann, meta("0"), 0)
    pools.sealed(ann, meta("00"), 0)
    assert not pools.blocks[b"00"].pool.left


def test_two_turns_of_one_agent_at_once_keep_one_context(pools: Holdings) -> None:
    """The first one goes on after the second has begun: what it makes is set aside, and used once only."""
    ann = holder("ann")
    for path in ("0", "00"):
        pools.sealed(ann, meta(path), 0)
    pools.turn_to(ann, upto("1"), 0)
    for _ in range(2):
        pools.sealed(ann, meta("000"), 0)
    assert ann.context == upto("1")
    assert pools.blocks[b"000"].pool.left
    pools.turn_to(ann, upto("000"), 0)
    assert not pools.blocks[b"000"].pool.left
    pools.check([ann])
