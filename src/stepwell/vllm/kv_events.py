"""vLLM's KV events, as it publishes them over ZeroMQ: what was stored in which KV tier, and what is gone.

Read in 0.32.0 (``vllm/distributed/kv_events.py``); fields that are not needed here, the tokens above all, are
not decoded. A message is numbered, so that a reader knows when it has missed one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from stepwell.policy.types import Caller

BlockHash = int | bytes
AgentName = tuple[str, str]
"""Tenant and agent."""
Numbered = tuple[int, bytes]
"""A message's number and the message."""


class Stored(msgspec.Struct, tag="BlockStored", gc=False):
    """Blocks, one after the other in a prompt, that can be found from now on."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None = None
    block_size: int = 0
    """Tokens; 0 where the KV tier below does not say."""
    medium: str | None = None
    """``GPU`` (the device, whatever it is), ``CPU`` or ``STORAGE``."""
    group_idx: int | None = None
    session_id: str | None = None


class Removed(msgspec.Struct, tag="BlockRemoved", gc=False):
    """Blocks that cannot be found there any more."""

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None


class Cleared(msgspec.Struct, tag="AllBlocksCleared", gc=False):
    """The device holds nothing any more."""


KvEvent = Stored | Removed | Cleared


class KvEventBatch(msgspec.Struct, array_like=True, gc=False):
    """One message: what one step has changed."""

    ts: float
    """Seconds since 1970, by the engine's clock."""
    events: list[KvEvent]


_DECODER = msgspec.msgpack.Decoder(KvEventBatch)


def session_of(caller: Caller) -> str:
    """How an agent is named in events; ``agent_of`` reads it back."""
    return json.dumps([caller.tenant, caller.agent], separators=(",", ":"))


def agent_of(session: str | None) -> AgentName | None:
    """None: the event names no agent, or not in our way."""
    try:
        named = json.loads(session or "")
    except ValueError:
        return None
    if not isinstance(named, list) or len(named) != 2 or not all(isinstance(name, str) for name in named):
        return None
    return named[0], named[1]


class Listener(Protocol):
    """What is told."""

    def apply(self, events: Iterable[KvEvent]) -> None: ...

    def clear(self) -> None: ...


class InOrder:
    """Hands messages on in their order. One that was missed is asked for again; where that fails everything
    is forgotten, for what is not known to be gone must not be taken to be there."""

    def __init__(self, listener: Listener, replay: Callable[[int], list[Numbered]]) -> None:
        """``replay``: messages from a number on, as far as the engine still has them; empty: it does not
        answer. Asked once for each gap."""
        self._listener, self._replay = listener, replay
        self._next = 0
        self._last_ts = 0.0
        self.gaps = 0
        self.forgotten = 0
        """Gaps that could not be closed."""

    def take(self, number: int, message: bytes) -> None:
        """Raises ``msgspec.DecodeError`` for what is no message."""
        try:
            batch = _DECODER.decode(message)
        except msgspec.DecodeError:
            self._next = max(self._next, number + 1)
            self._forget()
            raise
        if number < self._next:
            if batch.ts <= self._last_ts:
                return  # known from a replay
            self._next = 0  # another life of the engine, which counts from the beginning
            self._listener.clear()
        if number > self._next:
            self._close_gap()
        if number > self._next:
            self._forget()
        if number >= self._next:
            self._hand_on(number, batch)

    def _close_gap(self) -> None:
        self.gaps += 1
        for number, message in self._replay(self._next):
            if number < self._next:
                continue
            if number > self._next:
                self._forget()
            try:
                self._hand_on(number, _DECODER.decode(message))
            except msgspec.DecodeError:
                self._next = number + 1
                self._forget()

    def _forget(self) -> None:
        self.forgotten += 1
        self._listener.clear()

    def _hand_on(self, number: int, batch: KvEventBatch) -> None:
        self._next, self._last_ts = number + 1, batch.ts
        self._listener.apply(batch.events)
