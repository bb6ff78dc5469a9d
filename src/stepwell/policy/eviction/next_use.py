"""Stepwell's own eviction policy: the books behind the formula of ``value.py``.

Agents are ranked, not blocks. An agent's value falls as its idle period goes on, so it is ranked anew
whenever that period outlasts a bin of what was learned, and the few agents that come up as victims are
looked at again first. A declared end makes a value rise, and a timer wakes the scheduler for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Final

from stepwell.policy.block_index import Block, in_common
from stepwell.policy.eviction.agent_groups import (
    AT,
    Group,
    Ranked,
    Ranking,
    is_nameless,
    is_old,
    join,
    merged,
    needed_more,
    quit_holding,
)
from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy
from stepwell.policy.eviction.copies import Copies
from stepwell.policy.eviction.falling import cost_below, saved_by_write
from stepwell.policy.eviction.forecast import Forecaster, IdlePeriod, Left, beginning_of, has_answered
from stepwell.policy.eviction.heirs import Heirs
from stepwell.policy.eviction.host_room import HostRoom
from stepwell.policy.eviction.kin import Kin
from stepwell.policy.eviction.orphans import KV_TIERS, Orphans, kind_of
from stepwell.policy.eviction.promotion import most_valuable_on_disk
from stepwell.policy.eviction.quotas import Quotas
from stepwell.policy.eviction.timers import Timers
from stepwell.policy.eviction.value import ACTIVE, CERTAIN, DEAD, agent_value, eviction_key, pays_for_write
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import HOST, BlockId, KvTier, Wait

_TWICE: Final = 0b11  # ranked on the device and on the host


class NextUse(EvictionPolicy):
    """See the module. ``EvictionPolicy`` has the contract of each method."""

    lossless = True

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self.forecaster = Forecaster()
        self.quotas = Quotas(context.config)
        self._groups: dict[AgentRecord, Group] = {}
        self._orphans = Orphans(self.forecaster, self.tuning.write_chance)
        self._timers = Timers(self.tuning)
        self._followers = Kin(context.config.max_agents)
        self._children = Kin(context.config.max_agents)
        self._heirs = Heirs(context.config.max_agents)
        self._better: list[tuple[Block, Group]] = []
        self._copies = Copies()
        self._host_room = HostRoom(self, self.quotas, self._orphans, self._copies, self._timers, self._better)
        self._seq = 0

    # --- blocks come and go -------------------------------------------------------------------

    def block_used(self, block: Block, kv_tier: KvTier) -> None:
        at = AT[kv_tier]
        if block.ranked >> at & 1:
            return
        block.ranked |= 1 << at
        if block.ranked & _TWICE == _TWICE:
            self._copies.add(block)
        if block.listed is None and not block.pins:
            block.listed = self._orphans  # from disk at start; what a turn seals finds its group later
        if block.listed is self._orphans:
            self._orphans.came(block, at)
        elif block.listed is not None:
            self._count(block, block.listed, at, 1)

    def path_used(self, path: Sequence[Block]) -> None:
        """Only for blocks that no agent holds: they are ranked by recency, leaves before the root."""
        for block in reversed(path):
            block.uses += 1
            if block.listed is self._orphans:
                self._orphans.used(block, self.now_us)

    def block_left(self, block: Block, kv_tier: KvTier) -> None:
        at = AT[kv_tier]
        if not block.ranked >> at & 1:
            return
        block.ranked &= ~(1 << at)
        if at < 2:
            self._copies.discard(block)
        if block.listed is self._orphans:
            self._orphans.block_left(block, at)
        elif block.listed is not None:
            self._count(block, block.listed, at, -1)

    def block_freed(self, block: Block) -> None:
        self._copies.freed(block)

    def _count(self, block: Block, group: Group, at: int, step: int) -> None:
        """A listed block has come to (+1) or left (-1) KV tier number ``at``."""
        ranking = group.rankings[at]
        ranking.blocks += step
        if group.idle is not None:
            ranking.idle_blocks += step
        self.quotas.count(group.held[at], group.record.tenant, step)
        group.listed[at] += step
        if step > 0:
            if block.meta.depth > group.top[at]:
                group.top[at] = block.meta.depth
            if group.keys[at] is None:
                self._rank(group, at)
        elif not group.listed[at]:
            self._unrank(group, at)
        if at and group.timer_us is not None and group.timer_us != group.wake_us:
            self._timers.sank(group)

    def _list(self, block: Block, group: Group) -> None:
        block.listed = group
        for at in range(len(KV_TIERS)):
            if block.ranked >> at & 1:
                self._count(block, group, at, 1)

    def _unlist(self, block: Block) -> None:
        group, block.listed = block.listed, None
        if group is self._orphans:
            self._orphans.drop(block)
        elif group is not None:
            for at in range(len(KV_TIERS)):
                if block.ranked >> at & 1:
                    self._count(block, group, at, -1)

    def _give_up(self, group: Group, gone: Sequence[Block], kind: Left | None, at_us: int) -> None:
        """The group no longer holds ``gone`` (root first). ``kind`` of departure; None: left to strangers."""
        orphaned = []
        for block in gone:
            quit_holding(block, group)
            if block.listed is not group:
                continue
            self._unlist(block)
            if block.holders:
                self._list(block, max(block.holders, key=attrgetter("value")))
            elif block.ranked:
                block.listed = self._orphans
                orphaned.append(block)
        if orphaned and kind is not None:
            self._orphans.leave(orphaned, group.record.tenant, kind, at_us)
        else:
            for block in orphaned:
                self._orphans.add(block)

    # --- agents -------------------------------------------------------------------------------

    def agent_continued(self, holder: AgentRecord, path: Sequence[Block]) -> None:
        group, now_us = self._group_of(holder), self.now_us
        same = in_common(group.path, path)
        group.first = group.first or len(path)
        gone, group.path = group.path[same:], path
        if gone:
            self._give_up(group, gone, kind_of(gone, same), now_us)
        for block in path[same:]:
            self._orphans.returned(block.id, now_us)
            if holder.unknown and block.uses > 2 * holder.turns + 1:
                self._leave_to_nobody(block)  # prompts of strangers begin with it
                continue
            join(block, group)
            if block.listed is None or block.listed is self._orphans:
                self._unlist(block)
                self._list(block, group)
        for left in self._heirs.went_on(group):
            self._revalue(left)

    def _leave_to_nobody(self, block: Block) -> None:
        """Prompts of several conversations without a name begin with it: it is none of theirs any more."""
        if block.listed is None or (block.listed is not self._orphans and is_nameless(block)):
            self._unlist(block)
            block.holders, block.listed = (), self._orphans
            self._orphans.add(block)

    def agent_active(self, holder: AgentRecord) -> None:
        group = self._group_of(holder)
        if group.idle is not None:
            self.forecaster.end(group.idle, self.now_us)
        self._leave_children(holder)
        self._set_idle(group, None)
        self._move_to(group, holder.service_tier)

    def agent_idle(self, holder: AgentRecord) -> None:
        group, now_us = self._group_of(holder), self.now_us
        began_us = now_us if holder.idle_since_us is None else holder.idle_since_us
        self._set_idle(group, self.forecaster.begin(holder, began_us))
        self._leave_beginning(group)
        if holder.hint.after_agent and holder.hint.wait in (Wait.AGENT, Wait.CHILD):
            self._followers.add(holder.tenant, holder.hint.after_agent, group)
        if holder.parent_agent and not has_answered(holder):
            self._children.add(holder.tenant, holder.parent_agent, group)
        if holder.hint.wait in (Wait.TOOL, Wait.CHILD):
            return  # it has not answered yet
        for follower in self._followers.take(holder.tenant, holder.agent):
            if follower.idle is not None and follower is not group:
                self._set_idle(follower, self.forecaster.begin(follower.record, now_us, called=True))

    def _leave_children(self, parent: AgentRecord) -> None:
        """Its agent goes on: those of its children whose wait has no declared reason are probably
        finished. (One that waits for a tool goes on by itself; one that has answered was finished before.)"""
        for child in self._children.take(parent.tenant, parent.agent):
            settled = child.record.hint.wait in (Wait.TOOL, Wait.CHILD) or has_answered(child.record)
            if child.idle is not None and not settled:
                self._set_idle(child, self.forecaster.begin(child.record, self.now_us, left=True))

    def _leave_beginning(self, group: Group) -> None:
        """Of an agent that said it is done: others of its kind may begin as it did, if that has room."""
        if group.value == DEAD and group.record.hint.wait is Wait.DONE and self._disk_is_roomy():
            path, group.path = group.path, ()
            self._give_up(group, path[group.first :], Left.DONE, self.now_us)
            self._give_up(group, path[: group.first], beginning_of(group.record), self.now_us)

    def agent_forgotten(self, holder: AgentRecord) -> None:
        group = self._groups.pop(holder, None)
        if group is None:
            return
        group.timer_us = None
        done = group.chance < self.tuning.write_chance
        self._give_up(group, group.path, Left.DONE if done else None, group.keyed_at_us)
        group.idle = None  # what still looks to it finds it empty

    def _group_of(self, holder: AgentRecord) -> Group:
        group = self._groups.get(holder)
        if group is None:
            self._seq += 1
            rankings, held = self.quotas.of(holder.service_tier)
            group = Group(holder, self._seq, holder.service_tier, rankings, held, value=ACTIVE)
            self._groups[holder] = group
        return group

    def _move_to(self, group: Group, service_tier: str) -> None:
        """The agent's turns come under another service tier now."""
        if service_tier == group.service_tier:
            return
        mine = [block for block in group.path if block.listed is group]
        for block in mine:
            self._unlist(block)
        group.service_tier = service_tier
        group.rankings, group.held = self.quotas.of(service_tier)
        for block in mine:
            self._list(block, group)

    def _set_idle(self, group: Group, idle: IdlePeriod | None) -> None:
        step = (idle is not None) - (group.idle is not None)
        for at, count in enumerate(group.listed):
            group.rankings[at].idle_blocks += step * count
        group.idle = idle
        self._revalue(group)
        group.timer_us = None
        self._set_timer(group)

    # --- ranking ------------------------------------------------------------------------------

    def _revalue(self, group: Group) -> None:
        """Value the group as of now and put it where it belongs in every ranking."""
        group.keyed_at_us = now_us = self.now_us
        group.chance = CERTAIN if group.idle is None else self.forecaster.chance(group.idle, now_us)
        group.value = self._value(group)
        for at, key in enumerate(group.keys):
            if key is not None:
                group.rankings[at].take(key, group)
                self._rank(group, at)

    def _value(self, group: Group) -> int:
        group.fork = 0
        if group.idle is None:
            return ACTIVE
        if group.chance < self.tuning.write_chance:
            done = group.record.hint.wait is Wait.DONE
            return self._heirs.inherit(group, self.tuning.write_chance) if done else DEAD
        index = max(1, self.forecaster.index(group.idle, self.now_us))
        weight = self.quotas.contract(group.service_tier).keep_weight
        return agent_value(index, weight, *self.quotas.held_of_part(group.service_tier, group.record.tenant))

    def _rank(self, group: Group, at: int) -> None:
        key = eviction_key(group.value, cost_below(self.context, len(group.path), at))
        group.keys[at] = key
        group.rankings[at].put(key, group)

    def _unrank(self, group: Group, at: int) -> None:
        key = group.keys[at]
        if key is not None:
            group.rankings[at].take(key, group)
            group.keys[at] = None

    def _set_timer(self, group: Group) -> None:
        if group.idle is None:
            return
        due_us = self.forecaster.advance(group.idle, self.now_us)
        if group.timer_us is None:
            self._timers.set(group, due_us)

    def tick(self) -> None:
        """Rank anew the agents whose rest has outlasted a bin; a few at a time."""
        self.quotas.observe(self.now_us)
        self._orphans.look(self.now_us)
        for group in self._timers.due(self.now_us):
            self._revalue(group)
            self._set_timer(group)
            self._leave_beginning(group)

    def wake_at_us(self) -> int | None:
        return self._timers.wake_at_us()

    # --- victims ------------------------------------------------------------------------------

    def spare_on_host(self) -> Block | None:
        return self._host_room.first()

    def only_copies(self, most: int, most_bytes: int) -> bool:
        return self._host_room.only_copies(most, most_bytes)

    def spare_for(self, leaving: Sequence[Block], start: int) -> list[Block | None]:
        return self._host_room.spare_for(leaving, start)

    def came_together(self, blocks: Sequence[Block], start: int) -> int:
        return self._host_room.came_up(blocks, start)

    def went_down(self, leaving: Sequence[Block], spare: Sequence[Block | None]) -> None:
        self._host_room.went_down(leaving, spare)
        group: Group = leaving[0].listed
        if not group.listed[0]:
            self._unrank(group, 0)

    def victims(self, kv_tier: KvTier, taker: str = "") -> Iterator[BlockId]:
        return map(attrgetter("id"), self._victims(kv_tier, taker))

    def victim_blocks(
        self, kv_tier: KvTier, by_name: Mapping[BlockId, Block], taker: str = ""
    ) -> Iterator[Block]:
        return self._victims(kv_tier, taker)

    def _victims(self, kv_tier: KvTier, taker: str) -> Iterator[Block]:
        at = AT[kv_tier]
        for block, holder in self._better:
            if block.listed is not None and block.listed is not holder and holder in block.holders:
                self._unlist(block)
                self._list(block, holder)
        self._better.clear()
        yield from self._dead(kv_tier)
        passed_over: Iterator[Block] = iter(())
        if kv_tier is HOST:  # what the device has as well is not missed
            free, passed_over = self._copies.parted()
            yield from free
        orphans = self._orphans.ranked(self.context, at)
        for rankings in self.quotas.phases(at, taker):
            yield from merged(orphans, self._spare(kv_tier, rankings))
        yield from map(itemgetter(1), orphans)
        yield from self._at_work(kv_tier)
        for block, _ in tuple(self._better):  # whose better holder stood before them in the ranking
            if block.is_on(kv_tier) and self._counts(block, at):
                yield block
        yield from passed_over

    def _dead(self, kv_tier: KvTier) -> Iterator[Block]:
        """What hardly ever comes back, whatever guarantees there are."""
        at = AT[kv_tier]
        for block in self._orphans.dead(at):
            if self._counts(block, at):
                yield block
        for ranking in self.quotas.all_rankings(at):
            self._look_again(ranking)
            for key, _, group in ranking.entries:
                if key != DEAD:
                    break
                yield from self._spare_of(group, kv_tier)

    def _counts(self, block: Block, at: int) -> bool:
        """Whether a victim is looked for among agents: what lies on the device too was named before."""
        return at != 1 or block.ranked & _TWICE != _TWICE

    def _spare(self, kv_tier: KvTier, rankings: list[Ranking]) -> Iterator[Ranked]:
        """Blocks of agents that rest, the least valuable first."""
        for ranking in rankings:
            self._look_again(ranking)
        filled = [ranking.idle_entries() for ranking in rankings if ranking.idle_blocks]
        for key, _, group in heapq.merge(*filled):
            if key != DEAD:
                for block in self._spare_of(group, kv_tier):
                    yield key, block

    def _spare_of(self, group: Group, kv_tier: KvTier) -> Iterator[Block]:
        """Its blocks, but for those that another holder of theirs needs more."""
        at = AT[kv_tier]
        for block in group.spare(kv_tier):
            best = needed_more(self.context, block, group, at) if len(block.holders) > 1 else None
            if best is not None:
                self._better.append((block, best))
                continue
            if self._counts(block, at):
                yield block

    def _at_work(self, kv_tier: KvTier) -> Iterator[Block]:
        """Blocks of agents with an open turn: of turns in the queue, or copies of what is elsewhere.
        What a running turn has pinned on the device is not named."""
        at = AT[kv_tier]
        for ranking in self.quotas.all_rankings(at):
            for _, _, group in reversed(ranking.entries):
                if group.idle is not None:
                    break
                for block in group.spare(kv_tier):
                    if at == 0 and block.pins:
                        break  # a running turn pins whatever stands before what it pins
                    if self._counts(block, at):
                        yield block

    def _look_again(self, ranking: Ranking) -> None:
        """The value of a rest that nears its end rises; the lowest may have been so long ago."""
        now_us = self.now_us
        for _ in range(0 if ranking.looked_us == now_us else self.tuning.revalue_per_search):
            group = ranking.entries[0][2] if ranking.entries else None
            if group is None or not is_old(group, now_us, self.tuning):
                ranking.looked_us = now_us
                return
            self._revalue(group)

    def outranks(self, block: Block, other: Block, kv_tier: KvTier, margin: int = 1) -> bool:
        if kv_tier is HOST and not self._counts(other, AT[kv_tier]):
            return True
        return self._worth(block) > margin * self._worth(other)

    def gives_way(self, victim: Block, newcomer: Block, kv_tier: KvTier) -> bool:
        """No margin between the nameless: all are worth about as much, and the newcomer would be lost."""
        if kv_tier is KvTier.DISK and is_nameless(victim) and is_nameless(newcomer):
            return self.outranks(newcomer, victim, kv_tier)
        return super().gives_way(victim, newcomer, kv_tier)

    def _worth(self, block: Block) -> int:
        if block.listed is None:
            return ACTIVE
        if block.listed is self._orphans:
            return int(self._orphans.value(block, self.now_us))
        return int(max(holder.value for holder in block.holders))

    def is_dead(self, block: Block) -> bool:
        if block.listed is self._orphans:
            return bool(self._orphans.is_hopeless(block))
        return block.listed is not None and self._chance(block) < self.tuning.write_chance

    def is_spare(self, block: Block) -> bool:
        return block.disk or (block.device and not block.bare) or self.is_dead(block)

    # --- disk and promotion -------------------------------------------------------------------

    def wants_disk(self, block: Block) -> bool:
        """Selective: the chance of return, times what a read saves, must pay for the write."""
        chance = self._chance(block)
        if chance < self.tuning.write_chance:
            return False
        saved_us, written_us = saved_by_write(self.context, block)
        gain, roomy = self.tuning.write_gain, self.tuning.roomy
        if not pays_for_write(chance * roomy, saved_us, written_us, gain):
            return False  # not even if it displaced nothing
        return self._disk_is_roomy() or pays_for_write(chance, saved_us, written_us, gain)

    def wants_host(self, block: Block) -> bool:
        start = block.meta.depth * self.context.config.block_tokens
        pays = self.context.costs.copies_pay(block.meta.size_bytes, start, start + block.meta.n_tokens)
        # What was promised may be paid for. Asked last: a shared prompt has many holders.
        return pays or any(group.idle is not None and group.idle.is_retained for group in block.holders)

    def _disk_is_roomy(self) -> bool:
        """Whether a write there displaces nothing for a good while."""
        held = self.quotas.blocks(2)
        return 4 * (held + self._orphans.count(2)) < 3 * self.quotas.room[2]

    def _chance(self, block: Block) -> int:
        if block.listed is self._orphans or not block.holders:
            return self._orphans.chance(block)
        if len(block.holders) == 1:
            return int(block.holders[0].chance)
        return int(max(group.chance for group in block.holders))

    def promotable(self) -> Iterator[Block]:
        for group in most_valuable_on_disk(self.quotas, self.tuning):
            if is_old(group, self.now_us, self.tuning):
                self._revalue(group)
            for block in group.path:
                if block.disk and not block.host and not block.device:
                    yield block

    # --- for people ---------------------------------------------------------------------------

    def withheld(self, kv_tier: KvTier, taker: str) -> int:
        return self.quotas.withheld(AT[kv_tier], taker)

    def expectation(self, record: AgentRecord, now_us: int) -> tuple[int | None, str]:
        group = self._groups.get(record)
        if group is None or group.idle is None:
            return None, "a turn is open" if group is not None else ""
        return self.forecaster.explain(group.idle, record.hint, now_us)
