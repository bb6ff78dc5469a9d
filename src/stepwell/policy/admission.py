"""Admission: which turn gets a place on the device, what is loaded for it, and which turns leave for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from stepwell.policy.block_index import Block, Match, blocks_of, ids_of
from stepwell.policy.contracts import WHOLE, Contract
from stepwell.policy.costs import best_cut
from stepwell.policy.loading import best_cut_of_runs, load_runs, steps_of
from stepwell.policy.reasons import Reasons
from stepwell.policy.runs import load_run
from stepwell.policy.turn_table import TurnTable
from stepwell.policy.turns import Turn, TurnState
from stepwell.policy.types import KvTier, Open, RequestId, WaitCause, Waits

_PLAN_AGAIN_US: Final = 250_000
_LOOK_AGAIN_US: Final = 50_000  # for room, while nothing has moved
_LEAST_RUN_TOKENS: Final = 16  # a turn that was just opened has its place for so many tokens at least


class Admission:
    """Opens waiting turns, in the queue's order, as long as they fit beside those that run."""

    def __init__(self, table: TurnTable) -> None:
        self.table = table
        self.config = table.config
        self.block_manager = table.block_manager
        self.recomputed_tokens = 0
        self.reasons = Reasons(table)
        self._window: list[Turn] = []
        self._window_owed: dict[str, int] = {}
        self._promised_frames: int | None = None
        self._owed: dict[str, int] | None = None
        """As of now; None: what runs or waits has changed, count again."""
        self._made_way_for: Turn | None = None
        """Others were preempted for it, and it waits for writes until it has the room that they left."""

    def admit(self) -> None:
        """A turn that waits for disk or for another's prefix lets others pass; one that waits for room does
        not, or large requests would starve (but a turn that is only owed its place, or at its bound and does
        not lead, does not hold up heavier ones)."""
        self.table.fetches = False
        self.table.waiting.age(self.table.now_us)
        if not self.table.waiting:
            self.table.release_claims_beyond(())
            return
        self._count_again()
        blocked: Turn | None = None
        held_up = 0
        budget_bytes = self._host_budget()
        owed = self._owed_places()
        window = self._in_order(self.table.waiting.window(self.config.scan_waiting, owed))
        for position, turn in enumerate(window):
            if position and budget_bytes <= 0:
                window = window[:position]
                break
            self.block_manager.beneficiary = turn.id
            path = self._path_of(turn)
            budget_bytes -= turn.planned_bytes
            if self._must_wait(turn):
                self._explain(turn)
            elif blocked is not None and turn.contract.weight <= held_up and not turn.leads:
                self.reasons.queues(turn, blocked, owed)
            elif self._still_no_room(turn) or not self._try_open(turn, path):
                self.reasons.has_no_room(turn)
                blocked, held_up = turn, self._holds_up(turn, owed)
        self.block_manager.beneficiary = 0
        self.table.release_claims_beyond([turn.id for turn in window])
        self._window, self._window_owed = window, owed

    def _holds_up(self, turn: Turn, owed: Mapping[str, int]) -> int:
        """Turns up to which weight stay behind one that has no room. The leader stays behind none: one for
        which others had to leave stands before it, and may not displace what it may."""
        if turn.leads or turn is self._made_way_for:
            return WHOLE
        if turn.aged:
            return turn.contract.weight
        return 0 if turn.contract.name in owed else WHOLE

    def _in_order(self, window: list[Turn]) -> list[Turn]:
        """First the turn for which others had to leave: else one that left and is owed a place would take the
        room back, leave once more, and so on, and none would run."""
        first = self._made_way_for
        if first is None or first not in window:
            self._made_way_for = None
            return window
        if window[0].leads:  # no turn goes before it or takes its place
            return window
        return [first, *(turn for turn in window if turn is not first)]

    def _host_budget(self) -> int:
        """Blocks that wait on the host for turns in the queue may take half of it, or they would drive out
        what has just come down. Where copies do not pay only the first turn is looked at, as without a
        host: the more turns alternate on a device that is too small, the more it loses."""
        config = self.config
        pays = self.block_manager.costs.copies_pay(config.block_bytes, 0, config.block_tokens)
        return config.host_bytes // 2 if pays else 0

    def waits(self, arrived: Sequence[Turn]) -> tuple[Waits, ...]:
        """What has changed about why turns wait, ``arrived`` in this step or before."""
        window, self._window = self._window, []
        waiting = [turn for turn in window if turn in self.table.waiting]
        return self.reasons.take(waiting, arrived, self._window_owed)

    def _explain(self, turn: Turn) -> None:
        if turn.fetching:
            self.reasons.is_fetched_for(turn)
        else:
            self.reasons.waits_for_prefix(turn, self._computed_by(turn))

    def _count_again(self) -> None:
        self._promised_frames = self._owed = None

    def _still_no_room(self, turn: Turn) -> bool:
        """Whether nothing has moved since the turn found no room, a moment ago. Looking again costs a walk
        over its path, and most steps move nothing. While no turn runs, it looks again every time: there
        may be no other step."""
        room = self._room()
        if (
            self.table.running
            and turn.no_room == room
            and self.table.now_us - turn.no_room_at_us < _LOOK_AGAIN_US
        ):
            return True
        turn.no_room, turn.no_room_at_us = room, self.table.now_us
        return False

    def _room(self) -> tuple[int, ...]:
        """What a turn's place depends on, but for time and for the progress of running turns."""
        m = self.block_manager
        used = (m.device_used, m.device_count, m.pinned, m.host_used, m.clean_bytes, m.writes_in_flight)
        return (*used, len(self.table.running), self.table.preemptions, len(self.table.waiting))

    # --- what can be loaded -------------------------------------------------------------------

    def _path_of(self, turn: Turn) -> list[Match]:
        """The path the turn would begin with. It is kept while the turn waits and looked up again when
        it is no longer true, when another turn has computed more of it, and now and then."""
        path = turn.planned
        old = self.table.now_us - turn.planned_at_us >= _PLAN_AGAIN_US
        waited = turn.behind and self.table.checkpoints.active  # a state may be there now, and no new block
        if path is None or old or waited or not self._still_coming(turn) or self._grew(turn):
            path = turn.planned = self._usable_path(turn)
            turn.planned_at_us, turn.all_there_at = self.table.now_us, -1
            turn.planned_tokens = self._whole_blocks(path) * self.config.block_tokens
            turn.planned_next = self._next_block_known(turn)
            turn.planned_bytes = sum([block.meta.size_bytes for block, _ in path if not block.device])
        return path

    def _still_coming(self, turn: Turn) -> bool:
        """Keep the reads for the turn going; False when one of its blocks will not come."""
        fetching = turn.fetching
        while fetching and self._has_come(fetching[-1]):
            fetching.pop()
        if not fetching:
            return True
        if self.block_manager.reads_in_flight < self.config.disk_reads_in_flight:
            return all(self._has_come(b) or self._fetch(turn, b) for b in reversed(fetching))
        return fetching[-1].disk

    @staticmethod
    def _has_come(block: Block) -> bool:
        return block.host or (block.device and not block.bare)

    def _grew(self, turn: Turn) -> bool:
        """Whether the block after its path is there now: another turn has computed it."""
        return not turn.planned_next and self._next_block_known(turn)

    def _next_block_known(self, turn: Turn) -> bool:
        last = turn.planned_tokens // self.config.unit_tokens + self.config.units_per_block
        return last <= len(turn.units) and self.block_manager.index.get(turn.units[last - 1]) is not None

    def _usable_path(self, turn: Turn) -> list[Match]:
        """The stored path as far as loading it beats recomputing and its bytes can be had."""
        path = self.table.stored_path(turn)
        if not self.config.always_load:
            path = self._worth_loading(turn, path)
        path = self.table.checkpoints.usable(path[: self.config.device_blocks - 1])
        self.table.claim(turn, path)  # before fetching: room for one block must not cost the next one
        turn.fetching = []
        now_us = self.table.now_us
        for depth, (block, _) in enumerate(path):
            there = block.device or (block.host and now_us >= block.unloadable_until_us)
            if not there and not self._comes(turn, block):
                path = self._cut(turn, path, depth)
                break
        while path and path[-1].block.bare and not self._comes(turn, path[-1].block):
            path = self._cut(turn, path, len(path) - 1)
        turn.fetching.reverse()
        return path

    def _comes(self, turn: Turn, block: Block) -> bool:
        """Whether the block can be loaded from the host, or is on its way there."""
        if block.host:
            return self.table.now_us >= block.unloadable_until_us
        if not self._fetch(turn, block):
            return False
        turn.fetching.append(block)
        return True

    def _cut(self, turn: Turn, path: list[Match], depth: int) -> list[Match]:
        """As much of the path above ``depth`` as can be gone on from."""
        path = self.table.checkpoints.usable(path[:depth])
        self.table.claim(turn, path)
        turn.fetching = [one for one in turn.fetching if one.meta.depth < len(path)]
        return path

    def _worth_loading(self, turn: Turn, path: list[Match]) -> list[Match]:
        """As much of a path as is loaded sooner than computed."""
        runs, costs = load_runs(self.block_manager, path), self.block_manager.costs
        checkpoints = self.table.checkpoints
        if not checkpoints.active:
            return path[: best_cut_of_runs(runs, turn.total, costs)]
        steps = steps_of(runs)
        return checkpoints.first_strides(path, best_cut(checkpoints.strides(path, steps), turn.total, costs))

    def _fetch(self, turn: Turn, block: Block) -> bool:
        """Have a disk block brought up, for as long as the turn waits; False if that cannot be."""
        if not block.disk or self.table.now_us < block.shunned_until_us:
            return False
        if block.moving is KvTier.HOST or self.block_manager.start_read(block):
            turn.from_disk[block.id] = None
            return True
        return self.block_manager.room_is_coming and block.meta.size_bytes <= self.config.host_bytes

    def _must_wait(self, turn: Turn) -> bool:
        """Whether blocks are on their way from disk, or another turn is computing the next one now."""
        if turn.fetching:
            if turn.state is TurnState.WAITING:
                turn.state = TurnState.LOADING
            self.table.fetches = True
            return True
        if turn.state is TurnState.LOADING:
            turn.state = TurnState.WAITING
        turn.behind = self._computed_by(turn) != turn.id
        return turn.behind

    def _computed_by(self, turn: Turn) -> RequestId:
        """The request that is computing the block after the turn's path now; the turn itself: none is."""
        if self.table.checkpoints.active:
            return self.table.checkpoints.computed_by(turn, self.table.promised)
        last = turn.planned_tokens // self.config.unit_tokens + self.config.units_per_block
        if last > len(turn.units):
            return turn.id
        return self.table.promised.get(turn.units[last - 1], turn.id)

    # --- room ---------------------------------------------------------------------------------

    def _try_open(self, turn: Turn, path: list[Match]) -> bool:
        """Give the turn a place if it fits beside the running ones, or can take it from lighter ones.
        False: it waits for room."""
        if not self.table.all_there(turn, path) or not self._state_is_there(path):
            turn.planned = None  # a copy on the device alone has gone
            return True
        if not self._make_place(turn, path):
            if self.table.running or not path:
                return False
            path = self._shrink(turn, path)
        turn.short_of = WaitCause.ROOM
        at_once = self._frames_at_once(turn, path)
        if not self._room_beside(turn, path, at_once):
            return False
        if not self._state_is_there(path):
            turn.planned = None  # it left for that of a turn which made room
            return True
        self._open(turn, path)
        return True

    def _state_is_there(self, path: list[Match]) -> bool:
        """Whether the last block of a path has the state to go on from, or gets it from the host."""
        if not path or not self.table.checkpoints.active:
            return True
        last = path[-1].block
        return self.table.checkpoints.kept_by(last.meta) and (last.host or not last.bare)

    def _room_beside(self, turn: Turn, path: Sequence[Match], frames: int) -> bool:
        """Whether the frames can be free; what goes for them is no block of the turn's own path."""
        memory = self.block_manager
        if frames <= self.config.device_blocks - memory.device_used:
            return True
        blocks = blocks_of(path)  # which the turn has claimed: they do not leave the host either
        memory.pin_all(blocks)
        try:
            return memory.descent.can_make_room(frames, turn.contract.name)
        finally:
            memory.unpin_all(blocks)

    def _make_place(self, turn: Turn, path: Sequence[Match]) -> bool:
        """Whether the turn fits; running turns of lighter service tiers leave for it if that is enough."""
        missing = self._missing_frames(turn, path)
        places = len(self.table.running) + 1 - self._places_for(turn)
        if missing <= 0 and places <= 0:
            return True
        leaving = []
        for victim in self._victims_of(turn):
            if missing <= 0 and places <= 0:
                break
            if missing <= 0 and self._keeps_its_place(victim):
                continue
            leaving.append(victim)
            missing -= victim.blocks_held + self._still_reserved(victim)
            places -= 1
        if missing > 0 or places > 0:
            turn.short_of = WaitCause.ROOM if missing > 0 else WaitCause.PLACE
            self._made_way_for = None if self._made_way_for is turn else self._made_way_for
            return False
        for victim in leaving:
            self.table.preempt(victim)
            self._count_again()
            self._made_way_for = turn
        return self._missing_frames(turn, path) <= 0

    def _missing_frames(self, turn: Turn, path: Sequence[Match]) -> int:
        """Frames short of what the turn needs; 0 or less: it fits. What rests within the guarantee of
        another service tier does not count as room, as long as any turn runs."""
        own = self._reserved_blocks(turn, turn.total) - self._whole_blocks(path)
        missing = self._unpinned(path) + own + self._promised() - self.block_manager.room_on_device()
        if self.table.book.ordered and self.table.running and not turn.leads:
            missing += self.block_manager.eviction.withheld(KvTier.DEVICE, turn.contract.name)
            if turn.contract.cap.device < WHOLE:
                missing = max(missing, self._frames_at_once(turn, path) - self._cap_room(turn))
        return missing

    def _unpinned(self, path: Sequence[Match]) -> int:
        """Blocks of a path that would take of the room there is: those to load, and those on the device that
        could leave it. A turn that pins a block pins all before it, so the others stand at the beginning."""
        return len(path) - next((n for n, match in enumerate(path) if not match.block.pins), len(path))

    def _promised(self) -> int:
        """Frames that running turns were admitted for and have not taken yet."""
        if self._promised_frames is None:
            turns = self.table.turns
            self._promised_frames = sum([self._still_reserved(turns[r]) for r in self.table.running])
        return self._promised_frames

    def _cap_room(self, turn: Turn) -> int:
        """Frames its service tier may still take for running turns under its cap."""
        held = [self.table.turns[r] for r in self.table.running]
        same = [t for t in held if t.contract.name == turn.contract.name]
        used = sum([t.blocks_held + self._still_reserved(t) for t in same])
        return self.config.device_blocks * turn.contract.cap.device // WHOLE - used

    def _owed_places(self) -> dict[str, int]:
        """Places that service tiers with waiting turns are short of, by their guarantee of compute."""
        if self._owed is not None:
            return self._owed
        owed = self._owed = {}
        if not self.table.book.ordered:
            return owed
        running = [self.table.turns[r].contract.name for r in self.table.running]
        for name in self.table.book.names:
            if self.table.waiting.demands(name):
                short = self._least_places(self.table.book.of(name)) - running.count(name)
                if short > 0:
                    owed[name] = short
        return owed

    def _least_places(self, contract: Contract) -> int:
        return -(-self.config.max_running * contract.guaranteed.step_tokens // WHOLE)

    def _keeps_its_place(self, turn: Turn) -> bool:
        """Whether the turn's service tier runs no more turns than it is guaranteed places for."""
        same = sum(1 for r in self.table.running if self.table.turns[r].contract is turn.contract)
        return same <= self._least_places(turn.contract)

    def _places_for(self, turn: Turn) -> int:
        """How many turns may run with this one: the places owed to others are not for it."""
        if turn.leads:
            return self.config.max_running
        owed = self._owed_places()
        kept = sum(short for name, short in owed.items() if name != turn.contract.name)
        return max(1, self.config.max_running - kept)

    def _victims_of(self, turn: Turn) -> list[Turn]:
        """Running turns that a heavier one may displace, or the leader of those at their bound once it has
        waited for twice that: the lightest and youngest first. Not the leader, none that only just came, and
        none within its guaranteed frames."""
        if not self.table.book.ordered:
            return []
        running = [self.table.turns[r] for r in reversed(self.table.running)]
        waited_us, contract = self.table.now_us - turn.waiting_since_us, turn.contract
        weight = WHOLE + 1 if turn.leads and waited_us >= 2 * contract.max_wait_us else contract.weight
        lighter = [t for t in running if t.contract.weight < weight and not t.leads and self._has_run(t)]
        if not lighter:
            return []
        held: dict[str, int] = {}
        for one in running:
            held[one.contract.name] = held.get(one.contract.name, 0) + one.blocks_held
        lighter.sort(key=lambda t: (t.contract.weight, t.aged))  # and among equals as they stand
        return [victim for victim in lighter if not self._within_guarantee(victim, held)]

    def _has_run(self, turn: Turn) -> bool:
        return turn.total - turn.opened_at >= _LEAST_RUN_TOKENS or turn.prefilling

    def _within_guarantee(self, turn: Turn, held: Mapping[str, int]) -> bool:
        blocks = held[turn.contract.name]
        return blocks * WHOLE <= turn.contract.guaranteed.device * self.config.device_blocks

    def _frames_at_once(self, turn: Turn, path: Sequence[Match]) -> int:
        """Frames it takes now: for what is loaded, and of its own with room for what it generates first."""
        to_load = len([block for block, _ in path if not block.device])
        return to_load + self._reserved_blocks(turn, turn.total) - self._whole_blocks(path)

    def _whole_blocks(self, path: Sequence[Match]) -> int:
        """All blocks of a path but a last one that is used in part."""
        return len(path) - (bool(path) and path[-1].n_tokens < self.config.block_tokens)

    def _shrink(self, turn: Turn, path: list[Match]) -> list[Match]:
        """No turn runs and it still does not fit: the copy of a shared tail is one frame too many."""
        while path and (self._missing_frames(turn, path) > 0 or not self._state_is_there(path)):
            path = self.table.checkpoints.usable(path[:-1])
        self.table.claim(turn, path)
        return path

    def _reserved_blocks(self, turn: Turn, start_tokens: int) -> int:
        """Frames for ``start_tokens`` and what it generates next, up to all that it may ever need."""
        config, arrival, tokens = self.config, turn.arrival, turn.total
        reserved = start_tokens + config.reserve_tokens
        ceiling = arrival.prompt_tokens + arrival.max_new_tokens
        reserved = ceiling if ceiling < reserved else reserved
        blocks = -(-(reserved if reserved > tokens else tokens) // config.block_tokens)
        return blocks if blocks < config.device_blocks else config.device_blocks

    def _still_reserved(self, turn: Turn) -> int:
        """Frames a running turn was admitted for and has not taken yet."""
        missing = self._reserved_blocks(turn, turn.arrival.prompt_tokens) - len(turn.path) - turn.frames
        return missing if missing > 0 else 0

    # --- opening ------------------------------------------------------------------------------

    def _open(self, turn: Turn, path: list[Match]) -> None:
        memory = self.block_manager
        from_device, from_host, from_disk = self.table.sources(turn, path)
        memory.pin_all(blocks_of(path))  # first, so that making room for one never evicts another
        missing = [block for block, _ in path if not block.device]
        self._take_frames(turn, len(missing))
        self._load(path, missing)
        memory.descent.opened()
        memory.touch(blocks_of(path))
        cached = from_device + from_host + from_disk
        again = self._computed_again(turn, cached)
        self._enter(turn, path, cached)
        memory.actions.append(Open(turn.id, ids_of(path), cached, from_device, from_host, from_disk, again))

    def _load(self, path: list[Match], missing: list[Block]) -> None:
        """Bring the blocks up, and the state of the last one; those before it are not needed now."""
        memory = self.block_manager
        states, last = memory.states, path[-1].block if path else None
        if not states.limited:
            load_run(memory, missing)
            return
        for block in missing:
            if states.keeps(block):
                room = states.make_room()
                assert room, "every running state on the device is pending"
            memory.load(block)
            if block is not last:
                states.leave(block)
        if last is not None and last.bare:
            room = states.make_room()
            assert room, "every running state on the device is pending"
            states.load(last)

    def _take_frames(self, turn: Turn, count: int) -> None:
        done = self.block_manager.take_frames(count, turn.contract.name)
        assert done, "the policy admitted a request for which there was no room"

    def _computed_again(self, turn: Turn, cached: int) -> int:
        first = cached // self.config.unit_tokens
        again = self.block_manager.ghosts.computed_before(turn.units[first:]) * self.config.unit_tokens
        self.recomputed_tokens += again
        return again

    def _enter(self, turn: Turn, path: list[Match], cached: int) -> None:
        self.table.waiting.remove(turn)
        turn.waited_us = self.table.now_us - turn.waiting_since_us
        self.table.running.append(turn.id)
        self._count_again()
        turn.state = TurnState.RUNNING
        turn.computed, turn.opened_at = cached, turn.total
        turn.tail = b""  # what is there now has no name of its own before the first step
        turn.from_disk = {}
        turn.walked, turn.planned, turn.planned_at_us, turn.fetching = [], None, 0, []
        turn.resume = None
        turn.path = blocks_of(path)
        if path and path[-1].n_tokens < self.config.block_tokens:
            tail = turn.path.pop()
            turn.opened_tail = tail
            self._take_frames(turn, 1)
            turn.frames = 1  # the tail is copied into it; only then may the tail leave
            self.block_manager.unpin(tail)
        self.table.unclaim(turn)
        if self.table.checkpoints.active:
            self.table.checkpoints.opened(turn, cached)
        self.table.promise(turn)
