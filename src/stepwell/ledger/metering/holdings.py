"""The bytes that each account holds, and for how long: byte-microseconds per holder and KV tier, exactly.

A *holder* is an agent's account. It holds the blocks of its latest context, and the frames of its running
turns. A block in several contexts is split evenly among their holders; what the last one leaves behind stays
with it until another holder uses it or it is dropped.

There is no pass over all blocks: blocks that have the same holders form a *pool* with one counter per KV tier
of what one holder's share has come to. A block that moves touches its pool; an agent that joins or leaves a
prefix touches the few pools of it. A remainder of the division is carried to the next span of time, so the
shares add up to the bytes exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import sub

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.types import Account
from stepwell.policy.types import BlockId, BlockMeta, KvTier

KV_TIERS = (KvTier.DEVICE, KvTier.HOST, KvTier.DISK)
AT = {kv_tier: at for at, kv_tier in enumerate(KV_TIERS)}


@dataclass(slots=True, eq=False)
class Pool:
    """Blocks with one and the same set of holders."""

    since_us: int
    holders: list[Holder] = field(default_factory=list)
    """Never empty while there are blocks."""
    blocks: dict[BlockId, None] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Bytes per KV tier."""
    share: list[int] = field(default_factory=lambda: [0, 0, 0])
    """What each holder's share has come to since the pool began, in byte-microseconds."""
    carry: list[int] = field(default_factory=lambda: [0, 0, 0])
    left: bool = False
    """Its one holder has gone on with another context."""

    def advance(self, now_us: int) -> None:
        """Count up to now."""
        passed_us = now_us - self.since_us
        self.since_us = now_us
        if not passed_us:
            return
        for at, size_bytes in enumerate(self.sizes):
            if size_bytes:
                whole, self.carry[at] = divmod(size_bytes * passed_us + self.carry[at], len(self.holders))
                self.share[at] += whole


@dataclass(slots=True, eq=False)
class Holder:
    """One account and what it holds."""

    account: Account
    since_us: int
    """Frames are counted up to here; pools keep marks of their own."""
    context: list[BlockId] = field(default_factory=list)
    """Blocks of its latest context, root first."""
    intact: bool = True
    """All of those blocks are there, and none has gone since."""
    pools: dict[Pool, list[int]] = field(default_factory=dict)
    """What ``Pool.share`` stood at when it was counted last."""
    frame_bytes: int = 0
    """On the device: frames of running turns that are not blocks."""
    accrued: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Byte-microseconds that have not been taken yet."""
    told: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Of those, what some request has been told as its own: choices that end together share them."""

    def settle(self, now_us: int) -> None:
        """Count up to now."""
        self.accrued[0] += self.frame_bytes * (now_us - self.since_us)
        self.since_us = now_us
        for pool, mark in self.pools.items():
            pool.advance(now_us)
            self._count(pool, mark)

    def _count(self, pool: Pool, mark: list[int]) -> None:
        for at, share in enumerate(pool.share):
            self.accrued[at] += share - mark[at]
            mark[at] = share

    def take(self, now_us: int) -> PerTier[int]:
        """Byte-microseconds since the last call."""
        self.settle(now_us)
        taken = PerTier(*self.accrued)
        self.accrued, self.told = [0, 0, 0], [0, 0, 0]
        return taken

    def tell(self, now_us: int) -> PerTier[int]:
        """Byte-microseconds that have been neither taken nor told yet."""
        self.settle(now_us)
        fresh = PerTier(*map(sub, self.accrued, self.told))
        self.told = list(self.accrued)
        return fresh

    def holds(self) -> PerTier[int]:
        """Its share of bytes now, rounded down."""
        sizes = [self.frame_bytes, 0, 0]
        for pool in self.pools:
            for at, size_bytes in enumerate(pool.sizes):
                sizes[at] += size_bytes // len(pool.holders)
        return PerTier(*sizes)

    def join(self, pool: Pool) -> None:
        pool.holders.append(self)
        self.pools[pool] = list(pool.share)

    def quit(self, pool: Pool) -> None:
        self._count(pool, self.pools.pop(pool))
        pool.holders.remove(self)


@dataclass(slots=True, eq=False)
class HeldBlock:
    """One block: where it lies, and its holders."""

    meta: BlockMeta
    pool: Pool
    on: list[bool] = field(default_factory=lambda: [False, False, False])
    elsewhere: bool = False
    """Its copy on "disk" lies in a store that several nodes share: no account holds a byte of this node."""


class Holdings:
    """All blocks and holders. The caller says what happens, in order; times never go back."""

    def __init__(self, block_bytes: int, disk_overhead_bytes: int) -> None:
        self.blocks: dict[BlockId, HeldBlock] = {}
        self.used = [0, 0, 0]
        """Bytes per KV tier, frames included."""
        self._block_bytes = block_bytes
        self._overhead_bytes = disk_overhead_bytes

    def size_of(self, meta: BlockMeta, at: int) -> int:
        """What a block takes on a KV tier: a frame, its bytes, or a record."""
        if at == 0:
            return self._block_bytes
        return meta.size_bytes if at == 1 else meta.size_bytes + self._overhead_bytes

    def _size(self, held: HeldBlock, at: int) -> int:
        return 0 if held.elsewhere and at == AT[KvTier.DISK] else self.size_of(held.meta, at)

    # --- blocks -------------------------------------------------------------------------------

    def sealed(self, holder: Holder, meta: BlockMeta, now_us: int) -> None:
        """A frame has become a block, or a block is there once more that lay elsewhere already."""
        if meta.depth and holder.context[meta.depth - 1 : meta.depth] != [meta.parent]:
            # Another turn of the same agent has begun since: this one's blocks are not in its latest context.
            self._set_aside(holder, meta, now_us)
        else:
            self._extend(holder, meta, now_us)
        self.blocks[meta.id].meta = meta  # another size only when it lies nowhere below the device
        self.came(meta.id, KvTier.DEVICE, now_us)

    def _extend(self, holder: Holder, meta: BlockMeta, now_us: int) -> None:
        held = self.blocks.get(meta.id)
        if held is None:
            held = self.blocks[meta.id] = HeldBlock(meta, self._own_pool(holder, now_us))
            held.pool.blocks[meta.id] = None
        elif holder not in held.pool.holders or held.pool.left:
            self._hold(holder, [meta.id], now_us)
        rest = [block for block in holder.context[meta.depth :] if block != meta.id]
        holder.context[meta.depth :] = [meta.id]
        self._let_go(holder, rest, now_us)

    def _own_pool(self, holder: Holder, now_us: int) -> Pool:
        """Where new blocks of a holder go: the pool of its newest one if no other holder shares that."""
        last = self.blocks.get(holder.context[-1]) if holder.context else None
        if last is not None and not last.pool.left and last.pool.holders == [holder]:
            return last.pool
        pool = Pool(now_us)
        holder.join(pool)
        return pool

    def found(self, holder: Holder, meta: BlockMeta, now_us: int, *, elsewhere: bool = False) -> None:
        """A block lies on disk whose owner is not known; ``holder`` has it until its owner calls."""
        if meta.id not in self.blocks:
            self._set_aside(holder, meta, now_us)
            self.blocks[meta.id].elsewhere = elsewhere
            self.came(meta.id, KvTier.DISK, now_us)

    def _set_aside(self, holder: Holder, meta: BlockMeta, now_us: int) -> None:
        """It is the holder's as if it had left it behind."""
        if meta.id in self.blocks:
            return
        pool = next((pool for pool in holder.pools if pool.left), None)
        if pool is None:
            pool = Pool(now_us, left=True)
            holder.join(pool)
        pool.blocks[meta.id] = None
        self.blocks[meta.id] = HeldBlock(meta, pool)

    def came(self, block: BlockId, kv_tier: KvTier, now_us: int) -> None:
        """A copy lies on a KV tier from now on."""
        self._put(block, kv_tier, True, now_us)

    def leaves_device(self, meta: BlockMeta) -> None:
        """A block is about to be copied from the device. It may have lost its running state there, and with
        it bytes; a block that lies below as well has not."""
        held = self.blocks.get(meta.id)
        if held is not None and not (held.on[1] or held.on[2]):
            held.meta = meta

    def gone(self, block: BlockId, kv_tier: KvTier, now_us: int) -> HeldBlock | None:
        """A copy is no longer there. The block if that was its last copy."""
        held = self._put(block, kv_tier, False, now_us)
        if held is None or any(held.on):
            return None
        del self.blocks[block]
        del held.pool.blocks[block]
        for holder in held.pool.holders:
            holder.intact = holder.intact and held.pool.left
        if not held.pool.blocks:
            self._dissolve(held.pool)
        return held

    def _put(self, block: BlockId, kv_tier: KvTier, present: bool, now_us: int) -> HeldBlock | None:
        held, at = self.blocks.get(block), AT[kv_tier]
        if held is None or held.on[at] is present:
            return None
        held.pool.advance(now_us)
        held.on[at] = present
        size_bytes = self._size(held, at) if present else -self._size(held, at)
        held.elsewhere = held.elsewhere and (present or kv_tier is not KvTier.DISK)
        held.pool.sizes[at] += size_bytes
        self.used[at] += size_bytes
        return held

    def _dissolve(self, pool: Pool) -> None:
        """A pool without blocks: what could not be divided goes to its first holder."""
        first = pool.holders[0]
        for holder in tuple(pool.holders):
            holder.quit(pool)
        for at in range(len(KV_TIERS)):
            first.accrued[at] += pool.carry[at]
        pool.carry = [0, 0, 0]

    # --- frames -------------------------------------------------------------------------------

    def frames(self, holder: Holder, size_bytes: int, now_us: int) -> None:
        """The running turns of a holder take so much of the device beside its blocks."""
        if size_bytes != holder.frame_bytes:
            holder.accrued[0] += holder.frame_bytes * (now_us - holder.since_us)
            holder.since_us = now_us
            self.used[0] += size_bytes - holder.frame_bytes
            holder.frame_bytes = size_bytes

    # --- contexts -----------------------------------------------------------------------------

    def turn_to(self, holder: Holder, context: Sequence[BlockId], now_us: int) -> None:
        """The holder's context is another one from now on: it lets go of what is not in it."""
        old, new = holder.context, list(context)
        same = self._common(old, new) if holder.intact else 0
        keeps = dict.fromkeys(new[same:])
        holder.context, holder.intact = new, all(block in self.blocks for block in keeps)
        self._hold(holder, keeps, now_us)
        self._let_go(holder, [block for block in old[same:] if block not in keeps], now_us)

    @staticmethod
    def _common(old: list[BlockId], new: list[BlockId]) -> int:
        shorter = min(len(old), len(new))
        if old[:shorter] == new[:shorter]:
            return shorter
        return next(n for n in range(shorter) if old[n] != new[n])

    def _hold(self, holder: Holder, blocks: Iterable[BlockId], now_us: int) -> None:
        for pool, part in self._by_pool(blocks).items():
            if holder in pool.holders and not pool.left:
                continue
            own = self._part(pool, part, now_us)
            own.advance(now_us)
            if own.left:
                own.left = False
                if own.holders[0] is holder:
                    continue
                own.holders[0].quit(own)
                own.carry, lost = [0, 0, 0], own.carry
                for at, rest in enumerate(lost):
                    holder.accrued[at] += rest
            holder.join(own)

    def _let_go(self, holder: Holder, blocks: Iterable[BlockId], now_us: int) -> None:
        for pool, part in self._by_pool(blocks).items():
            if holder not in pool.holders:
                continue
            own = self._part(pool, part, now_us)
            own.advance(now_us)
            if len(own.holders) > 1:
                holder.quit(own)
            else:
                own.left = True

    def _by_pool(self, blocks: Iterable[BlockId]) -> dict[Pool, list[BlockId]]:
        pools: dict[Pool, list[BlockId]] = {}
        for block in blocks:
            held = self.blocks.get(block)
            if held is not None:
                pools.setdefault(held.pool, []).append(block)
        return pools

    def _part(self, pool: Pool, blocks: Sequence[BlockId], now_us: int) -> Pool:
        """A pool of exactly these blocks: the whole one, or a part of it that is split off."""
        if len(blocks) == len(pool.blocks):
            return pool
        pool.advance(now_us)
        part = Pool(now_us, left=pool.left)
        for holder in pool.holders:
            holder.join(part)
        for block in blocks:
            held = self.blocks[block]
            del pool.blocks[block]
            part.blocks[block] = None
            held.pool = part
            for at, present in enumerate(held.on):
                if present:
                    size_bytes = self._size(held, at)
                    pool.sizes[at] -= size_bytes
                    part.sizes[at] += size_bytes
        return part

    # --- questions ----------------------------------------------------------------------------

    def holders_of(self, block: BlockId) -> Sequence[Holder]:
        """The holders of a block; empty when it is not known."""
        held = self.blocks.get(block)
        return held.pool.holders if held is not None else ()

    def check(self, holders: Iterable[Holder]) -> None:
        """Assert that sizes are the sums of the blocks, and that both sides agree about holders."""
        pools = {held.pool: None for held in self.blocks.values()}
        for pool in pools:
            assert pool.holders
            assert all(pool in holder.pools for holder in pool.holders)
            for at in range(len(KV_TIERS)):
                blocks = (self.blocks[block] for block in pool.blocks)
                assert pool.sizes[at] == sum(self._size(b, at) for b in blocks if b.on[at])
        known = list(holders)
        assert all(pool in pools for holder in known for pool in holder.pools)
        for at in range(len(KV_TIERS)):
            frames = sum(holder.frame_bytes for holder in known) if at == 0 else 0
            assert self.used[at] == frames + sum(pool.sizes[at] for pool in pools)
