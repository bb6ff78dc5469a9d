"""The block index: a prefix tree of chained hashes that says where each block's bytes lie.

A block is in the index as long as one KV tier holds it. A walk from the root finds the longest
prefix of a prompt that is stored anywhere; inside the last block it matches unit by unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from stepwell.policy.types import DEVICE, DISK, HOST, BlockId, BlockMeta, KvTier, RequestId

FASTEST_FIRST: Final = (DEVICE, HOST, DISK)


@dataclass(slots=True, eq=False)
class Block:
    """One node: what it is, which KV tiers hold it, and what needs it to stay."""

    meta: BlockMeta
    device: bool = False
    host: bool = False
    disk: bool = False
    pins: int = 0
    """Running requests that use it: it must stay on the device."""
    claims: int = 0
    """Requests about to load it: its host and disk copies must stay."""
    moving: KvTier | None = None
    """Where a queued transfer (host <-> disk) is taking it; both ends must stay meanwhile."""
    bare: bool = False
    """Its copy on the device is without the running state that it keeps: that lies below."""
    leaving: bool = False
    """Its host copy is dropped as soon as the disk has it."""
    device_children: int = 0
    """Children that are on the device: dropping a parent before them would strand them."""
    last_use_us: int = 0
    read_unused: bool = False
    """It came up from disk and no turn has begun with it since."""
    uses: int = 0
    """How many turns have begun with it."""
    maker: RequestId = 0
    """The request that computed it last; 0: it was found on disk."""
    holders: tuple[Any, ...] = ()
    """Of the eviction policy: the agents (``Group``) whose context contains it."""
    ranked: int = 0
    """Of the eviction policy: a bit for every KV tier on which it is ranked."""
    listed: Any = None
    """Of the eviction policy: the group under which it is ranked."""
    copy_at: int = -1
    """Of the eviction policy: its place among the copies (``copies.py``); -1: it is none."""
    elsewhere: bool = False
    """Its copy on "disk" lies in a store that several nodes share: it takes no room on this node's disk."""
    shunned_until_us: int = 0
    """A read from disk failed or was too slow: until then the copy there counts as not there."""
    unloadable_until_us: int = 0
    """A load onto the device failed: until then the copy on the host counts as not there."""
    failed_loads: int = 0
    """Loads onto the device that failed, one after the other."""
    id: BlockId = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.meta.id

    def fastest(self) -> KvTier:
        """The fastest KV tier that holds it. A block in the index is always somewhere."""
        if self.device:
            return DEVICE
        return HOST if self.host else DISK

    def is_on(self, tier: KvTier) -> bool:
        if tier is DEVICE:
            return self.device
        return self.host if tier is HOST else self.disk

    def set_on(self, tier: KvTier, present: bool) -> None:
        if tier is DEVICE:
            self.device = present
        elif tier is HOST:
            self.host = present
        else:
            self.disk = present

    @property
    def nowhere(self) -> bool:
        return not (self.disk or self.host or self.device or self.moving)


class Match(NamedTuple):
    """One step of a walk: a block, and how many of its tokens the prompt shares."""

    block: Block
    n_tokens: int


def blocks_of(path: Iterable[Match]) -> list[Block]:
    return [match.block for match in path]


def ids_of(path: Iterable[Match]) -> tuple[BlockId, ...]:
    return tuple(match.block.id for match in path)


def in_common(old: Sequence[Block], new: Sequence[Block]) -> int:
    """How many leading blocks are the same."""
    for depth, (before, after) in enumerate(zip(old, new, strict=False)):
        if before is not after:
            return depth
    return min(len(old), len(new))


@dataclass(slots=True)
class BlockIndex:
    """All blocks by id, and by the hash of each unit inside them."""

    block_tokens: int
    unit_tokens: int
    blocks: dict[BlockId, Block] = field(default_factory=dict)
    _by_unit: dict[bytes, list[BlockId]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.blocks)

    def get(self, block: BlockId) -> Block | None:
        return self.blocks.get(block)

    def add(self, meta: BlockMeta) -> Block:
        """The block's node; made if it is not known yet."""
        known = self.blocks.get(meta.id)
        if known is not None:
            return known
        node = Block(meta)
        self.blocks[meta.id] = node
        for unit in meta.units:
            self._by_unit.setdefault(unit, []).append(meta.id)
        return node

    def remove(self, block: BlockId) -> None:
        """Forget a block that no KV tier holds any more."""
        node = self.blocks.pop(block)
        for unit in node.meta.units:
            holders = self._by_unit[unit]
            holders.remove(block)
            if not holders:
                del self._by_unit[unit]

    def holds_unit(self, unit: bytes) -> bool:
        return unit in self._by_unit

    def walk(self, units: Sequence[bytes], n_tokens: int, begun: Sequence[Match] = ()) -> list[Match]:
        """The longest stored prefix of a prompt's first ``n_tokens`` tokens, root first.

        The last match may use only part of its block; all others use whole blocks. ``begun`` is what an
        earlier walk of the same prompt, then no longer than now, found: what is still stored of it is not
        looked up again.
        """
        per_block = self.block_tokens // self.unit_tokens
        usable_units = min(len(units), n_tokens // self.unit_tokens)
        path = list(begun)
        if path and path[-1].n_tokens < self.block_tokens:
            path.pop()
        if [b for b, _ in path if not (b.disk or b.host or b.device or b.moving)]:
            path = []  # one was forgotten; a new block may bear its name
        for name in units[(len(path) + 1) * per_block - 1 : usable_units : per_block]:
            node = self.blocks.get(name)
            if node is None:
                break
            path.append(Match(node, self.block_tokens))
        border = len(path) * per_block
        path += self._partial(units[border : min(border + per_block, usable_units)])
        return path

    def _partial(self, units: Sequence[bytes]) -> list[Match]:
        for count in range(len(units), 0, -1):
            holders = self._by_unit.get(units[count - 1])
            if holders:
                best = min((self.blocks[h] for h in holders), key=_distance)
                return [Match(best, count * self.unit_tokens)]
        return []

    def check(self) -> None:
        """Assert that both tables agree and that every block is somewhere."""
        for block, node in self.blocks.items():
            assert node.id == block
            assert not node.nowhere, "a block that no KV tier holds is still in the index"
            assert node.pins >= 0 and node.claims >= 0
            assert node.device or not node.pins, "a pinned block is not on the device"
            before = self.blocks.get(node.meta.parent) if node.meta.parent else None
            assert not node.pins or before is None or before.pins, (
                "a block is pinned, the one before it is not"
            )
            for unit in node.meta.units:
                assert block in self._by_unit[unit]
        assert sum(map(len, self._by_unit.values())) == sum(len(n.meta.units) for n in self.blocks.values())


def _distance(node: Block) -> tuple[int, int, bytes]:
    """Nearest copy first; among equals the shorter block (less to move), then a fixed order."""
    return FASTEST_FIRST.index(node.fastest()), node.meta.n_tokens, node.id
