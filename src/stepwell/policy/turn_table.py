"""The turn table: waiting and running turns, and what each holds, waits for and has promised.

sealed   a frame of a running turn has become a block that outlives it
claimed  a waiting turn is about to load a block: its copies below the device stay
promised a running turn is computing a prompt block: others that need it wait instead of
         computing it again
"""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.policy.block_index import Block, Match, blocks_of, in_common
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.checkpoints import Checkpoints
from stepwell.policy.config import PolicyConfig
from stepwell.policy.contracts import ContractBook
from stepwell.policy.invariants import check_blocks
from stepwell.policy.queue import Queue
from stepwell.policy.turns import Turn, TurnState
from stepwell.policy.types import BlockId, BlockMeta, Close, RequestId, Seal


class TurnTable:
    """The turns of all requests that have not ended, over one ``BlockManager``."""

    def __init__(self, config: PolicyConfig, block_manager: BlockManager) -> None:
        self.config = config
        self.block_manager = block_manager
        self.checkpoints = Checkpoints(config, block_manager)
        self.book = ContractBook(config.contracts, ordered=config.ordered)
        self.turns: dict[RequestId, Turn] = {}
        self.waiting = Queue(self.book)
        self.running: list[RequestId] = []
        """In order of admission: among equals the last one is preempted first."""
        self.preemptions = 0
        self.promised: dict[BlockId, RequestId] = {}
        self.fetches = False
        """Whether a turn waits for blocks from disk, as of the last look at the queue."""
        self._claimants: dict[RequestId, None] = {}

    @property
    def now_us(self) -> int:
        """The time of the step."""
        return self.block_manager.now_us

    # --- sealing ------------------------------------------------------------------------------

    def seal_full_blocks(self, turn: Turn, *, ends: bool = False) -> None:
        """``ends``: the turn leaves the device, so its last full block is sealed as well."""
        block_tokens = self.config.block_tokens
        while not turn.stuck and (len(turn.path) + 1) * block_tokens <= turn.computed:
            if self.checkpoints.active and not ends and self.checkpoints.defers(turn):
                return
            depth = len(turn.path)
            last = (depth + 1) * self.config.units_per_block
            self._seal(turn, turn.units[last - 1], block_tokens)

    def _seal(self, turn: Turn, name: BlockId, n_tokens: int) -> bool:
        """Turn the frame behind the sealed path into a block called ``name``; False if it cannot be."""
        known = self.block_manager.index.get(name)
        if self.checkpoints.active and known is not None and self._adopt(turn, known, n_tokens):
            return True
        size_bytes = self._size_for(turn, known, n_tokens)
        if size_bytes is None or (
            known is not None and known.device and not self.block_manager.drop_device_copy(known)
        ):
            turn.stuck = True  # another turn has computed the same tokens meanwhile
            self.break_promises(turn)
            return False
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
            size_bytes,
        )
        block = self.block_manager.sealed(meta, turn.id)
        self.checkpoints.give(block, meta)
        self.block_manager.actions.append(Seal(turn.id, meta))
        turn.path.append(block)
        turn.frames -= 1
        if self.checkpoints.active:
            self.checkpoints.count(turn)
        self._keep_promise(turn, name)
        self._replace_opened_tail(turn, meta)
        return True

    def _size_for(self, turn: Turn, known: Block | None, n_tokens: int) -> int | None:
        if not self.checkpoints.active:
            return self.config.size_of(n_tokens)
        return self.checkpoints.size_for(turn, known, n_tokens)

    def _adopt(self, turn: Turn, known: Block, n_tokens: int) -> bool:
        if n_tokens < self.config.block_tokens or not self.checkpoints.adopt(turn, known):
            return False
        self._keep_promise(turn, known.id)
        self._replace_opened_tail(turn, known.meta)
        return True

    def _keep_promise(self, turn: Turn, name: BlockId) -> None:
        if self.promised.get(name) == turn.id:
            del self.promised[name]
            turn.promised.remove(name)
            self.checkpoints.wanted.pop(name, None)

    def _replace_opened_tail(self, turn: Turn, meta: BlockMeta) -> None:
        """The block this turn went on from is now the beginning of a longer one: one is enough."""
        old = turn.opened_tail
        if old is None or old.meta.depth != meta.depth:
            return
        turn.opened_tail = None
        longer = set(meta.units)  # membership only, never iterated
        if old.id != meta.id and all(unit in longer for unit in old.meta.units):
            self.block_manager.forget(old)

    def seal_tail(self, turn: Turn, least_tokens: int) -> BlockId | None:
        """The turn is about to leave the device: what it holds beyond whole blocks is kept as well."""
        if self.checkpoints.active:
            self.seal_full_blocks(turn, ends=True)
        rest = turn.computed - len(turn.path) * self.config.block_tokens
        if turn.stuck or turn.frames < 1 or rest < least_tokens or not turn.tail:
            return None
        return turn.tail if self._seal(turn, turn.tail, rest) else None

    # --- leaving the device -------------------------------------------------------------------

    def leave_device(self, turn: Turn, *, preempted: bool) -> None:
        by = self.block_manager.beneficiary if preempted else 0
        self.block_manager.actions.append(Close(turn.id, preempted, by))
        turn.record.path = list(turn.path)
        self.block_manager.eviction.agent_continued(turn.record, turn.record.path)
        self.block_manager.touch(turn.path)
        self.give_back(turn)

    def give_back(self, turn: Turn) -> None:
        self.running.remove(turn.id)
        self.break_promises(turn)
        self.block_manager.give_frames(turn.frames)
        self.block_manager.states.pends(turn.id, 0)
        self.block_manager.unpin_all(turn.path)
        turn.path, turn.frames, turn.stuck, turn.opened_tail = [], 0, False, None
        turn.computed = 0

    def preempt(self, turn: Turn) -> None:
        """Take a running turn off the device. Its KV stays as blocks and sinks; nothing is lost."""
        turn.resume = self.seal_tail(turn, 1)
        self.leave_device(turn, preempted=True)
        turn.state = TurnState.PREEMPTED
        turn.had_place = True
        self.preemptions += 1
        self.wait_again(turn)

    def wait_again(self, turn: Turn) -> None:
        """Back to the head of its line, with the time that it has waited before."""
        turn.stands_still(self.now_us)
        turn.waits = None
        self.waiting.add_first(turn)

    def preemptable(self, turn: Turn) -> tuple[int, int, int, int]:
        """Smaller goes first: not the leader of those at their bound, the lightest service tier, no turn that
        has waited too long, the youngest."""
        return turn.leads, turn.contract.weight, turn.aged, -self.running.index(turn.id)

    # --- promises and claims ------------------------------------------------------------------

    def promise(self, turn: Turn) -> None:
        """Other turns that need the prompt blocks that this turn computes now will wait for them, and for the
        running state at the end of what was stored before."""
        branch = turn.branch_tokens
        per_block = self.config.units_per_block
        for last in range((len(turn.path) + 1) * per_block, len(turn.units) + 1, per_block):
            name = turn.units[last - 1]
            known = self.block_manager.index.get(name)
            if name not in self.promised and (known is None or last * self.config.unit_tokens == branch):
                self.promised[name] = turn.id
                turn.promised.append(name)

    def break_promises(self, turn: Turn) -> None:
        for name in turn.promised:
            del self.promised[name]
            self.checkpoints.wanted.pop(name, None)
        turn.promised = []

    def claim(self, turn: Turn, path: Sequence[Match]) -> None:
        blocks, claimed = blocks_of(path), turn.claimed
        if blocks != claimed:
            same = in_common(claimed, blocks)  # as a rule a path grows or shrinks at its end
            self.block_manager.claim(blocks[same:])
            self.block_manager.release(claimed[same:])
            turn.claimed = blocks
        self._claimants[turn.id] = None

    def unclaim(self, turn: Turn) -> None:
        if turn.claimed:
            self.block_manager.release(turn.claimed)
            turn.claimed = []

    def release_claims_beyond(self, window: Sequence[RequestId]) -> None:
        """Turns that fell out of sight (behind a preempted one, say) let go of what they claimed."""
        for request in [r for r in self._claimants if r not in window]:
            del self._claimants[request]
            if request in self.turns:
                self.unclaim(self.turns[request])
                self._looked_at_no_more(self.turns[request])

    def all_there(self, turn: Turn, path: Sequence[Match]) -> bool:
        """Whether every block of a path that was there, or on its way, is on the device or the host."""
        stranded = self.block_manager.stranded
        if turn.all_there_at != stranded:
            if [block for block, _ in path if not (block.device or block.host)]:
                return False
            turn.all_there_at = stranded
        return True

    @staticmethod
    def _looked_at_no_more(turn: Turn) -> None:
        """What it waits for is found out anew when it is in sight again."""
        turn.planned, turn.fetching, turn.behind = None, [], False

    # --- what is stored -----------------------------------------------------------------------

    def stored_path(self, turn: Turn) -> list[Match]:
        """What is stored of the turn's tokens; at least the last one must be computed for logits."""
        path = turn.walked = self.block_manager.index.walk(turn.units, turn.total - 1, turn.walked)
        turn.stored_tokens = len(path) * self.config.block_tokens
        resumed = self.block_manager.index.get(turn.resume) if turn.resume else None
        if resumed is not None and self._continues(path, resumed, turn):
            whole = [m for m in path if m.block.meta.depth < resumed.meta.depth]
            path = [*whole, Match(resumed, resumed.meta.n_tokens)]
        return self.checkpoints.usable(path)

    @staticmethod
    def sources(turn: Turn, path: Sequence[Match]) -> tuple[int, int, int]:
        """How many tokens of a path lay on device, host and disk (what was fetched for it) when it came."""
        device = host = disk = 0
        for block, n_tokens in path:
            if not (block.device or block.host) or (turn.from_disk and block.id in turn.from_disk):
                disk += n_tokens
            elif block.device:
                device += n_tokens
            else:
                host += n_tokens
        return device, host, disk

    def _continues(self, path: list[Match], tail: Block, turn: Turn) -> bool:
        """Whether all blocks before ``tail`` are stored, so that it can be used to its last token."""
        before = [m for m in path if m.block.meta.depth < tail.meta.depth]
        ends = tail.meta.depth * self.config.block_tokens + tail.meta.n_tokens
        return len(before) == tail.meta.depth and ends < turn.total

    # --- invariants ---------------------------------------------------------------------------

    def check(self) -> None:
        """Assert what must stay true; after every step in tests, while idle in production."""
        check_blocks(self.block_manager, sum(self.turns[r].frames for r in self.running))
        assert len(self.waiting) + len(self.running) == len(self.turns)
        for request in self.running:
            self._check_running(self.turns[request])
        claimed = [block for turn in self.turns.values() for block in turn.claimed]
        claims = sum(1 for block in claimed if self.block_manager.index.get(block.id) is block)
        assert claims == sum(b.claims for b in self.block_manager.index.blocks.values())
        pins = sum(len(self.turns[r].path) for r in self.running)
        assert pins == sum(b.pins for b in self.block_manager.index.blocks.values())

    def _check_running(self, turn: Turn) -> None:
        assert turn.state is TurnState.RUNNING
        assert turn.computed <= turn.total
        assert turn.blocks_held >= self.config.blocks_for(turn.computed)
        assert all(block.device for block in turn.path)
