"""Blocks and sequences on frames: the Engine contract's memory half, without any computing.

A node is one frame's worth of one prefix. It is named (a sealed block), private to a sequence (not
sealed yet), and it is used by any number of sequences. Named nodes outlive the sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepwell.engines.base import Buffer, EngineError, NoRoom
from stepwell.engines.llamacpp.cells import FRAME_TOKENS, SCRATCH, Cells, Kv
from stepwell.engines.llamacpp.frames import FramePlace, FrameTable, NoFreeFrame
from stepwell.engines.llamacpp.homes import Homes
from stepwell.engines.llamacpp.kept_states import KeptStates, States
from stepwell.policy.types import BlockId, BlockMeta, RequestId


@dataclass(eq=False, slots=True)
class FrameNode(FramePlace):
    """One frame of a prefix. Its home is reserved from the start and holds the cells once ``homed``."""

    depth: int = 0
    home: int = -1
    homed: bool = False
    tokens: int = 0
    users: list[int] = field(default_factory=list)
    """Ids of the running sequences whose context this is part of."""
    block: BlockMeta | None = None
    state: bytes | bytearray | None = None
    """The running state behind its last token, of models that keep one."""

    @property
    def first(self) -> int:
        """Its first position."""
        return self.depth * FRAME_TOKENS

    @property
    def end(self) -> int:
        return self.first + self.tokens


@dataclass(eq=False, slots=True)
class DeviceSequence:
    """A sequence on the device: its id in the cache and its nodes, root first."""

    seq: int
    nodes: list[FrameNode] = field(default_factory=list)
    tokens: int = 0
    keeps: list[int] = field(default_factory=list)
    """Ends of blocks, still to come, at which its running state is to be kept."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens ``[offset, offset + count)`` of item ``item`` go into neighbouring cells from ``cell`` on."""

    cell: int
    item: int
    offset: int
    count: int


class Device:
    """See ``Engine``; every method leaves the cache full below the mark and the frames in order."""

    def __init__(
        self,
        kv: Kv,
        cells: Cells,
        homes: Homes,
        running_ids: Iterable[int],
        size_of: Sequence[int],
        states: States | None = None,
        most_states: int = 0,
    ) -> None:
        """``size_of[n]``: bytes of the cells of a block of ``n`` tokens. ``most_states``: see
        ``EngineInfo.device_states``."""
        self._kv = kv
        self._cells = cells
        self._homes = homes
        self._size_of = size_of
        self._frames = FrameTable(cells.n_frames)
        self._free_ids = sorted(running_ids, reverse=True)
        self.blocks: dict[BlockId, FrameNode] = {}
        self.runs: dict[RequestId, DeviceSequence] = {}
        self._states = KeptStates(states, size_of, most_states, self.nodes, self.runs)
        self._held_back: list[FramePlace] = []
        self.shifts = 0
        """How many frames have been moved to keep the order; for benchmarks and the curious."""

    def hold_back(self, n_cells: int) -> None:
        """Keep the lowest frame for the caller, which fills its first cells at once and for good."""
        place = FramePlace(None)
        self._frames.add(place)
        self._held_back.append(place)
        self._cells.open([(place.frame, n_cells)])

    # --- sequences ----------------------------------------------------------------------------

    def open(self, request: RequestId, blocks: Sequence[BlockId], n_tokens: int) -> None:
        """Attach a new sequence to the first ``n_tokens`` tokens of ``blocks``."""
        if request in self.runs:
            raise EngineError(f"request {request} is open already")
        nodes = self._prefix(blocks, n_tokens)
        if not self._free_ids:
            raise NoRoom("every sequence is taken")
        run = DeviceSequence(self._free_ids.pop())
        whole = n_tokens // FRAME_TOKENS
        self._attach(run, nodes[:whole])
        try:
            if n_tokens % FRAME_TOKENS:
                self._copy_part(run, nodes[whole], n_tokens % FRAME_TOKENS)
            self._states.go_on_from(run, nodes)
        except EngineError:
            self._detach([run])
            raise
        self.runs[request] = run

    def _prefix(self, blocks: Sequence[BlockId], n_tokens: int) -> list[FrameNode]:
        """The nodes of these blocks, if they are one prefix of that many tokens."""
        nodes = [self._known(block) for block in blocks]
        for depth, node in enumerate(nodes):
            if node.depth != depth or node.parent is not (nodes[depth - 1] if depth else None):
                raise EngineError("the blocks do not form one prefix")
        left = n_tokens - FRAME_TOKENS * (len(nodes) - 1)
        full = all(node.tokens == FRAME_TOKENS for node in nodes[:-1])
        if not full or (nodes and not 0 < left <= nodes[-1].tokens) or (not nodes and n_tokens):
            raise EngineError("the blocks do not hold that many tokens")
        return nodes

    def _known(self, block: BlockId) -> FrameNode:
        try:
            return self.blocks[block]
        except KeyError:
            raise EngineError(f"block {block.hex()} is not on the device") from None

    def _attach(self, run: DeviceSequence, nodes: Sequence[FrameNode]) -> None:
        """Share full nodes. Neighbours with one home are copied by one call: a call walks all cells."""
        done = 0
        for i, node in enumerate(nodes):
            node.users.append(run.seq)
            if i + 1 == len(nodes) or nodes[i + 1].home != node.home:
                self._kv.copy(node.home, run.seq, nodes[done].first, node.end)
                done = i + 1
        run.nodes.extend(nodes)
        run.tokens += FRAME_TOKENS * len(nodes)

    def _copy_part(self, run: DeviceSequence, source: FrameNode, n_tokens: int) -> None:
        """The sequence will write behind these tokens, and not into the block's own frame."""
        data = self._save(source, n_tokens)
        node = self._add(run.nodes[-1] if run.nodes else None, source.depth)
        self._cells.open([(node.frame, n_tokens)])
        self._bring_back(data)
        self._kv.copy(SCRATCH, run.seq, node.first, node.first + n_tokens)
        self._kv.remove(SCRATCH)
        self._append(run, node)
        node.tokens = n_tokens
        run.tokens += n_tokens

    def _append(self, run: DeviceSequence, node: FrameNode) -> None:
        node.users.append(run.seq)
        run.nodes.append(node)

    def close(self, requests: Sequence[RequestId]) -> None:
        """Take sequences off the device, if they are on it."""
        self._detach([self.runs.pop(request) for request in requests if request in self.runs])

    def _detach(self, runs: Sequence[DeviceSequence]) -> None:
        for run in runs:
            self._kv.remove(run.seq)
            for node in run.nodes:
                node.users.remove(run.seq)
            self._free_ids.append(run.seq)
        private = [node for run in runs for node in reversed(run.nodes) if node.block is None]
        self._forget(private)

    def _forget(self, nodes: Sequence[FrameNode]) -> None:
        """Free the frames of nodes that are not used any more, children before parents."""
        hollow = []
        for node in nodes:
            assert not node.users
            frame = node.frame
            self._frames.remove(node)
            if node.homed and node.tokens == FRAME_TOKENS:
                self._cells.leave(frame, node.home, node.depth)
                continue
            if node.homed:
                self._kv.remove(node.home, node.first, node.end)
            self._homes.give(node.home, node.depth)
            if self._cells.live[frame]:
                hollow.append(frame)
        self._cells.refill(hollow)

    # --- blocks -------------------------------------------------------------------------------

    def seal(self, request: RequestId, block: BlockMeta) -> None:
        """Give the sequence's node at ``block.depth`` a name; it must hold exactly these tokens."""
        run = self.runs.get(request)
        if run is None or block.depth >= len(run.nodes) or block.id in self.blocks:
            raise EngineError(f"block {block.id.hex()} cannot be sealed for request {request}")
        node = run.nodes[block.depth]
        if node.block is not None or node.tokens != block.n_tokens:
            raise EngineError(f"block {block.id.hex()} is not what request {request} holds there")
        parent = run.nodes[block.depth - 1].block if block.depth else None
        if (parent.id if parent else None) != block.parent:
            raise EngineError(f"the parent of block {block.id.hex()} is not sealed")
        self._states.settle(run, node, block)
        self._move_in(node)
        node.block = block
        self.blocks[block.id] = node

    def keep_state(self, request: RequestId, tokens: int) -> None:
        self._states.keep(request, tokens)

    def drop_state(self, block: BlockId) -> None:
        self._known(block).state = None

    def load_state(self, block: BlockMeta, data: Buffer) -> None:
        self._states.load(self._known(block.id), block, data)

    def adopt(self, request: RequestId, block: BlockMeta) -> None:
        """The frame of the sequence's last node goes, and its cells are those of the block's node."""
        run, known = self.runs.get(request), self._known(block.id)
        own = run.nodes[-1] if run is not None and run.nodes else None
        if run is None or own is None or own.block is not None or own.depth != block.depth:
            raise EngineError(f"request {request} has no frame for block {block.id.hex()}")
        if run.tokens != own.end or own.tokens != known.tokens or own.parent is not known.parent:
            raise EngineError(f"request {request} does not stand at the end of block {block.id.hex()}")
        own.state, had = None, own.state  # it is the block's, or there is none
        if known.state is None and block.size_bytes > self._size_of[block.n_tokens]:
            known.state = had
        self._kv.remove(run.seq, own.first, own.end)
        self._kv.copy(known.home, run.seq, known.first, known.end)
        own.users.remove(run.seq)
        known.users.append(run.seq)
        run.nodes[-1] = known
        self._forget([own])

    def _move_in(self, node: FrameNode) -> None:
        if not node.homed:
            self._kv.copy(node.users[0], node.home, node.first, node.end)
            node.homed = True

    def drop(self, block: BlockId) -> None:
        """Forget a block that is neither used nor continued."""
        node = self._known(block)
        if node.users or node.children:
            holder = "an open sequence uses" if node.users else "another block continues"
            raise EngineError(f"{holder} block {block.hex()}")
        del self.blocks[block]
        node.block = None
        self._forget([node])

    def store(self, block: BlockId) -> bytearray:
        node = self._known(block)
        data = self._save(node, node.tokens)
        return data + node.state if node.state is not None else data

    def load(self, block: BlockMeta, data: Buffer) -> None:
        """Bring a block back below its parent. A refused block leaves everything as it was."""
        parent = self._known(block.parent) if block.parent is not None else None
        self._check_load(block, parent, data)
        node = self._add(parent, block.depth)
        self._cells.open([(node.frame, block.n_tokens)])
        cells_bytes = self._size_of[block.n_tokens]
        taken = self._kv.restore(SCRATCH, data[:cells_bytes] if len(data) > cells_bytes else data)
        found = self._kv.span(SCRATCH)
        if taken and found == (node.first, node.first + block.n_tokens - 1):
            self._kv.copy(SCRATCH, node.home, node.first, node.first + block.n_tokens)
            node.tokens, node.homed, node.block = block.n_tokens, True, block
            if len(data) > cells_bytes:
                node.state = bytes(data[cells_bytes:])
            self.blocks[block.id] = node
            self._kv.remove(SCRATCH)
        else:
            self._kv.remove(SCRATCH)
            self._forget([node])
            raise EngineError(f"the bytes of block {block.id.hex()} are not a block at this place")

    def _check_load(self, block: BlockMeta, parent: FrameNode | None, data: Buffer) -> None:
        depth = parent.depth + 1 if parent is not None else 0
        if block.id in self.blocks:
            raise EngineError(f"block {block.id.hex()} is on the device already")
        if block.depth != depth or (parent is not None and parent.tokens != FRAME_TOKENS):
            raise EngineError(f"block {block.id.hex()} does not continue its parent")
        if not 0 < block.n_tokens <= FRAME_TOKENS or len(data) != self._states.bytes_of(block):
            raise EngineError(f"the bytes of block {block.id.hex()} have the wrong size")
        if len(data) > self._size_of[block.n_tokens]:
            self._states.require_room()

    # --- growing ------------------------------------------------------------------------------

    def missing(self, request: RequestId, count: int) -> int:
        """Frames the sequence must get before it can hold ``count`` more tokens."""
        run = self.runs[request]
        return max(0, -(-(run.tokens + count) // FRAME_TOKENS) - len(run.nodes))

    def ends_sealed(self, request: RequestId) -> bool:
        """Whether the last tokens are a sealed tail: its frame is the block's and not written any more."""
        run = self.runs[request]
        return bool(run.tokens % FRAME_TOKENS) and run.nodes[run.tokens // FRAME_TOKENS].block is not None

    @property
    def n_free(self) -> int:
        return self._frames.n_free

    def reserve(self, request: RequestId, count: int) -> None:
        """Give the sequence frames for ``count`` more tokens."""
        run = self.runs[request]
        for _ in range(self.missing(request, count)):
            self._append(run, self._add(run.nodes[-1] if run.nodes else None, len(run.nodes)))

    def prepare(self, items: Sequence[tuple[RequestId, int]]) -> list[Stretch]:
        """Free exactly the cells of the next ``count`` tokens of each reserved sequence.

        Returns the stretches in the order of their cells: tokens run in this order land in place.
        Afterwards ``commit`` (they were run) or ``close`` (they were not) must follow.
        """
        stretches, wanted = [], []
        for index, (request, count) in enumerate(items):
            run, offset = self.runs[request], 0
            while offset < count:
                position = run.tokens + offset
                node, used = run.nodes[position // FRAME_TOKENS], position % FRAME_TOKENS
                n = min(FRAME_TOKENS - used, count - offset)
                stretches.append(Stretch(node.frame * FRAME_TOKENS + used, index, offset, n))
                wanted.append((node.frame, used + n))
                offset += n
        self._cells.open(wanted)
        stretches.sort(key=lambda stretch: stretch.cell)
        return stretches

    def commit(self, items: Sequence[tuple[RequestId, int]]) -> None:
        """The tokens are in their cells. Full nodes move in: a sequence's own hold is not enough
        where a sliding window lets llama.cpp overwrite what only one id holds."""
        for request, count in items:
            run = self.runs[request]
            first = run.tokens // FRAME_TOKENS
            run.tokens += count
            # Frames behind the last token may have been reserved for more than was run.
            for node in run.nodes[first : -(-run.tokens // FRAME_TOKENS)]:
                node.tokens = min(run.tokens - node.first, FRAME_TOKENS)
                if node.tokens == FRAME_TOKENS:
                    self._move_in(node)
                    self._states.reached(run, node)

    def take_back(self, request: RequestId, n_tokens: int) -> None:
        """The sequence ends after ``n_tokens``: those behind them were drafted, in one unfinished frame."""
        run = self.runs[request]
        if n_tokens == run.tokens:
            return
        node = run.nodes[(run.tokens - 1) // FRAME_TOKENS]
        if not node.first < n_tokens < run.tokens or node.homed or self._states.active:
            raise EngineError(f"request {request} cannot go back to {n_tokens} of {run.tokens} tokens")
        self._cells.take_back(node.frame, n_tokens - node.first, run.seq, node.home, node.depth)
        node.tokens = n_tokens - node.first
        run.tokens = n_tokens

    # --- frames -------------------------------------------------------------------------------

    def _add(self, parent: FrameNode | None, depth: int) -> FrameNode:
        """A new empty node with a frame above its parent's and a home."""
        home = self._homes.take(depth)
        if home is None and self._cells.compact():
            home = self._homes.take(depth)
        if home is None:
            raise NoRoom(f"llama.cpp has no sequence id left for another block at depth {depth}")
        node = FrameNode(parent, depth=depth, home=home)
        try:
            shifts = self._frames.add(node)
        except NoFreeFrame:
            self._homes.give(home, depth)
            raise NoRoom("no frame is free") from None
        for shift in shifts:
            assert isinstance(shift.place, FrameNode)
            self._move(shift.place, shift.source, shift.target)
        return node

    def _move(self, node: FrameNode, source: int, target: int) -> None:
        """Carry a node's cells to another frame, for all that hold them."""
        self.shifts += 1
        if not node.tokens:
            return
        data = self._save(node, node.tokens)
        self._cells.open([(target, node.tokens)])
        self._bring_back(data)
        for user in node.users:
            self._exchange(user, node)
        second = self._homes.take(node.depth) if node.homed and node.tokens == FRAME_TOKENS else None
        if second is not None:
            # The old home keeps the old cells: they become waste as they are, which saves a refill.
            self._kv.copy(SCRATCH, second, node.first, node.end)
            self._kv.remove(SCRATCH)
            self._cells.leave(source, node.home, node.depth)
            node.home = second
            return
        if node.homed:
            self._exchange(node.home, node)
        self._kv.remove(SCRATCH)
        self._cells.refill([source])

    def _exchange(self, seq: int, node: FrameNode) -> None:
        self._kv.remove(seq, node.first, node.end)
        self._kv.copy(SCRATCH, seq, node.first, node.end)

    def _save(self, node: FrameNode, n_tokens: int) -> bytearray:
        holder = node.home if node.homed else node.users[0]
        self._kv.copy(holder, SCRATCH, node.first, node.first + n_tokens)
        data = self._kv.save(SCRATCH, self._size_of[n_tokens])
        self._kv.remove(SCRATCH)
        return data

    def _bring_back(self, data: Buffer) -> None:
        taken = self._kv.restore(SCRATCH, data)
        assert taken, "llama.cpp refused a block it had written itself"

    # --- invariants ---------------------------------------------------------------------------

    def nodes(self) -> list[FrameNode]:
        own = [node for run in self.runs.values() for node in run.nodes if node.block is None]
        return [*self.blocks.values(), *own]

    def check(self) -> None:
        """Assert that our tables agree with each other and with what llama.cpp says it holds."""
        nodes = self.nodes()
        self._frames.check([*nodes, *self._held_back])
        self._cells.check()
        for node in nodes:
            assert self._cells.live[node.frame] == node.tokens
            assert not node.homed or node.tokens
            users = [run.seq for run in self.runs.values() if node in run.nodes]
            assert sorted(node.users) == sorted(users)
        assert self._kv.span(SCRATCH) == (-1, -1)
        for run in self.runs.values():
            assert run.tokens == sum(node.tokens for node in run.nodes)
            assert self._kv.span(run.seq) == ((0, run.tokens - 1) if run.tokens else (-1, -1))
        self._check_homes(nodes)
        self._states.check()

    def _check_homes(self, nodes: Sequence[FrameNode]) -> None:
        held: dict[int, list[tuple[int, int]]] = {}
        for node in nodes:
            if node.homed:
                held.setdefault(node.home, []).append((node.first, node.end))
        for frame, waste in enumerate(self._cells.waste):
            if waste is not None:
                first = waste.depth * FRAME_TOKENS
                left = self._cells.leftovers.get(frame)
                start = self._cells.live[frame] if left is None else left.end
                span = (first + start, first + FRAME_TOKENS)
                held.setdefault(waste.home, []).append(span)
        for frame, kept in self._cells.leftovers.items():
            first = kept.depth * FRAME_TOKENS
            held.setdefault(kept.home, []).append((first + self._cells.live[frame], first + kept.end))
        for home, spans in held.items():
            expected = (min(first for first, _ in spans), max(end for _, end in spans) - 1)
            assert self._kv.span(home) == expected, f"home {home} does not hold what it should"
