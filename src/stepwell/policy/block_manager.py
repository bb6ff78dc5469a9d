"""The block manager: what lies in which KV tier, how full each is, and how room is made.

Every method that changes something appends the actions that make it true to ``actions``; the state
is kept as if they had already succeeded, and ``moved`` corrects it when one did not.

    device  counted in frames; a block leaves for the host, or is gone when the host has no room
    host    counted in bytes; above a watermark its coldest blocks are written to disk ahead of
            need, so that making room is a matter of dropping clean copies
    disk    counted in bytes of records; the coldest records go
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from stepwell.policy.block_index import Block, BlockIndex
from stepwell.policy.config import PolicyConfig
from stepwell.policy.depth_limit import DepthLimit
from stepwell.policy.descent import Descent
from stepwell.policy.device_states import DeviceStates
from stepwell.policy.elsewhere import HeldElsewhere
from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy
from stepwell.policy.ghosts import Ghosts
from stepwell.policy.transfers import transfer_ended
from stepwell.policy.types import (
    DEVICE,
    DISK,
    HOST,
    Action,
    BlockId,
    BlockMeta,
    Drop,
    KvTier,
    Move,
    Moved,
    RequestId,
)
from stepwell.policy.write_budget import WriteBudget


class BlockManager:
    """Blocks and bytes of device, host and disk."""

    def __init__(self, config: PolicyConfig, eviction: EvictionPolicy, context: EvictionContext) -> None:
        self.config = config
        self.eviction = eviction
        self.index = BlockIndex(config.block_tokens, config.unit_tokens)
        self.costs = context.costs
        self._context = context
        self.actions: list[Action] = []
        self.beneficiary: RequestId = 0
        """The request for which room is being made now."""
        self.device_used = 0
        """Frames: blocks on the device and frames that running requests hold for themselves."""
        self.device_count = 0
        """Blocks on the device."""
        self.pinned = 0
        """Blocks on the device that must stay because a running request uses them."""
        self.host_used = 0
        self.disk_used = 0
        self.stranded = 0
        """How often a block that a turn is about to load has left device and host."""
        self.elsewhere = HeldElsewhere(self)
        self.resized = False
        """Whether the bounds of host and disk have changed: more may be held than they are now."""
        self.reading_bytes = self.reads_in_flight = self.writes_in_flight = 0
        self.writes_paused_until_us = 0
        self.evictions: dict[str, int] = dict.fromkeys(
            ("device_host", "device_gone", "host_disk", "host_gone", "disk_gone"), 0
        )
        self.clean_bytes = 0
        """Of the bytes on the host: those that lie on the device or the disk as well."""
        self._clean: dict[Block, None] = {}  # those blocks, in the order in which they got their copy
        self.written_bytes = 0
        self.useful_read_bytes = 0
        """Read from disk, for a turn or ahead of one, and then used by one."""
        self.ghosts = Ghosts(self.index, config.max_ghost_units)
        self.depths = DepthLimit(config)
        self.states = DeviceStates(self)
        self._budget = WriteBudget(config.disk_write_bytes_per_day)
        self.descent = Descent(self)

    @property
    def now_us(self) -> int:
        """The time of the step."""
        return self._context.now_us

    @property
    def transfers_in_flight(self) -> int:
        """Queued reads and writes between host and disk that have not ended."""
        return self.reads_in_flight + self.writes_in_flight

    @property
    def room_is_coming(self) -> bool:
        """Whether transfers are under way after which there may be room on the host that is not there now."""
        return bool(self.reads_in_flight or (self.eviction.lossless and self.writes_in_flight))

    # --- device -------------------------------------------------------------------------------

    def room_on_device(self) -> int:
        """Frames that are free or could be freed."""
        return self.config.device_blocks - self.device_used + self.device_count - self.pinned

    def take_frames(self, count: int, taker: str = "") -> bool:
        """Make sure that ``count`` frames are free for a service tier and count them as used."""
        while (missing := count - (self.config.device_blocks - self.device_used)) > 0:
            victims = self.device_victims(missing, taker)
            if not victims:
                return False
            for victim in victims:
                self.evict_from_device(victim)
        self.device_used += count
        return True

    def give_frames(self, count: int) -> None:
        """Frames of a closed request that did not become blocks."""
        self.device_used -= count

    def device_victims(self, count: int, taker: str = "") -> list[Block]:
        """Up to ``count`` blocks that can leave one after the other, children before their parents."""
        chosen: list[Block] = []
        orphaned: dict[BlockId | None, int] = {}
        for block in self.eviction.victim_blocks(DEVICE, self.index.blocks, taker):
            if not block.pins and block.device_children <= orphaned.get(block.id, 0):
                chosen.append(block)
                if len(chosen) == count:
                    break
                parent = block.meta.parent
                orphaned[parent] = orphaned.get(parent, 0) + 1
        return chosen

    def evict_from_device(self, block: Block, *, at_any_price: bool = False) -> None:
        """One KV tier down, or gone when the host has no room for what it is worth."""
        if self.step_down(block, patient=False, at_any_price=at_any_price):
            return
        if not block.disk:
            self.evictions["device_gone"] += 1
            self.descent.lost(block)
        self.drop(block, DEVICE)

    def step_down(self, block: Block, *, patient: bool, at_any_price: bool = False) -> bool:
        """From the device one KV tier down; False when there is no room for it, or when it is sooner computed
        than copied (but ``at_any_price``). ``patient``: the caller will wait for writes, so nothing is lost
        while some are under way."""
        if not (block.host or block.bare):
            pays = at_any_price or self.eviction.wants_host(block)
            if not pays:
                self.costs.doubt_copies()
            wanted = pays and not (block.disk or self.eviction.is_dead(block))
            if pays and self._room_on_host(block, patient=patient, for_nothing=not wanted):
                self.actions.append(Move(block.meta, DEVICE, HOST))
                self.arrive(block, HOST)
            elif wanted or not patient:
                return False
        if block.host:
            self.evictions["device_host"] += 1
        elif not block.disk:
            self.evictions["device_gone"] += 1
        self.drop(block, DEVICE)
        return True

    def sealed(self, meta: BlockMeta, maker: RequestId) -> Block:
        """A running request's frame has become a block; the request pins it."""
        block = self.index.add(meta)
        block.maker = maker
        self.ghosts.forget(meta.units)
        self._set_device(block, True)
        self.pin(block)
        self.eviction.block_used(block, DEVICE)
        return block

    def load(self, block: Block) -> None:
        """Bring a block from host memory onto the device; the caller has taken the frame."""
        self.actions.append(Move(block.meta, HOST, DEVICE))
        if block.read_unused:
            block.read_unused = False
            self.useful_read_bytes += block.meta.size_bytes
        self._set_device(block, True)
        self.eviction.block_used(block, DEVICE)

    def pin(self, block: Block) -> None:
        block.pins += 1
        self.pinned += block.pins == 1

    def unpin(self, block: Block) -> None:
        block.pins -= 1
        self.pinned -= block.pins == 0

    def pin_all(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self.pin(block)

    def unpin_all(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self.unpin(block)

    def claim(self, blocks: Iterable[Block]) -> None:
        """The copies of these blocks below the device stay until they are released."""
        for block in blocks:
            block.claims += 1

    def release(self, blocks: Iterable[Block]) -> None:
        """Undo one ``claim``."""
        for block in blocks:
            block.claims -= 1
            if not block.claims and block.host:
                self.eviction.block_freed(block)

    def _set_device(self, block: Block, present: bool) -> None:
        if block.host:
            self.recount(block, -1)
        if self.states.limited:
            self.states.placed(block, present)
        block.device = present
        if block.host:
            self.recount(block, 1)
        step = 1 if present else -1
        self.device_count += step
        if self.depths.most:
            self.depths.count(block.meta.depth, step)
        parent = self.index.blocks.get(block.meta.parent) if block.meta.parent else None
        if parent is not None:
            parent.device_children += step

    def lost_on_device(self, block: Block) -> None:
        """The engine does not hold this block after all (its load failed)."""
        self.eviction.block_left(block, DEVICE)
        self._set_device(block, False)
        self.device_used -= 1
        self.stranded += block.claims > 0 and not block.host
        self.remove_if_nowhere(block)

    # --- use ----------------------------------------------------------------------------------

    def touch(self, path: Sequence[Block]) -> None:
        """A path (root first) has been used."""
        for block in path:
            block.last_use_us = self.now_us
        self.eviction.path_used(path)

    # --- host ---------------------------------------------------------------------------------

    def _room_on_host(self, newcomer: Block, *, patient: bool = False, for_nothing: bool = False) -> bool:
        """Make room for a block. ``patient``: see ``step_down``; ``for_nothing``: only what is spare goes."""
        if newcomer.meta.size_bytes > self.config.host_bytes:
            return False
        eviction = self.eviction
        if not eviction.lossless:
            return self.make_room_on_host(newcomer, lambda victim: eviction.gives_way(victim, newcomer, HOST))
        if self.make_room_on_host(newcomer, eviction.is_spare):
            return True
        if for_nothing:
            return False
        if patient:
            self.descent.write_cold(reach_bytes=self.config.host_bytes)
            if self.descent.worth_waiting():
                return False
        return self.make_room_on_host(newcomer, lambda victim: eviction.gives_way(victim, newcomer, HOST))

    def make_room_on_host(self, newcomer: Block, leaves: Callable[[Block], bool]) -> bool:
        """Evict what it takes, or nothing at all: a block that left in vain would be written or read again,
        and might leave in vain again."""
        missing = self.host_used + newcomer.meta.size_bytes - self.config.host_bytes
        leaving: dict[BlockId, Block] = {}
        while missing > 0:
            victim = self._host_victim(leaving)
            if victim is None or not leaves(victim):
                return False
            leaving[victim.id] = victim
            missing -= victim.meta.size_bytes
        for victim in leaving.values():
            self.evict_from_host(victim, newcomer.maker)
        return True

    def _host_victim(self, leaving: Mapping[BlockId, Block]) -> Block | None:
        """The next block to leave the host beside those that do."""
        idle, clean = self.idle(HOST), iter(self._clean)
        if not leaving:
            spare = self.eviction.spare_on_host()
            return self.eviction.host_victim(idle, clean) if spare is None else spare
        return self.eviction.host_victim(
            filter(lambda b: b.id not in leaving, idle), filter(lambda b: b.id not in leaving, clean)
        )

    def idle(self, tier: KvTier) -> Iterator[Block]:
        """Blocks of a KV tier that may leave it, the first to go first."""
        for block in self.eviction.victim_blocks(tier, self.index.blocks):
            if not (block.claims or block.moving or (tier is DISK and block.elsewhere)):
                yield block

    def evict_from_host(self, block: Block, beneficiary: RequestId = 0) -> None:
        """Drop the host copy; what lies nowhere else is gone."""
        if not block.device:
            self.evictions["host_disk" if block.disk else "host_gone"] += 1
            if not block.disk:
                self.descent.lost(block)
        self.drop(block, HOST, beneficiary)

    def may_write(self, block: Block) -> bool:
        """Whether the budget of writes has room for the block."""
        return self._budget.allows(block.meta.size_bytes, self.now_us)

    def start_write(self, block: Block, *, ahead: bool = False) -> bool:
        """Queue host -> disk; False when the disk holds nothing but warmer blocks. ``ahead`` of need no
        record that an agent may want makes room for it."""
        size_bytes = block.meta.size_bytes
        if not self.may_write(block) or not self._room_on_disk(block, ahead=ahead):
            return False
        self._budget.spend(size_bytes)
        self.written_bytes += size_bytes
        self.disk_used += self.config.disk_size_of(block.meta.size_bytes)
        block.moving = DISK
        self.writes_in_flight += 1
        self.actions.append(Move(block.meta, HOST, DISK))
        return True

    def start_read(self, block: Block) -> bool:
        """Queue disk -> host; False when the host has no room or enough reads are under way."""
        if self.reads_in_flight >= self.config.disk_reads_in_flight:
            return False
        if not self._room_on_host(block, patient=True):
            return False
        self.host_used += block.meta.size_bytes
        self.reading_bytes += block.meta.size_bytes
        self.reads_in_flight += 1
        block.moving = HOST
        self.actions.append(Move(block.meta, DISK, HOST))
        return True

    # --- disk ---------------------------------------------------------------------------------

    def _room_on_disk(self, newcomer: Block, *, ahead: bool) -> bool:
        """As on the host: all that it takes leaves, or nothing."""
        needed, limit = self.config.disk_size_of(newcomer.meta.size_bytes), self.config.disk_bytes
        if needed > limit:
            return False
        missing = self.disk_used + needed - limit
        leaving: list[Block] = []
        order = self.descent.disk_victims(newcomer, ahead=ahead)
        while missing > 0:
            victim = next(order, None)
            if victim is None:
                return False
            leaving.append(victim)
            missing -= self.config.disk_size_of(victim.meta.size_bytes)
        for victim in leaving:
            self.evict_from_disk(victim, newcomer.maker)
        return True

    def evict_from_disk(self, block: Block, beneficiary: RequestId = 0) -> None:
        """Drop the record; what lies nowhere else is gone."""
        if not block.device and not block.host:
            self.evictions["disk_gone"] += 1
            self.descent.lost(block)
        self.drop(block, DISK, beneficiary)

    def recovered(self, metas: Iterable[BlockMeta]) -> None:
        """Blocks found on disk at start. Deeper ones count as colder."""
        blocks = [self.index.add(meta) for meta in metas]
        for block in sorted(blocks, key=lambda b: (-b.meta.depth, b.id)):
            if not block.disk:
                self.arrive(block, DISK)

    def moved(self, event: Moved) -> None:
        """A transfer has ended: correct the book where it went wrong."""
        transfer_ended(self, event)

    # --- bookkeeping --------------------------------------------------------------------------

    def arrive(self, block: Block, tier: KvTier) -> None:
        self.recount(block, -1)
        block.set_on(tier, True)
        self.recount(block, 1)
        if tier is HOST:
            self.descent.arrivals_unseen += 1
            self.host_used += block.meta.size_bytes
        else:
            self.disk_used += self.elsewhere.room_of(block)
        self.eviction.block_used(block, tier)

    def drop(self, block: Block, tier: KvTier, beneficiary: RequestId = 0) -> None:
        """Forget one copy."""
        self.actions.append(Drop(block.id, tier, self.beneficiary or beneficiary))
        self.eviction.block_left(block, tier)
        if tier is DEVICE:
            self._set_device(block, False)
            self.device_used -= 1
        elif tier is HOST:
            self.recount(block, -1)
            block.host = False
            self.host_used -= block.meta.size_bytes
        else:
            self.recount(block, -1)
            block.disk = False
            self.recount(block, 1)
            self.disk_used -= self.elsewhere.room_of(block)
            self.elsewhere.left(block)
        if block.bare:
            self.states.copy_went(block)
        if not (block.host or block.device):
            self.stranded += block.claims > 0
            if not block.disk:
                self.remove_if_nowhere(block)

    def set_bare(self, block: Block, bare: bool) -> None:
        """Whether its copy on the device is without its running state."""
        self.recount(block, -1)
        block.bare = bare
        self.recount(block, 1)

    def copy_to_host(self, block: Block) -> bool:
        """A copy below the device, whose own stays; False when it is not worth it or there is no room."""
        eviction = self.eviction
        if not eviction.wants_host(block) or eviction.is_dead(block) or not self._room_on_host(block):
            return False
        self.actions.append(Move(block.meta, DEVICE, HOST))
        self.arrive(block, HOST)
        return True

    def recount(self, block: Block, step: int) -> None:
        """Count a block among those with a copy elsewhere (1), or no more (-1), if it is one as it stands."""
        if block.host and ((block.device and not block.bare) or block.disk):
            self.count_clean(block, step)

    def count_clean(self, block: Block, step: int) -> None:
        """``recount`` of a block that is known to be one."""
        self.clean_bytes += step * block.meta.size_bytes
        if step > 0:
            self._clean[block] = None
        else:
            del self._clean[block]

    def forget(self, block: Block) -> None:
        """Drop every copy: a longer block has taken this one's place."""
        if block.pins or block.claims or block.moving or block.device_children:
            return
        for tier in KvTier:
            if block.is_on(tier):
                self.drop(block, tier)

    def drop_device_copy(self, block: Block) -> bool:
        """Free the device copy of a block that is about to be sealed again; False if it must stay."""
        if block.pins or block.device_children:
            return False
        block.pins += 1  # it stays the same node in the index: a turn that waits for it still holds it
        self.drop(block, DEVICE)
        block.pins -= 1
        return True

    def remove_if_nowhere(self, block: Block) -> None:
        """Forget a block that no KV tier holds and nothing uses or moves."""
        if block.nowhere and not block.pins and self.index.get(block.id) is block:
            self.index.remove(block.id)
            self.ghosts.add(block.meta.units)
