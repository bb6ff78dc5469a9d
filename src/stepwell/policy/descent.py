"""The way down: how room is made without losing what an agent may want.

A block is lost only when nothing else can go: before it go dead blocks and spare copies, and cold blocks of
the host are written to disk as long as that has room, which includes the room of dead and spare records.
Writes take time, so turns that need room wait for them; it never waits when nothing is being written. Losses
that could have been spared are counted (``needless``), and should be none.

Eviction policies that stand for other servers (``lossless`` is false) lose what those would lose.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from stepwell.policy.block_index import Block
from stepwell.policy.runs import sink_run
from stepwell.policy.types import DEVICE, DISK, HOST, RequestId

if TYPE_CHECKING:
    from stepwell.policy.block_manager import BlockManager

_NEEDED: Final = 64
"""So many writes that a turn waits for are under way at a time: as many as the disk does in a step, because
room is made between steps only. Those ahead of need are ``disk_writes_in_flight``, a few."""
_MOST_STALL_US: Final = 50_000
"""For so long a running turn waits for writes before something is lost for its next frame."""
_MOST_PATIENCE_US: Final = 1_000_000
"""For so long turns wait for writes without any of them being opened."""


class Descent:
    """Room on the device, and writes from host to disk. ``memory``: the block manager, whose book it is."""

    def __init__(self, memory: BlockManager) -> None:
        self.memory = memory
        self.config = memory.config
        self.wanted_losses = 0
        """Blocks that left every KV tier though an agent might have wanted them."""
        self.needless_losses = 0
        """Of these: those that went while a dead block, a spare copy or room on disk was there instead."""
        self.stalls_until_us: int | None = None
        """Until then running turns wait for room; None: none does."""
        self._stalled = self._in_a_hurry = False
        self._refused_since_us: dict[RequestId, int] = {}
        """Since when each turn waits for writes, while none is opened. 0: those that run."""
        self.arrivals_unseen = 0
        """Blocks that came to the host since the coldest ones were last found to need no write."""

    # --- room on the device -------------------------------------------------------------------

    def can_make_room(self, frames: int, taker: str = "") -> bool:
        """Whether ``frames`` frames can be freed without losing a block that the disk could keep.

        False means: writes are under way that will make it true, and waiting for them (about a
        millisecond a block) is far cheaper than computing what would be lost.
        """
        if self.memory.eviction.lossless:
            return self._step_down(frames, taker)
        memory = self.memory
        frames -= self.config.device_blocks - memory.device_used
        free = self.config.host_bytes - memory.host_used
        if frames * self.config.block_bytes <= free + memory.clean_bytes:
            return True
        need = self._homeless_bytes(frames, taker)
        if need <= free + memory.clean_bytes or not self.config.disk_bytes or self._writing_loses(need):
            return True
        self.write_cold(reach_bytes=self.config.host_bytes)
        return not memory.writes_in_flight

    def may_grow(self, frames: int, taker: str) -> bool:
        """Whether a running turn gets its next frames now. It waits for writes as ``can_make_room`` has it,
        but not for long: a person may be reading along."""
        now_us = self.memory.now_us
        if not self.memory.eviction.lossless or self.can_make_room(frames, taker):
            return True
        if self.stalls_until_us is None:
            self.stalls_until_us = now_us + _MOST_STALL_US
        if now_us >= self.stalls_until_us:
            self._in_a_hurry = True
            return True
        self._stalled = True
        return False

    def batch_built(self) -> None:
        """Every running turn has been asked for in this step: if none of them waits, none does."""
        if not self._stalled:
            self.stalls_until_us = None
            self._refused_since_us.pop(0, None)
        self._stalled = self._in_a_hurry = False

    def _step_down(self, frames: int, taker: str) -> bool:
        """Free the frames as far as nothing is lost by it; False when it is worth waiting for the rest."""
        memory = self.memory
        while (missing := frames - (self.config.device_blocks - memory.device_used)) > 0:
            victims = memory.device_victims(missing, taker)
            if not victims:
                return True
            at = 0
            while at < len(victims):
                down = sink_run(memory, victims, at)
                at += down
                if down:
                    continue
                victim = victims[at]
                if not victim.host and not memory.eviction.wants_host(victim):
                    return (
                        True  # sooner computed than copied: it goes when its frame is taken, and not before
                    )
                if not memory.step_down(victim, patient=True):
                    return not self.worth_waiting()
                at += 1
        return True

    def worth_waiting(self) -> bool:
        """Whether a turn that waits should go on waiting for the writes under way. Patience has an end: when
        no turn has been opened for a while, room is made without it."""
        now_us = self.memory.now_us
        if not self.memory.writes_in_flight:
            return False
        self._refused_since_us.setdefault(self.memory.beneficiary, now_us)
        if now_us < min(self._refused_since_us.values()) + _MOST_PATIENCE_US:
            return True
        self._in_a_hurry = True
        return False

    def opened(self) -> None:
        """A turn has been opened: turns that wait may be patient again."""
        self._refused_since_us.clear()

    def gone(self, request: RequestId) -> None:
        """A turn waits no more, unopened. It takes its impatience with it: else the next turn that has to
        wait would find all patience spent, and something would be lost for it at once."""
        self._refused_since_us.pop(request, None)

    def _writing_loses(self, size_bytes: int) -> bool:
        """Whether writing that much takes longer than computing it again would."""
        tokens = size_bytes // self.config.token_bytes
        costs = self.memory.costs
        return costs.move_us(HOST, DISK, size_bytes) >= costs.compute_us(0, tokens)

    def _homeless_bytes(self, frames: int, taker: str) -> int:
        """Bytes of the next ``frames`` device victims that no lower KV tier holds; at most a host full."""
        total = 0
        for block in self.memory.eviction.victim_blocks(DEVICE, self.memory.index.blocks, taker):
            if frames <= 0 or total >= self.config.host_bytes // 2:
                break
            if not block.pins:
                frames -= 1
                total += 0 if block.host or block.disk else block.meta.size_bytes
        return min(total, self.config.host_bytes // 2)

    # --- writes -------------------------------------------------------------------------------

    def write_behind(self) -> None:
        """Write the colder part of the host pool to disk ahead of need, once as much of it is full.

        Whatever needs room then finds clean copies to drop and rarely waits for the disk.
        """
        memory = self.memory
        news = self.arrivals_unseen >= self.config.disk_writes_in_flight
        part_bytes = self.config.host_bytes // memory.eviction.tuning.write_behind_above
        if news and memory.host_used > part_bytes:
            self.write_cold(reach_bytes=part_bytes, ahead=True)

    def write_cold(self, reach_bytes: int, *, ahead: bool = False) -> None:
        """Start writing the coldest ``reach_bytes`` of the host. ``ahead`` of need nothing is lost for it."""
        memory = self.memory
        most = self.config.disk_writes_in_flight
        if memory.eviction.lossless and not ahead:
            most = max(most, _NEEDED)
        wanted = most - memory.writes_in_flight
        if wanted <= 0 or memory.now_us < memory.writes_paused_until_us or not self.config.disk_bytes:
            return
        refused = started = 0
        tuning = memory.eviction.tuning
        if memory.eviction.only_copies(tuning.write_search, reach_bytes):
            self.arrivals_unseen = 0
            return
        for looked_at, block in enumerate(memory.idle(HOST)):
            reach_bytes -= block.meta.size_bytes
            enough = started >= wanted or refused >= tuning.write_refusals
            if enough or reach_bytes < 0 or looked_at >= tuning.write_search:
                break
            if not block.disk and (block.bare or not block.device) and memory.eviction.wants_disk(block):
                done = memory.start_write(block, ahead=ahead)
                started, refused = started + done, refused + (not done)
        if not started:
            self.arrivals_unseen = 0

    def disk_victims(self, newcomer: Block, *, ahead: bool) -> Iterator[Block]:
        """Records that leave for a newcomer, one after the other: dead and spare ones first.

        Spare is a record whose block is on the device. One whose block is on the host is not: its copy there
        would have to be written anew, and two blocks could take each other's record for ever.
        """
        memory = self.memory
        order = memory.idle(DISK)
        if not memory.eviction.lossless:
            for victim in order:
                if not memory.eviction.gives_way(victim, newcomer, DISK):
                    return
                yield victim
            return
        kept: list[Block] = []
        for victim in islice(order, memory.eviction.tuning.clean_search):
            if memory.eviction.is_dead(victim) or (not ahead and victim.device and not victim.bare):
                yield victim
            elif ahead:
                return  # dead ones come first in the order
            else:
                kept.append(victim)
        for victim in kept:
            if not memory.eviction.gives_way(victim, newcomer, DISK):
                return
            yield victim

    # --- losses -------------------------------------------------------------------------------

    def lost(self, block: Block) -> None:
        """The last copy of a block goes to make room: count it."""
        memory = self.memory
        eviction = memory.eviction
        if not eviction.lossless or eviction.is_dead(block) or not eviction.wants_host(block):
            return
        self.wanted_losses += 1
        if not self._in_a_hurry and self._could_be_kept(block):
            self.needless_losses += 1

    def _could_be_kept(self, block: Block) -> bool:
        """Whether something else that is as large could go, as far as is looked for it."""
        memory, config, is_dead = self.memory, self.config, self.memory.eviction.is_dead
        order = memory.idle(DISK if block.disk else HOST)
        others = [b for b in islice(order, memory.eviction.tuning.clean_search) if b is not block]
        if block.disk:
            records = [
                config.disk_size_of(b.meta.size_bytes)
                for b in others
                if is_dead(b) or (b.device and not b.bare)
            ]
            return sum(records) >= config.disk_size_of(block.meta.size_bytes)
        room_bytes = 0 if block.host else config.host_bytes - memory.host_used
        room_bytes += sum([b.meta.size_bytes for b in others if b.disk or is_dead(b)])
        return room_bytes >= block.meta.size_bytes or (block.host and self._fits_on_disk(block))

    def _fits_on_disk(self, block: Block) -> bool:
        """Whether the disk would take the block without losing another."""
        memory = self.memory
        if memory.now_us < memory.writes_paused_until_us or not self.config.disk_bytes:
            return False
        if not memory.eviction.wants_disk(block) or not memory.may_write(block):
            return False
        missing = memory.disk_used + self.config.disk_size_of(block.meta.size_bytes) - self.config.disk_bytes
        search = memory.eviction.tuning.clean_search
        records = filter(lambda b: b is not block, islice(memory.idle(DISK), search))
        for record in records if missing > 0 else ():
            if (record.device and not record.bare) or memory.eviction.is_dead(record):
                missing -= self.config.disk_size_of(record.meta.size_bytes)
        return missing <= 0
