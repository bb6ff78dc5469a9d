"""The policy: a pure state machine. Events and the time go in, a plan comes out.

    apply    each event changes the book
    admit    first come, first served: who gets a place on the device, and what is loaded for it
    compose  the batch: one token for everybody who streams, then pieces of prompts
    sink     cold host blocks go to disk before their room is needed

Nothing here reads a clock, does I/O or draws a random number; the order of every loop is fixed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import best_cut
from stepwell.policy.index import Block, Match
from stepwell.policy.memory import Memory, blocks_of, ids_of
from stepwell.policy.placement import Placement, make_placement
from stepwell.policy.turns import AgentRecord, Turn, TurnState
from stepwell.policy.types import (
    BlockId,
    BlockMeta,
    Close,
    Computed,
    DemoteIdle,
    Draining,
    Event,
    KvTier,
    Moved,
    Open,
    OpenFailed,
    Piece,
    Plan,
    Progressed,
    Recovered,
    Refuse,
    RequestArrived,
    RequestCancelled,
    RequestId,
    Seal,
    StepFailed,
)

_RETRY_AFTER_MS = 1_000


class Policy:
    """Decides who runs, what lies where, what is loaded and what is dropped."""

    def __init__(self, config: PolicyConfig, placement: Placement | None = None) -> None:
        self.config = config
        self.memory = Memory(config, placement or make_placement(config.placement))
        self.turns: dict[RequestId, Turn] = {}
        self.waiting: list[RequestId] = []
        self.running: list[RequestId] = []
        """In order of admission: the last one is preempted first."""
        self.agents: OrderedDict[tuple[str, str], AgentRecord] = OrderedDict()
        self.preemptions = 0
        self.recomputed_tokens = 0
        self.draining = False
        self.demoting: KvTier | None = None
        self.drained = False
        """After ``Draining``: nothing runs any more and what was worth keeping is on disk."""
        self._promised: dict[BlockId, RequestId] = {}
        self._claimants: dict[RequestId, None] = {}
        self._now_us = 0

    def step(self, now_us: int, events: Sequence[Event]) -> Plan:
        """Take in what happened and decide what happens next. Deterministic."""
        self._now_us = now_us
        self.memory.actions = []
        for event in events:
            self._apply(event)
        self._admit()
        batch = self._compose()
        self._sink()
        return Plan(tuple(self.memory.actions), batch, self._wake_at())

    def _wake_at(self) -> int | None:
        paused_until = self.memory.writes_paused_until_us
        return paused_until if paused_until > self._now_us else None

    # --- apply --------------------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        match event:
            case RequestArrived():
                self._arrived(event)
            case Progressed():
                self._progressed(event)
            case RequestCancelled(request):
                self._end(request)
            case StepFailed(requests):
                for request in requests:
                    self._end(request, trusted=False)
            case Computed():
                self.memory.costs.saw_step(event)
            case Moved():
                self.memory.moved(event, self._now_us)
            case OpenFailed(request):
                self._open_failed(request)
            case Recovered(blocks):
                self.memory.recovered(blocks, self._now_us)
            case DemoteIdle(target):
                self.demoting = target
            case Draining():
                self.draining = True

    def _arrived(self, event: RequestArrived) -> None:
        if self.draining:
            self._refuse(event.request, "server_overloaded", _RETRY_AFTER_MS)
        elif len(self.waiting) >= self.config.max_waiting:
            self._refuse(event.request, "rate_limit_exceeded", _RETRY_AFTER_MS)
        elif self._too_long(event.prompt_tokens + 1):
            self._refuse(event.request, "context_length_exceeded", 0)
        else:
            turn = Turn(event, total=event.prompt_tokens, units=list(event.units))
            self.turns[turn.id] = turn
            self.waiting.append(turn.id)
            self._agent_of(turn).open_turns[turn.id] = None

    def _too_long(self, tokens: int) -> bool:
        return tokens > self.config.context_tokens or self.config.blocks_for(tokens) > self.config.device_blocks

    def _refuse(self, request: RequestId, code: str, retry_after_ms: int) -> None:
        self.memory.actions.append(Refuse(request, code, retry_after_ms))

    def _progressed(self, event: Progressed) -> None:
        turn = self.turns.get(event.request)
        if turn is None or turn.state is not TurnState.RUNNING:
            return
        turn.computed, turn.total, turn.tail = event.computed, event.total, event.tail
        turn.units.extend(event.units)
        self._seal_full_blocks(turn)
        if event.finished is not None:
            self._end(turn.id)

    # --- sealing ------------------------------------------------------------------------------

    def _seal_full_blocks(self, turn: Turn) -> None:
        block_tokens = self.config.block_tokens
        while not turn.stuck and (len(turn.path) + 1) * block_tokens <= turn.computed:
            depth = len(turn.path)
            last = (depth + 1) * self.config.units_per_block
            self._seal(turn, turn.units[last - 1], block_tokens)

    def _seal(self, turn: Turn, name: BlockId, n_tokens: int) -> None:
        """Turn the frame behind the sealed path into a block called ``name``."""
        known = self.memory.index.get(name)
        if known is not None and known.device and not self.memory.drop_device_copy(known):
            turn.stuck = True  # the same tokens were computed by somebody else meanwhile
            self._break_promises(turn)
            return
        depth = len(turn.path)
        first = depth * self.config.units_per_block
        count = n_tokens // self.config.unit_tokens
        parent = turn.path[-1].id if turn.path else None
        meta = BlockMeta(
            name,
            parent,
            depth,
            n_tokens,
            tuple(turn.units[first : first + count]),
            turn.arrival.tenant,
            self.config.size_of(n_tokens),
        )
        self.memory.actions.append(Seal(turn.id, meta))
        turn.path.append(self.memory.sealed(meta, self._now_us))
        turn.frames -= 1
        self._keep_promise(turn, name)
        self._replace_opened_tail(turn, meta)

    def _keep_promise(self, turn: Turn, name: BlockId) -> None:
        if self._promised.get(name) == turn.id:
            del self._promised[name]
            turn.promised.remove(name)

    def _replace_opened_tail(self, turn: Turn, meta: BlockMeta) -> None:
        """The block this turn went on from is now the beginning of a longer one: one is enough."""
        old = turn.opened_tail
        if old is None or old.meta.depth != meta.depth:
            return
        turn.opened_tail = None
        longer = set(meta.units)  # membership only, never iterated
        if old.id != meta.id and all(unit in longer for unit in old.meta.units):
            self.memory.forget(old)

    def _seal_tail(self, turn: Turn, least_tokens: int) -> BlockId | None:
        rest = turn.computed - len(turn.path) * self.config.block_tokens
        if turn.stuck or turn.frames < 1 or rest < least_tokens:
            return None
        self._seal(turn, turn.tail, rest)
        return None if turn.stuck else turn.tail

    # --- leaving the device -------------------------------------------------------------------

    def _end(self, request: RequestId, *, trusted: bool = True) -> None:
        """The turn is over; what it computed stays as blocks for the agent's next one."""
        turn = self.turns.pop(request, None)
        if turn is None:
            return
        if turn.state is TurnState.RUNNING:
            if trusted:
                self._seal_tail(turn, self.config.unit_tokens)
            self._leave_device(turn, preempted=False)
        else:
            self.waiting.remove(request)
        self._unclaim(turn)
        self._remember(turn)

    def _leave_device(self, turn: Turn, *, preempted: bool) -> None:
        self.memory.actions.append(Close(turn.id, preempted))
        self.memory.touch(turn.path, self._now_us)
        self._give_back(turn)

    def _give_back(self, turn: Turn) -> None:
        self.running.remove(turn.id)
        self._break_promises(turn)
        self.memory.give_frames(turn.frames)
        for block in turn.path:
            self.memory.unpin(block)
        turn.path, turn.frames, turn.stuck, turn.opened_tail = [], 0, False, None
        turn.computed = 0

    def _break_promises(self, turn: Turn) -> None:
        for name in turn.promised:
            del self._promised[name]
        turn.promised = []

    def _unclaim(self, turn: Turn) -> None:
        for block in turn.claimed:
            block.claims -= 1
        turn.claimed = []

    def _open_failed(self, request: RequestId) -> None:
        """A block did not load: the turn goes back to the head of the queue and is decided anew."""
        turn = self.turns.get(request)
        if turn is None or turn.state is not TurnState.RUNNING:
            return
        self._give_back(turn)
        turn.state = TurnState.WAITING
        self.waiting.insert(0, turn.id)

    def _preempt(self, turn: Turn) -> None:
        """Take a running turn off the device. Its KV stays as blocks and sinks; nothing is lost."""
        turn.resume = self._seal_tail(turn, 1)
        self._leave_device(turn, preempted=True)
        turn.state = TurnState.PREEMPTED
        self.preemptions += 1
        self.waiting.insert(0, turn.id)

    # --- admit --------------------------------------------------------------------------------

    def _admit(self) -> None:
        """First come, first served. Who waits for disk or for another's prefix lets others pass;
        who waits for room does not, or large requests would starve. Blocks that wait on the host for
        turns in the queue may take half of it, or they would drive out what has just come down."""
        blocked = False
        budget_bytes = self.config.host_bytes // 2
        window = self.waiting[: self.config.scan_waiting]
        for position, request in enumerate(window):
            if position and budget_bytes <= 0:
                window = window[:position]
                break
            turn = self.turns[request]
            if self.draining and turn.state is not TurnState.PREEMPTED:
                self._turn_away(turn)
                continue
            path = self._usable_path(turn)
            budget_bytes -= sum(m.block.meta.size_bytes for m in path if not m.block.device)
            if self._must_wait(turn, path):
                continue
            if blocked or len(self.running) >= self.config.max_running:
                blocked = True
                continue
            blocked = not self._try_open(turn, path)
        self._release_claims_beyond(window)

    def _release_claims_beyond(self, window: Sequence[RequestId]) -> None:
        """Turns that fell out of sight (behind a preempted one, say) let go of what they claimed."""
        for request in [r for r in self._claimants if r not in window]:
            del self._claimants[request]
            if request in self.turns:
                self._unclaim(self.turns[request])

    def _turn_away(self, turn: Turn) -> None:
        self._end(turn.id)
        self._refuse(turn.id, "server_overloaded", _RETRY_AFTER_MS)

    def _stored_path(self, turn: Turn) -> list[Match]:
        """What is stored of the turn's tokens; at least the last one must be computed for logits."""
        path = list(self.memory.index.walk(turn.units, turn.total - 1))
        resumed = self.memory.index.get(turn.resume) if turn.resume else None
        if resumed is not None and self._continues(path, resumed, turn):
            whole = [m for m in path if m.block.meta.depth < resumed.meta.depth]
            path = [*whole, Match(resumed, resumed.meta.n_tokens)]
        return path

    def _continues(self, path: list[Match], tail: Block, turn: Turn) -> bool:
        """Whether all blocks before ``tail`` are stored, so that it can be used to its last token."""
        before = [m for m in path if m.block.meta.depth < tail.meta.depth]
        ends = tail.meta.depth * self.config.block_tokens + tail.meta.n_tokens
        return len(before) == tail.meta.depth and ends < turn.total

    def _usable_path(self, turn: Turn) -> list[Match]:
        """The stored path as far as loading it beats recomputing and its bytes can be had."""
        path = self._stored_path(turn)
        if not self.config.always_load:
            path = path[: best_cut(self.memory.steps(path), turn.total, self.memory.costs)]
        path = path[: self.config.device_blocks - 1]
        self._claim(turn, path)  # before fetching: room for one block must not cost the next one
        for depth, match in enumerate(path):
            block = match.block
            if not block.device and not block.host and not self._fetch(turn, block):
                self._claim(turn, path[:depth])
                return path[:depth]
        return path

    def _fetch(self, turn: Turn, block: Block) -> bool:
        """Have a disk block brought up, for as long as the turn waits; False if that cannot be."""
        if self._now_us < block.shunned_until_us:
            return False
        if block.moving is KvTier.HOST or self.memory.start_read(block, self._now_us):
            turn.from_disk[block.id] = None
            return True
        return bool(self.memory.reads_in_flight) and block.meta.size_bytes <= self.config.host_bytes

    def _must_wait(self, turn: Turn, path: Sequence[Match]) -> bool:
        """Whether blocks are on their way from disk, or somebody is computing the next one now."""
        if any(not m.block.device and not m.block.host for m in path):
            if turn.state is TurnState.WAITING:
                turn.state = TurnState.LOADING
            return True
        if turn.state is TurnState.LOADING:
            turn.state = TurnState.WAITING
        return self._promised_by_other(turn, path)

    def _claim(self, turn: Turn, path: Sequence[Match]) -> None:
        for match in path:
            match.block.claims += 1
        self._unclaim(turn)
        turn.claimed = blocks_of(path)
        self._claimants[turn.id] = None

    def _promised_by_other(self, turn: Turn, path: Sequence[Match]) -> bool:
        whole = sum(1 for m in path if m.n_tokens == self.config.block_tokens)
        last = (whole + 1) * self.config.units_per_block
        if last > len(turn.units):
            return False
        return self._promised.get(turn.units[last - 1], turn.id) != turn.id

    def _try_open(self, turn: Turn, path: list[Match]) -> bool:
        """Give the turn a place if it fits beside those who run. False: it waits for room."""
        if not self._fits(turn, path):
            if self.running or not path:
                return False
            path = self._shrink(turn, path)
        if not self.memory.can_make_room(self._frames_at_once(turn, path), self._now_us):
            return False
        self._open(turn, path)
        return True

    def _frames_at_once(self, turn: Turn, path: Sequence[Match]) -> int:
        to_load = sum(1 for m in path if not m.block.device)
        return to_load + self._private_frames(turn, path)

    def _shrink(self, turn: Turn, path: list[Match]) -> list[Match]:
        """Nobody runs and it still does not fit: the copy of a shared tail is one frame too many."""
        while path and not self._fits(turn, path):
            path = path[:-1]
        self._claim(turn, path)
        return path

    def _fits(self, turn: Turn, path: Sequence[Match]) -> bool:
        promised = sum(self._still_reserved(self.turns[r]) for r in self.running)
        return self._frames_at_once(turn, path) + promised <= self.memory.room_on_device(blocks_of(path))

    def _private_frames(self, turn: Turn, path: Sequence[Match]) -> int:
        """Frames of its own the turn will need, with room for what it generates first."""
        whole = sum(1 for m in path if m.n_tokens == self.config.block_tokens)
        return self._reserved_blocks(turn) - whole

    def _reserved_blocks(self, turn: Turn) -> int:
        ceiling = turn.arrival.prompt_tokens + turn.arrival.max_new_tokens
        tokens = max(turn.total, min(ceiling, turn.total + self.config.reserve_tokens))
        return min(self.config.blocks_for(tokens), self.config.device_blocks)

    def _still_reserved(self, turn: Turn) -> int:
        """Frames a running turn was admitted for and has not taken yet."""
        ceiling = turn.arrival.prompt_tokens + turn.arrival.max_new_tokens
        first = turn.arrival.prompt_tokens + self.config.reserve_tokens
        blocks = self.config.blocks_for(max(turn.total, min(ceiling, first)))
        return max(0, min(blocks, self.config.device_blocks) - turn.blocks_held)

    def _open(self, turn: Turn, path: list[Match]) -> None:
        sources = [self._source_of(turn, match.block) for match in path]
        for match in path:  # first all pins, so that making room for one never evicts another
            self.memory.pin(match.block)
        for match in path:
            if not match.block.device:
                self._need(self.memory.take_frames(1, self._now_us))
                self.memory.load(match.block, self._now_us)
        self.memory.touch(blocks_of(path), self._now_us)
        cached = sum(m.n_tokens for m in path)
        counts = [sum(m.n_tokens for m, s in zip(path, sources, strict=True) if s is t) for t in KvTier]
        again = self._computed_again(turn, cached)
        self._enter(turn, path, cached)
        self.memory.actions.append(Open(turn.id, ids_of(path), cached, *counts, again))

    def _source_of(self, turn: Turn, block: Block) -> KvTier:
        """Where the block lay when the turn came: one that was fetched counts as from disk."""
        return KvTier.DISK if block.id in turn.from_disk else block.fastest()

    def _need(self, done: bool) -> None:
        assert done, "the policy admitted a request for which there was no room"

    def _computed_again(self, turn: Turn, cached: int) -> int:
        first = cached // self.config.unit_tokens
        again = self.memory.computed_before(turn.units[first:]) * self.config.unit_tokens
        self.recomputed_tokens += again
        return again

    def _enter(self, turn: Turn, path: list[Match], cached: int) -> None:
        self.waiting.remove(turn.id)
        self.running.append(turn.id)
        turn.state = TurnState.RUNNING
        turn.computed = cached
        turn.from_disk = {}
        turn.resume = None
        turn.path = blocks_of(path)
        if path and path[-1].n_tokens < self.config.block_tokens:
            tail = turn.path.pop()
            turn.opened_tail = tail
            self._need(self.memory.take_frames(1, self._now_us))
            turn.frames = 1  # the tail is copied into it; only then may the tail leave
            self.memory.unpin(tail)
        self._unclaim(turn)
        self._promise(turn)

    def _promise(self, turn: Turn) -> None:
        """Others who need the prompt blocks that this turn computes now will wait for them."""
        per_block = self.config.units_per_block
        for last in range((len(turn.path) + 1) * per_block, len(turn.units) + 1, per_block):
            name = turn.units[last - 1]
            if name not in self._promised and self.memory.index.get(name) is None:
                self._promised[name] = turn.id
                turn.promised.append(name)

    # --- compose ------------------------------------------------------------------------------

    def _compose(self) -> tuple[Piece, ...]:
        """One token for all who stream, then prompts in order of admission, up to ``step_tokens``."""
        pieces: dict[RequestId, Piece] = {}
        budget = self.config.step_tokens
        for prefilling in (False, True):
            for request in list(self.running):
                turn = self.turns[request]
                if turn.state is TurnState.RUNNING and turn.prefilling is prefilling and budget > 0:
                    piece = self._piece(turn, budget, pieces)
                    if piece is not None:
                        pieces[request] = piece
                        budget -= piece.count
        return tuple(pieces.values())

    def _piece(self, turn: Turn, budget: int, pieces: dict[RequestId, Piece]) -> Piece | None:
        count = min(turn.remaining, budget)
        if count < turn.remaining:
            count = self._to_block_border(turn.computed, count)
        needed = self.config.blocks_for(turn.computed + count) - turn.blocks_held
        if needed > 0 and not self._grow(turn, needed, pieces):
            return None
        return Piece(turn.id, turn.computed, count)

    def _to_block_border(self, start: int, count: int) -> int:
        """End a piece where a block ends if it can: what is whole can be shared at once."""
        end = (start + count) // self.config.block_tokens * self.config.block_tokens
        return end - start if end > start else count

    def _grow(self, turn: Turn, needed: int, pieces: dict[RequestId, Piece]) -> bool:
        """Take frames; the youngest running turn makes room, and if that is ``turn``, it goes."""
        while not self.memory.take_frames(needed, self._now_us):
            victim = self.turns[self.running[-1]]
            pieces.pop(victim.id, None)
            self._preempt(victim)
            if victim is turn:
                return False
        turn.frames += needed
        return True

    # --- sink ---------------------------------------------------------------------------------

    def _sink(self) -> None:
        idle = not self.running and not self.waiting
        if self.demoting is None and self.draining and idle and not self.drained:
            self.demoting = KvTier.DISK
        if self.demoting is None:
            self.memory.sink(self._now_us)
        elif self.memory.demote_idle(self.demoting, self._now_us):
            self.demoting = None
            self.drained = self.draining and idle

    # --- agents -------------------------------------------------------------------------------

    def _agent_of(self, turn: Turn) -> AgentRecord:
        arrival = turn.arrival
        key = (arrival.tenant, arrival.agent or f"request-{arrival.request}")
        record = self.agents.get(key)
        if record is None:
            record = AgentRecord(
                arrival.tenant, arrival.service_tier, arrival.session, key[1], arrival.parent_agent
            )
            self.agents[key] = record
            self._forget_oldest_agents()
        record.service_tier, record.last_use_us = arrival.service_tier, self._now_us
        self.agents.move_to_end(key)
        return record

    def _forget_oldest_agents(self) -> None:
        while len(self.agents) > self.config.max_agents:
            self.agents.popitem(last=False)

    def _remember(self, turn: Turn) -> None:
        record = self._agent_of(turn)
        record.open_turns.pop(turn.id, None)
        if not turn.arrival.agent:  # nobody said who it was, so nobody can come back as it
            self.agents.pop((record.tenant, record.agent), None)
        record.turns += 1
        record.tokens, record.units, record.tail = turn.total, tuple(turn.units), turn.tail

    # --- invariants ---------------------------------------------------------------------------

    def check(self) -> None:
        """Assert what must stay true; after every step in tests, while idle in production."""
        self.memory.check(sum(self.turns[r].frames for r in self.running))
        assert len(self.waiting) + len(self.running) == len(self.turns)
        for request in self.running:
            self._check_running(self.turns[request])
        claimed = [block for turn in self.turns.values() for block in turn.claimed]
        claims = sum(1 for block in claimed if self.memory.index.get(block.id) is block)
        assert claims == sum(b.claims for b in self.memory.index.blocks.values())
        pins = sum(len(self.turns[r].path) for r in self.running)
        assert pins == sum(b.pins for b in self.memory.index.blocks.values())

    def _check_running(self, turn: Turn) -> None:
        assert turn.state is TurnState.RUNNING
        assert turn.computed <= turn.total
        assert turn.blocks_held >= self.config.blocks_for(turn.computed)
        assert all(block.device for block in turn.path)

    # --- where things lie ---------------------------------------------------------------------

    def state_of(self, record: AgentRecord) -> str:
        """``idle`` between turns, else the state of the agent's oldest open turn."""
        for request in record.open_turns:
            return self.turns[request].state.value
        return "idle"

    def where(self, record: AgentRecord) -> tuple[int, dict[KvTier, int]]:
        """An agent's context in tokens, and in which KV tier they lie (each counted once)."""
        for request in record.open_turns:
            turn = self.turns[request]
            if turn.state is TurnState.RUNNING:
                return turn.total, {**dict.fromkeys(KvTier, 0), KvTier.DEVICE: turn.computed}
            return turn.total, self._spread(self._stored_path(turn))
        return record.tokens, self._spread(self._remembered_path(record))

    def _spread(self, path: Iterable[Match]) -> dict[KvTier, int]:
        counts = dict.fromkeys(KvTier, 0)
        for match in path:
            counts[match.block.fastest()] += match.n_tokens
        return counts

    def _remembered_path(self, record: AgentRecord) -> list[Match]:
        path = list(self.memory.index.walk(record.units, record.tokens))
        tail = self.memory.index.get(record.tail)
        if tail is not None and len(path) > tail.meta.depth:
            path[tail.meta.depth :] = [Match(tail, tail.meta.n_tokens)]
        return path
