"""An engine that computes nothing: it obeys the contract and takes the time a cost model says.

It is the engine of the tests, of load tests and of simulation. Its KV is honest in one respect: the
"KV" of a token is a digest of everything before it, and the next token is drawn from the digest the
device holds. A block that comes back altered, or at the wrong place, changes the answer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.basics.clock import Clock, MonotonicClock
from stepwell.engines.base import (
    UNIT_TOKENS,
    AnswerPart,
    AnswerReader,
    BatchItem,
    Buffer,
    EngineError,
    EngineInfo,
    NoRoom,
    PromptToken,
    RenderedChat,
    Sampled,
    SamplingParams,
    Span,
    TokenLogprob,
)
from stepwell.policy.types import BlockId, BlockMeta, RequestId

_MASK = (1 << 64) - 1
_DIGEST_BYTES = 8
END_TOKEN, BOS_TOKEN, VOCAB_SIZE = 256, 257, 258


@dataclass(frozen=True, slots=True)
class NullConfig:
    """Sizes of the pretended device and what its work costs (measured figures go in here)."""

    model: str = "null"
    device_blocks: int = 128
    block_tokens: int = 64
    token_bytes: int = 64
    context_tokens: int = 1 << 20
    max_sequences: int = 64
    prefill_us_per_token: int = 0
    depth_ns_per_token: int = 0
    """What every earlier token adds to the cost of one."""
    decode_us_per_step: int = 0
    decode_us_per_sequence: int = 0
    copy_us_per_block: int = 0
    depth_frames: int = 0
    """How many frames may hold tokens of one depth; 0: all."""
    checkpoint_bytes: int = 0
    """Of a running state, as recurrent models have one; 0: it has none."""
    device_states: int = 0
    """How many of them the device holds; 0: one for every block."""
    adapters: tuple[str, ...] = ()
    """Names of adapters; each gives other tokens."""
    answer_tokens: int = 0
    """Mean length after which an answer ends by itself; 0: never, ``max_tokens`` ends it."""
    answer: bytes | None = None
    """A fixed answer, for tests that need a certain text."""


@dataclass(slots=True)
class _Sequence:
    digests: list[int]
    sampling: SamplingParams
    blocks: list[BlockId | None] = field(default_factory=list)
    """Per depth: the block whose frame it uses, or None for a frame of its own."""
    keeps: list[int] = field(default_factory=list)
    """Where it was told to keep its running state."""
    computed: dict[int, int] = field(default_factory=dict)
    """Tokens of a scored prompt by position."""


def _seed_of(adapter: str) -> int:
    return int.from_bytes(adapter.encode()[:8], "little")


def _next_digest(previous: int, token: int) -> int:
    """One round of splitmix64 over the state and the token."""
    z = (previous ^ (token * 0x9E3779B97F4A7C15)) + 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


def _top(count: int) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(32 + i, -1.0 - i) for i in range(count))


def _scored(sequence: _Sequence) -> tuple[PromptToken | None, ...]:
    """Made up, like all that this engine says; of the tokens that were computed alone, as it must be."""
    wanted = sequence.sampling.prompt_logprobs
    if wanted is None:
        return ()
    found: list[PromptToken | None] = [None]
    for position in range(1, len(sequence.digests)):
        token = sequence.computed.get(position)
        logprob = -(sequence.digests[position] % 1024) / 128
        found.append(None if token is None else PromptToken(TokenLogprob(token, logprob), _top(wanted)))
    return tuple(found)


class NullEngine:
    """See ``Engine``. Frames are counted exactly, so a policy that overbooks gets ``NoRoom``."""

    def __init__(self, config: NullConfig | None = None, clock: Clock | None = None) -> None:
        self.config = config or NullConfig()
        self._clock = clock or MonotonicClock()
        assert self.config.token_bytes >= _DIGEST_BYTES and self.config.token_bytes % _DIGEST_BYTES == 0
        self.info = EngineInfo(
            model=self.config.model,
            fingerprint=f"null-1:{self.config.model}:{self.config.token_bytes}",
            context_tokens=min(
                self.config.context_tokens, self.config.device_blocks * self.config.block_tokens
            ),
            block_tokens=self.config.block_tokens,
            device_blocks=self.config.device_blocks,
            max_sequences=self.config.max_sequences,
            block_bytes=self.config.block_tokens * self.config.token_bytes + self.config.checkpoint_bytes,
            token_bytes=self.config.token_bytes,
            checkpoint_bytes=self.config.checkpoint_bytes,
            device_states=self.config.device_states,
            unit_tokens=self.config.block_tokens if self.config.checkpoint_bytes else UNIT_TOKENS,
            vocab_size=VOCAB_SIZE,
            depth_frames=self.config.depth_frames,
            adapters=tuple((name, name) for name in self.config.adapters),
            draft_rows=0 if self.config.checkpoint_bytes else self.config.max_sequences + 32,
            enforces=False,
        )
        self._blocks: dict[BlockId, tuple[BlockMeta, list[int]]] = {}
        self._open: dict[RequestId, _Sequence] = {}
        self._generated: dict[RequestId, int] = {}
        self._computed: dict[RequestId, dict[int, int]] = {}
        self._frames_used = 0
        self._stateless: set[BlockId] = set()
        """Blocks that are here without the running state that they keep."""

    # --- blocks and sequences -----------------------------------------------------------------

    def open(
        self, request: RequestId, blocks: Sequence[BlockId], n_tokens: int, sampling: SamplingParams
    ) -> None:
        if request in self._open:
            raise EngineError(f"request {request} is open already")
        if len(self._open) >= self.info.max_sequences:
            raise NoRoom("every sequence is taken")
        digests, shared = self._attach(blocks, n_tokens)
        if n_tokens % self.info.block_tokens:
            self._take(1)
        self._open[request] = _Sequence(
            digests, sampling, shared, computed=self._computed.setdefault(request, {})
        )
        self._generated.setdefault(request, 0)

    def _attach(self, blocks: Sequence[BlockId], n_tokens: int) -> tuple[list[int], list[BlockId | None]]:
        digests: list[int] = []
        shared: list[BlockId | None] = []
        parent: BlockId | None = None
        for depth, name in enumerate(blocks):
            meta, kept = self._known(name)
            if meta.depth != depth or meta.parent != parent:
                raise EngineError("the blocks do not form one prefix")
            used = min(n_tokens - len(digests), self.info.block_tokens)
            if used < 1 or used > len(kept):
                raise EngineError("the blocks do not hold that many tokens")
            digests += kept[:used]
            shared.append(name if used == self.info.block_tokens else None)
            parent = name
        if len(digests) != n_tokens:
            raise EngineError("the blocks do not hold that many tokens")
        if blocks and self.config.checkpoint_bytes:
            last, kept = self._known(blocks[-1])
            if not self._has_state(last) or used < len(kept):
                raise EngineError(f"there is no running state after {n_tokens} tokens")
        return digests, shared

    def _keeps(self, block: BlockMeta) -> bool:
        return block.size_bytes > block.n_tokens * self.config.token_bytes

    def _has_state(self, block: BlockMeta) -> bool:
        return self._keeps(block) and block.id not in self._stateless

    def _n_states(self) -> int:
        """Of blocks, and those that sequences were told to keep and no block has yet."""
        kept = sum(self._has_state(meta) for meta, _ in self._blocks.values())
        return kept + sum(len(sequence.keeps) for sequence in self._open.values())

    def _require_state_room(self) -> None:
        if self.config.device_states and self._n_states() >= self.config.device_states:
            raise NoRoom(f"the device holds no more than {self.config.device_states} running states")

    def _known(self, block: BlockId) -> tuple[BlockMeta, list[int]]:
        try:
            return self._blocks[block]
        except KeyError:
            raise EngineError(f"block {block.hex()} is not on the device") from None

    def _take(self, frames: int) -> None:
        if self._frames_used + frames > self.info.device_blocks:
            raise NoRoom("no frame is free")
        self._frames_used += frames

    def forget(self, request: RequestId) -> None:
        self._generated.pop(request, None)
        self._computed.pop(request, None)

    def seal(self, request: RequestId, block: BlockMeta) -> None:
        sequence = self._open[request]
        first = block.depth * self.info.block_tokens
        if block.id in self._blocks or len(sequence.digests) < first + block.n_tokens:
            raise EngineError("the block cannot be sealed")
        end = first + block.n_tokens
        if self._keeps(block) and len(sequence.digests) != end and end not in sequence.keeps:
            raise EngineError("the running state at the end of the block has gone")
        if end in sequence.keeps:
            sequence.keeps.remove(end)
        elif self._keeps(block):
            self._require_state_room()
        self._blocks[block.id] = (block, sequence.digests[first : first + block.n_tokens])
        sequence.blocks[block.depth] = block.id

    def keep_state(self, request: RequestId, tokens: int) -> None:
        sequence = self._open.get(request)
        if sequence is None or tokens % self.info.block_tokens or tokens <= len(sequence.digests):
            raise EngineError(f"request {request} cannot keep its state at {tokens} tokens")
        self._require_state_room()
        sequence.keeps.append(tokens)

    def drop_state(self, block: BlockId) -> None:
        meta, _ = self._known(block)
        if self._keeps(meta):
            self._stateless.add(block)

    def load_state(self, block: BlockMeta, data: Buffer) -> None:
        _, digests = self._known(block.id)
        if not self._keeps(block) or len(data) != block.size_bytes:
            raise EngineError(f"the bytes of block {block.id.hex()} have no running state")
        self._require_state_room()
        self._stateless.discard(block.id)
        self._blocks[block.id] = (block, digests)

    def adopt(self, request: RequestId, block: BlockMeta) -> None:
        sequence, (_, digests) = self._open[request], self._known(block.id)
        first = block.depth * self.info.block_tokens
        own = len(sequence.blocks) == block.depth + 1 and sequence.blocks[-1] is None
        if not own or sequence.digests[first:] != digests:
            raise EngineError(f"request {request} does not stand at the end of block {block.id.hex()}")
        end = first + len(digests)
        sequence.blocks[-1] = block.id
        if end in sequence.keeps:
            sequence.keeps.remove(end)
            if self._keeps(block):
                self._blocks[block.id] = (block, digests)
                self._stateless.discard(block.id)
        self._frames_used -= 1

    def close(self, request: RequestId) -> None:
        sequence = self._open.pop(request, None)
        if sequence is not None:
            self._frames_used -= sum(1 for block in sequence.blocks if block is None)

    def drop(self, block: BlockId) -> None:
        self._known(block)
        if any(block in sequence.blocks for sequence in self._open.values()):
            raise EngineError("an open sequence uses the block")
        del self._blocks[block]
        self._stateless.discard(block)
        self._frames_used -= 1

    def store(self, block: BlockId) -> Buffer:
        self._clock.sleep_us(self.config.copy_us_per_block)
        meta, digests = self._known(block)
        repeat = self.config.token_bytes // _DIGEST_BYTES
        state = bytes(self.config.checkpoint_bytes) if self._has_state(meta) else b""
        return b"".join(struct.pack("<Q", digest) * repeat for digest in digests) + state

    def load(self, block: BlockMeta, data: Buffer) -> None:
        self._clock.sleep_us(self.config.copy_us_per_block)
        if block.parent is not None:
            self._known(block.parent)
        kv_bytes = block.n_tokens * self.config.token_bytes
        size_bytes = kv_bytes + self.config.checkpoint_bytes * self._keeps(block)
        if block.id in self._blocks or len(data) != size_bytes:
            raise EngineError("the stored block has the wrong size or is there already")
        if self._keeps(block):
            self._require_state_room()
        self._take(1)
        words = struct.unpack(f"<{kv_bytes // _DIGEST_BYTES}Q", bytes(data[:kv_bytes]))
        self._blocks[block.id] = (block, list(words[:: self.config.token_bytes // _DIGEST_BYTES]))

    # --- computing ----------------------------------------------------------------------------

    def run(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        for item in batch:
            try:
                self._accept(item)
            except EngineError as error:
                self.close(item.request)
                raise type(error)(str(error), [item.request]) from error
        self._clock.sleep_us(self._cost_us(batch))
        sampled = []
        for item in batch:
            sequence = self._open[item.request]
            surely = len(item.tokens) - item.draft
            self._compute(sequence, item.tokens[:surely])
            if item.sample:
                sampled.append(self._sample(item.request, sequence))
            for guess in item.tokens[surely:]:
                if sampled[-1].token != guess:
                    break
                self._compute(sequence, [guess])
                sampled.append(self._sample(item.request, sequence))
        return sampled

    def take_back(self, request: RequestId, n_tokens: int) -> None:
        del self._open[request].digests[n_tokens:]

    def _accept(self, item: BatchItem) -> None:
        sequence = self._open.get(item.request)
        if sequence is None or item.start != len(sequence.digests) or not item.tokens:
            raise EngineError("the item does not continue its sequence", [item.request])
        last = item.start + len(item.tokens) - item.draft - 1
        if item.draft and last % self.info.block_tokens + item.draft + 1 >= self.info.block_tokens:
            raise EngineError("the draft does not fit into the frame of the token before it", [item.request])
        if any(not 0 <= token < VOCAB_SIZE for token in item.tokens):
            raise EngineError("a token is not in the vocabulary", [item.request])
        frames = -(-(item.start + len(item.tokens)) // self.info.block_tokens) - len(sequence.blocks)
        self._take(max(0, frames))
        sequence.blocks += [None] * frames

    def _compute(self, sequence: _Sequence, tokens: Sequence[int]) -> None:
        digest = sequence.digests[-1] if sequence.digests else _seed_of(sequence.sampling.adapter)
        for token in tokens:
            if sequence.sampling.prompt_logprobs is not None:
                sequence.computed[len(sequence.digests)] = token
            digest = _next_digest(digest, token)
            sequence.digests.append(digest)

    def _cost_us(self, batch: Sequence[BatchItem]) -> int:
        tokens = [len(item.tokens) for item in batch]
        prefill = sum(item.draft or len(item.tokens) for item in batch if len(item.tokens) > 1)
        decoding = sum(1 for item in batch if len(item.tokens) == item.draft + 1)
        depth = sum(n * (2 * item.start + n) // 2 for n, item in zip(tokens, batch, strict=True))
        cost_us = prefill * self.config.prefill_us_per_token + depth * self.config.depth_ns_per_token // 1000
        if decoding:
            cost_us += self.config.decode_us_per_step + decoding * self.config.decode_us_per_sequence
        return cost_us

    def _sample(self, request: RequestId, sequence: _Sequence) -> Sampled:
        draw = sequence.digests[-1]
        if sequence.sampling.temperature > 0 and sequence.sampling.seed is not None:
            draw = _next_digest(draw, sequence.sampling.seed & 0xFFFFFFFF)
        token = self._choose(request, draw, sequence.sampling)
        prompt = () if self._generated[request] else _scored(sequence)
        self._generated[request] += 1
        if sequence.sampling.logprobs is None:
            return Sampled(request, token, prompt=prompt)
        return Sampled(
            request, token, TokenLogprob(token, -0.5), _top(sequence.sampling.logprobs), prompt=prompt
        )

    def _choose(self, request: RequestId, draw: int, sampling: SamplingParams) -> int:
        done = self._generated[request]
        if self.config.answer is not None:
            return self.config.answer[done] if done < len(self.config.answer) else END_TOKEN
        if self.config.answer_tokens and not sampling.ignore_eos and draw % self.config.answer_tokens == 0:
            return END_TOKEN
        letter = draw // 7 % 32
        return 97 + letter if letter < 26 else 32

    def validate(self, sampling: SamplingParams) -> None:
        if sampling.adapter and sampling.adapter not in self.config.adapters:
            raise ValueError(f"there is no adapter {sampling.adapter!r}")
        if sampling.grammar is not None and "root" not in sampling.grammar:
            raise ValueError("the grammar has no rule called root")

    def prepare(self) -> None:
        """Nothing is made late here."""

    # --- upkeep -------------------------------------------------------------------------------

    def check(self) -> None:
        own = sum(1 for s in self._open.values() for block in s.blocks if block is None)
        assert self._frames_used == len(self._blocks) + own <= self.info.device_blocks
        for meta, digests in self._blocks.values():
            assert len(digests) == meta.n_tokens
            assert meta.parent is None or meta.parent in self._blocks, "a block without its parent"

    def close_engine(self) -> None:
        self._blocks.clear()
        self._open.clear()
        self._frames_used = 0


class _ByteDetokenizer:
    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, token: int) -> str:
        if token < 256:
            self._bytes.append(token)
        try:
            text = self._bytes.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                return ""
            text = self._bytes.decode(errors="replace")
        self._bytes.clear()
        return text

    def flush(self) -> str:
        text = self._bytes.decode(errors="replace")
        self._bytes.clear()
        return text


class _PlainReader:
    """Everything is content: what this engine writes has no meaning."""

    thought: Sequence[Span] = ()

    def add(self, text: str) -> list[AnswerPart]:
        return [AnswerPart("content", text)] if text else []

    def finish(self) -> list[AnswerPart]:
        return []


class NullText:
    """The text side of the null engine: one token a byte, a chat template of one line a message."""

    def __init__(self, info: EngineInfo) -> None:
        self.name = info.model
        self.context_tokens = info.context_tokens
        self.has_chat_template = True

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
        return [BOS_TOKEN] * add_bos + list(text.encode("utf-8", "replace"))

    def tokenize_chat(self, rendered: RenderedChat) -> list[int]:
        return self.tokenize(rendered.text, add_bos=True, parse_special=True)

    def token_bytes(self, token: int) -> bytes:
        return bytes((token,)) if token < 256 else b""

    def detokenizer(self, marks: bool = False) -> _ByteDetokenizer:
        return _ByteDetokenizer()

    def reader(
        self,
        functions: Mapping[str, Mapping[str, Any]],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> AnswerReader:
        return _PlainReader()

    def call_syntax(self) -> None:
        """It calls in bare JSON."""

    def is_end(self, token: int) -> bool:
        return token == END_TOKEN

    def end_tokens(self) -> Sequence[int]:
        return (END_TOKEN,)

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        lines = [f"{message['role']}: {message.get('content') or ''}\n" for message in messages]
        if tools:
            lines.insert(0, f"tools: {', '.join(t['function']['name'] for t in tools)}\n")
        return RenderedChat("".join(lines) + "assistant: " * add_generation_prompt)
