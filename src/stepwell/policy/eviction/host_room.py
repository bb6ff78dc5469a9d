"""Which block leaves the host first, found without a search where it is plain.

A turn that is opened sends hundreds of blocks of one agent down, and for each of them one leaves the host. As
a rule these are copies of what the device holds, so both go as *runs*: consecutive blocks of one agent, and
the copies that stand next, with one look at the rankings for all of them. What is decided is what the search
of ``NextUse.victims`` decides block by block; where that is not certain, nothing is said here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.agent_groups import Group, first_at_rest, is_old, needed_more
from stepwell.policy.eviction.base import EvictionPolicy
from stepwell.policy.eviction.copies import Copies
from stepwell.policy.eviction.orphans import Orphans
from stepwell.policy.eviction.quotas import Quotas
from stepwell.policy.eviction.timers import Timers
from stepwell.policy.eviction.value import DEAD
from stepwell.policy.types import KvTier

_ON_HOST: Final = 0b10
_ON_BOTH: Final = 0b11


class HostRoom:
    """See the module. It reads the books of ``NextUse``; ``better``: blocks that are to be listed anew."""

    def __init__(
        self,
        policy: EvictionPolicy,
        quotas: Quotas,
        orphans: Orphans,
        copies: Copies,
        timers: Timers,
        better: Sequence[Any],
    ) -> None:
        self._context, self._tuning = policy.context, policy.tuning
        self._quotas, self._orphans, self._copies = quotas, orphans, copies
        self._timers, self._better = timers, better

    def _is_plain(self) -> bool:
        """Whether no value has to be looked at again first, and nothing dead lies on the host."""
        now_us = self._context.now_us
        if self._better or self._orphans.any_dead(1):
            return False
        for ranking in self._quotas.all_rankings(1):
            head = ranking.entries[0] if ranking.entries else None
            if ranking.looked_us != now_us:
                if head is not None and is_old(head[2], now_us, self._tuning):
                    return False
                ranking.looked_us = now_us
            if head is not None and head[0] == DEAD:
                return False
        return True

    def first(self) -> Block | None:
        """The first block to leave, if it is a copy of what the device or the disk holds as well."""
        if not self._is_plain():
            return None
        copy = self._copies.first()
        if copy is not None:
            return None if copy.bare else copy
        group = first_at_rest(self._quotas.over(1))
        if group is None:
            return None
        block = self._nobodys_goes_before(group)
        if block is None:
            return next(self._spare_of(group), None)
        return None if not block.disk or block.claims or block.moving is not None else block

    def only_copies(self, most: int, most_bytes: int) -> bool:
        """Whether the first ``most`` blocks to leave, or the first ``most_bytes``, are copies of what the
        device holds whole."""
        if not self._is_plain():
            return False
        for copy in self._copies.free():
            if copy.claims or copy.moving is not None:
                continue
            if copy.bare:
                return False
            most -= 1
            most_bytes -= copy.meta.size_bytes
            if most < 0 or most_bytes < 0:
                return True
        return False

    def _nobodys_goes_before(self, group: Group) -> Block | None:
        """The block that no agent holds and that leaves before those of the group; None: there is none."""
        if not self._orphans.any_alive(1):
            return None
        standing = (group.keys[1] or 0) * group.rankings[1].weight
        key, block = next(self._orphans.ranked(self._context, 1), (standing + 1, None))
        return block if key <= standing else None

    def _spare_of(self, group: Group) -> Iterator[Block]:
        """The blocks of the group at the head that the disk holds, in the order in which they leave: those
        on the host alone are passed over, as far as a search looks. It ends where it is not plain."""
        passed_over = 0
        for block in group.spare(KvTier.HOST):
            if block.claims or block.moving is not None or block.ranked & _ON_BOTH == _ON_BOTH:
                continue
            if len(block.holders) > 1 and needed_more(self._context, block, group, 1) is not None:
                return
            if block.disk:
                yield block
            else:
                passed_over += 1
                if passed_over > self._tuning.clean_search:
                    return

    def spare_for(self, leaving: Sequence[Block], start: int) -> list[Block | None]:
        """For the blocks ``leaving[start:]`` that leave the device, as far as they are one run: the spare
        ones that leave the full host, and None for one that the host has already."""
        group = leaving[start].listed
        if not isinstance(group, Group) or group.keys[1] is None or not self._is_plain():
            return []
        size_bytes = self._context.config.block_bytes
        found: list[Block | None] = []
        left: dict[int, int] = {}
        order = self._spare_but_of(group)
        depth = leaving[start].meta.depth + 1
        for at in range(start, len(leaving)):
            block = leaving[at]
            meta = block.meta
            if (
                block.listed is not group
                or len(block.holders) != 1
                or block.moving is not None
                or block.bare
                or meta.depth >= depth
                or meta.size_bytes != size_bytes
            ):
                break
            spare: Block | None = None
            if not block.host:
                spare = next(order, None)
                if spare is None or not self._may_leave(spare, left):
                    break
            found.append(spare)
            depth = meta.depth
        return found

    def _may_leave(self, spare: Block, left: dict[int, int]) -> bool:
        """Whether the rankings stay as they are when it leaves the host: its group has others there.
        ``left``: how many of each group are left, by its number (compiled, a group has no hash)."""
        if spare.bare or spare.meta.size_bytes != self._context.config.block_bytes:
            return False
        holder = spare.listed
        if holder is None:
            return True
        if not isinstance(holder, Group):
            return False
        others = left[holder.seq] = left.get(holder.seq, holder.listed[1]) - 1
        return others > 0

    def _spare_but_of(self, comer: Group) -> Iterator[Block]:
        """Blocks of the host in the order in which they leave while the ``comer``'s arrive, as far as they
        are spare and none is its own: copies; where there are none, blocks of the group at the head."""
        copies = False
        for copy in self._copies.free():
            if copy.listed is comer:
                return
            if not copy.claims and copy.moving is None:
                copies = True
                yield copy
        if copies:
            return  # what its service tier holds has changed: look once more
        group = first_at_rest(self._quotas.over(1))
        if group is None or group is comer or self._nobodys_goes_before(group) is not None:
            return
        count = self._quotas.beyond_guarantee(1, group.service_tier)
        if not self._quotas.beyond_guarantee(1, comer.service_tier):
            return  # with what comes its service tier is one of those that give room
        yield from islice(self._spare_of(group), max(0, count - 1))

    def went_down(self, leaving: Sequence[Block], spare: Sequence[Block | None]) -> None:
        """Each of ``leaving``, blocks of one agent, has gone from the device to the host, and before it its
        spare one has left that."""
        group: Group = leaving[0].listed
        listed, came = group.listed, 0
        loser: Group | None = None  # of spare ones, which as a rule are runs as well
        lost = 0
        for block, gone in zip(leaving, spare, strict=True):
            if gone is None:
                self._copies.discard(block)
            else:
                came += 1
                gone.ranked &= ~_ON_HOST
                self._copies.discard(gone)
                if gone.listed is not loser:
                    self._left_host(loser, lost)
                    loser, lost = gone.listed, 0
                lost += 1
                listed[1] += 1
                if block.meta.depth > group.top[1]:
                    group.top[1] = block.meta.depth
                if group.timer_us is not None and group.timer_us != group.wake_us:
                    self._timers.sank(group)
            block.ranked = block.ranked & ~_ON_BOTH | _ON_HOST
            listed[0] -= 1
        self._left_host(loser, lost)
        self._count(group, 1, came)
        self._count(group, 0, -len(leaving))

    def came_up(self, blocks: Sequence[Block], start: int) -> int:
        """``blocks[start:]`` have come to the device from the host, as far as they are listed under one group
        that has others there. How many that are."""
        group = blocks[start].listed
        if not isinstance(group, Group) or group.keys[0] is None:
            return 0
        count, deepest = 0, group.top[0]
        for at in range(start, len(blocks)):
            block = blocks[at]
            if block.listed is not group or block.ranked & _ON_BOTH != _ON_HOST:
                break
            block.ranked |= _ON_BOTH
            self._copies.add(block)
            count += 1
            if block.meta.depth > deepest:
                deepest = block.meta.depth
        group.top[0] = deepest
        group.listed[0] += count
        self._count(group, 0, count)
        return count

    def _count(self, group: Group, at: int, step: int) -> None:
        """So many of its blocks have come to KV tier number ``at``, or left it."""
        ranking = group.rankings[at]
        ranking.blocks += step
        if group.idle is not None:
            ranking.idle_blocks += step
        self._quotas.count(group.held[at], group.record.tenant, step)

    def _left_host(self, holder: Group | None, count: int) -> None:
        """So many blocks of a group have, and none was its last one there; None: blocks of no group."""
        if holder is not None and count:
            self._count(holder, 1, -count)
            holder.listed[1] -= count
            if holder.timer_us is not None and holder.timer_us != holder.wake_us:
                self._timers.sank(holder)
