"""Running states that nodes keep: taken from a sequence, put back into one, and counted.

A state is bytes in the machine's memory. The device holds so many and no more (``EngineInfo.device_states``),
with those that sequences were told to keep and have not come to yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from stepwell.engines.base import Buffer, EngineError, NoRoom
from stepwell.engines.llamacpp.cells import FRAME_TOKENS
from stepwell.policy.types import BlockMeta, RequestId


class States(Protocol):
    """Running states of sequences; ``checkpoint_bytes`` is 0 for models that keep none."""

    checkpoint_bytes: int

    def take_state(self, seq: int) -> bytearray: ...

    def put_state(self, seq: int, data: Buffer) -> bool: ...


class HasState(Protocol):
    """A node of the prefix tree."""

    state: bytes | bytearray | None
    tokens: int

    @property
    def end(self) -> int: ...


class Stated(Protocol):
    """A sequence."""

    seq: int
    tokens: int
    keeps: list[int]


class KeptStates:
    """The states of one device. ``nodes``: all that it has now."""

    def __init__(
        self,
        states: States | None,
        size_of: Sequence[int],
        most: int,
        nodes: Callable[[], Iterable[HasState]],
        runs: Mapping[RequestId, Stated],
    ) -> None:
        """``size_of[n]``: bytes of the cells of a block of ``n`` tokens. ``most``: 0: as many as nodes."""
        self._states = states if states is not None and states.checkpoint_bytes else None
        self.state_bytes = states.checkpoint_bytes if states is not None else 0
        self._size_of, self._most, self._nodes, self._runs = size_of, most, nodes, runs

    @property
    def active(self) -> bool:
        """Whether the model keeps a state at all."""
        return self._states is not None

    def bytes_of(self, block: BlockMeta) -> int:
        """Of a stored block: its cells, and its state if it keeps one."""
        cells_bytes = self._size_of[block.n_tokens]
        keeps = self.state_bytes and block.size_bytes > cells_bytes
        return cells_bytes + self.state_bytes if keeps else cells_bytes

    # --- room ---------------------------------------------------------------------------------

    def count(self) -> int:
        """States that are there, and those that sequences were told to keep."""
        kept = sum(node.state is not None for node in self._nodes())
        return kept + sum(len(run.keeps) for run in self._runs.values())

    def require_room(self) -> None:
        """``NoRoom`` when one more would be too many."""
        if self._most and self.count() >= self._most:
            raise NoRoom(f"the device holds no more than {self._most} running states")

    def check(self) -> None:
        assert not self._most or self.count() <= self._most, "too many running states"

    # --- of a sequence ------------------------------------------------------------------------

    def keep(self, request: RequestId, tokens: int) -> None:
        """Its state is kept when it has computed so many tokens, where a block ends."""
        run = self._runs.get(request)
        if run is None or tokens % FRAME_TOKENS or tokens <= run.tokens:
            raise EngineError(f"request {request} cannot keep its state at {tokens} tokens")
        self.require_room()
        run.keeps.append(tokens)

    def reached(self, run: Stated, node: HasState) -> None:
        """The sequence has filled a node: take its state if it was told to keep it here."""
        if self._states is not None and node.end == run.tokens and node.end in run.keeps:
            run.keeps.remove(node.end)
            node.state = self._states.take_state(run.seq)

    def go_on_from(self, run: Stated, nodes: Sequence[HasState]) -> None:
        """Give the sequence the state at its last token."""
        if self._states is None or not nodes:
            return
        last = nodes[-1]
        if last.state is None or last.end != run.tokens:
            raise EngineError(f"there is no running state after {run.tokens} tokens")
        if not self._states.put_state(run.seq, last.state):
            raise EngineError(f"llama.cpp refused the running state after {run.tokens} tokens")

    def settle(self, run: Stated, node: HasState, block: BlockMeta) -> None:
        """Leave the node with a state if ``block`` has room for one, and without if not."""
        if self._states is None:
            return
        if block.size_bytes <= self._size_of[block.n_tokens]:
            node.state = None
        elif node.state is None:
            if run.tokens != node.end:
                raise EngineError(f"the running state at the end of block {block.id.hex()} has gone")
            self.require_room()
            node.state = self._states.take_state(run.seq)

    # --- of a block ---------------------------------------------------------------------------

    def load(self, node: HasState, block: BlockMeta, data: Buffer) -> None:
        """Give a node the state of its stored bytes."""
        cells_bytes = self._size_of[block.n_tokens]
        if self._states is None or len(data) != cells_bytes + self.state_bytes:
            raise EngineError(f"the bytes of block {block.id.hex()} have no running state")
        self.require_room()
        node.state = bytes(data[cells_bytes:])
