"""The Engine contract: a device that holds KV in named blocks and runs batches over sequences.

Two implementations obey it, ``engines/null.py`` (computes nothing, takes the time a cost model
says) and ``engines/llamacpp`` (llama.cpp). ``tests/engines/test_contract.py`` runs against both.

Calls come from one thread. The device is counted in *frames*: places for one block of
``block_tokens`` tokens. A running sequence holds one frame for every block, also the unfinished
one; a full block that was opened from the device is shared and costs no new frame, a block opened
in part is copied into a frame of the sequence's own, because the sequence will write behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from stepwell.policy.types import BlockId, BlockMeta, RequestId

Buffer = bytes | bytearray | memoryview

UNIT_TOKENS = 16

RELAXED = "x-stepwell-relaxed"
"""Marks a schema inside a JSON schema (the parameters of a tool): what cannot be enforced of it is left out
and not refused."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a model on this engine is and what the device holds."""

    model: str
    """The name clients use."""
    fingerprint: str
    """Changes whenever KV of one run would be wrong in another: weights, KV types, state format."""
    context_tokens: int
    block_tokens: int
    device_blocks: int
    """How many frames the device has."""
    max_sequences: int
    """How many sequences may be open at once."""
    block_bytes: int
    """Bytes of one full stored block."""
    token_bytes: int
    """KV bytes per token."""
    vocab_size: int
    depth_frames: int = 0
    """How many frames may hold tokens of one depth at a time (0: all): llama.cpp has no ids for more."""
    unit_tokens: int = UNIT_TOKENS
    """A prompt that leaves a block half-way shares it up to a multiple of this."""
    checkpoint_bytes: int = 0
    """Of ``block_bytes``: the running state at the block's end, of models that have one. A block that
    was sealed without is so much lighter, and no sequence goes on from its end."""
    device_states: int = 0
    """How many running states the device holds at a time, of blocks and of sequences that were told to keep
    one; 0: one for every frame."""
    adapters: tuple[tuple[str, str], ...] = ()
    """Adapters that requests may name, each with a digest that changes when its KV would."""
    draft_rows: int = 0
    """Most tokens of a step that checks drafted ones, all its items together; in a larger one results may
    differ. 0: the engine cannot take tokens back."""
    enforces: bool = True
    """Whether answers obey grammars and schemas. An engine that computes nothing cannot."""

    @property
    def device_bytes(self) -> int:
        """What the device takes when it is full."""
        states = self.device_states or self.device_blocks
        frames_bytes = self.device_blocks * (self.block_bytes - self.checkpoint_bytes)
        return frames_bytes + states * self.checkpoint_bytes

    def kv_of(self, adapter: str) -> str:
        """What separates KV of this engine: its fingerprint, and the adapter's digest where there is one."""
        digest = dict(self.adapters).get(adapter, adapter)
        return f"{self.fingerprint}+{digest}" if adapter else self.fingerprint


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a model marks what it thinks before it answers."""

    opening: str
    """What begins it; empty: the prompt has begun it already."""
    closing: str
    ending: str
    """What is written in the model's place where it is to end early."""


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """After ``tokens`` of it, the model's reasoning is ended in its place."""

    marks: Thinking
    tokens: int


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Defaults are OpenAI's."""

    temperature: float = 1.0
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str | None = None
    """GBNF with root rule ``root``, or Lark with rule ``start``."""
    regex: str | None = None
    """A regular expression that the whole answer matches."""
    json_schema: str | None = None
    """A JSON schema as text; the engine turns it into a grammar. ``{}`` means any JSON object."""
    calls: str | None = None
    """Calls that are demanded, in the model's own syntax: a JSON object, see ``call_grammar``."""
    logprobs: int | None = None
    """How many alternatives to report per token; 0 reports the chosen one only; None: none."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt. What has been computed already has no logits: a prompt is scored
    as far as this request computes it."""
    ignore_eos: bool = False
    adapter: str = ""
    """The adapter (LoRA) under which the whole request is computed; empty: none."""
    thinking: ThinkingBudget | None = None
    """None: as long as it likes."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class PromptToken:
    """How likely a token of the prompt was, after those before it, and what would have been likeliest."""

    logprob: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a step gave one sequence."""

    request: RequestId
    token: int
    logprob: TokenLogprob | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()
    failed: str = ""
    """Why the answer cannot go on within its constraint; ``token`` then ends it."""
    prompt: tuple[PromptToken | None, ...] = ()
    """With the first token of a request whose prompt is scored: one for each token of the prompt; None for
    the very first one, and for those that the request has not computed."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """Run ``tokens`` at positions ``start ...`` of an open sequence; sample after the last if asked.

    ``start`` is always the number of tokens the sequence already has. The last ``draft`` tokens are
    guesses at what will be sampled: they stay as far as they are right. They lie in the frame of the last
    token before them and do not fill it.
    """

    request: RequestId
    start: int
    tokens: Sequence[int]
    sample: bool
    draft: int = 0


class EngineError(Exception):
    """The engine failed; ``requests`` lost their KV, the others are as they were."""

    def __init__(self, message: str, requests: Sequence[RequestId] = ()) -> None:
        super().__init__(message)
        self.requests = tuple(requests)


class NoRoom(EngineError):
    """No frame is free. The policy plans so that this never happens; callers survive it."""


class Engine(Protocol):
    """A device with KV blocks and sequences. Errors: ``EngineError``, ``NoRoom``."""

    info: EngineInfo

    def open(
        self, request: RequestId, blocks: Sequence[BlockId], n_tokens: int, sampling: SamplingParams
    ) -> None:
        """Start a sequence whose first ``n_tokens`` tokens are those of ``blocks`` (root first).

        Reopening after a preemption passes the same request and continues its sampler's state
        (seed, penalties, grammar): the engine keeps the sampler until ``forget``.
        """

    def forget(self, request: RequestId) -> None:
        """The request has ended for good: free its sampler. Unknown requests are ignored."""

    def seal(self, request: RequestId, block: BlockMeta) -> None:
        """Name the sequence's tokens at ``block.depth``; the block then outlives the sequence. By its size it
        keeps the running state at its end, or does not: a state is there if the sequence stands there now, or
        was told to keep it."""

    def keep_state(self, request: RequestId, tokens: int) -> None:
        """When the sequence has computed so many tokens, where a block ends, keep its running state.
        ``NoRoom``: the device holds as many states as it can, with those that are promised."""

    def adopt(self, request: RequestId, block: BlockMeta) -> None:
        """Go on with a block that is on the device in place of the sequence's last frame, which is full and
        has the same tokens. If the block is to keep a running state and has none, it gets that of the
        sequence, which was told to keep it."""

    def drop_state(self, block: BlockId) -> None:
        """The block stays on the device without its running state; no sequence goes on from its end."""

    def load_state(self, block: BlockMeta, data: Buffer) -> None:
        """Give a block that lies on the device without its running state that of its stored bytes."""

    def close(self, request: RequestId) -> None:
        """Take the sequence off the device. Sealed blocks stay, unsealed tokens are forgotten.

        A request that is not open is ignored: a failed step may have closed it already.
        """

    def drop(self, block: BlockId) -> None:
        """Give the block's frame back. Never called while an open sequence uses the block."""

    def store(self, block: BlockId) -> Buffer:
        """The block's KV as bytes of its own (no view of engine memory that may change)."""

    def load(self, block: BlockMeta, data: Buffer) -> None:
        """Bring a stored block back onto the device. Its parent is on the device (or it is a root)."""

    def run(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        """One step: all items in one batch. Returns one ``Sampled`` per item that asked for it, and one more
        for each drafted token that was right, in the order of the tokens. A wrong draft, and what follows it,
        is taken back.

        On ``EngineError`` the requests it names are lost and already closed by the engine.
        """

    def take_back(self, request: RequestId, n_tokens: int) -> None:
        """The sequence keeps its first ``n_tokens`` tokens. Only tokens that were drafted are taken back."""

    def validate(self, sampling: SamplingParams) -> None:
        """Raise ``ValueError`` with one clear sentence when these parameters cannot be honoured
        (a grammar or schema that does not compile). May be called from another thread."""

    def prepare(self) -> None:
        """Make what the first request would otherwise wait for, and all others with it. A server calls it
        once, before it takes anything; it may take a second."""

    def check(self) -> None:
        """Assert every invariant of the device; cheap enough to run when idle."""

    def close_engine(self) -> None:
        """Free everything."""


class Detokenizer(Protocol):
    """Turns a stream of tokens into text and never breaks a UTF-8 character."""

    def add(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""

    def flush(self) -> str:
        """What is left at the end, undecodable bytes replaced."""


Span = tuple[int, int]
"""(start, end) of a place in a text, in characters."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as the model wants to read it."""

    text: str
    stops: tuple[str, ...] = field(default=())
    """Strings that end a turn in this template besides the end-of-generation tokens."""
    literal: tuple[Span, ...] = ()
    """Places of ``text``, ascending, whose marks are content: tokenised without special tokens."""
    opening: str = ""
    """The mark at the end of ``text`` that the answer goes on from (``<think>``); empty: none."""
    straight: str = ""
    """What has to follow ``text`` for an answer that is not thought about first."""
    thinking: Thinking | None = None
    """How this template's model marks what it thinks; None: it does not."""


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A piece of an answer. Pieces of one kind follow on one another; ``call`` counts from 0."""

    kind: Literal["content", "reasoning", "call", "arguments"]
    text: str
    """Of a ``call``: the function's name. Of ``arguments``: more of the JSON text of that call."""
    call: int = 0


NAME, ARGUMENTS, ID = "\x00name", "\x00arguments", "\x00id"
"""Places in the text of a call."""


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a template writes calls, in texts and places: ``before`` NAME ``middle`` ARGUMENTS, for each one
    more ``between`` NAME ``middle`` ARGUMENTS, then ``after``."""

    before: tuple[str, ...]
    middle: tuple[str, ...]
    after: tuple[str, ...]
    between: tuple[str, ...] | None = None
    """None: one call a turn."""
    straight: bool = False
    """It follows the prompt with its place for reasoning left empty, not the prompt as it is."""


class AnswerReader(Protocol):
    """Splits an answer into its parts while it is written. How the text is cut changes nothing."""

    @property
    def thought(self) -> Sequence[Span]:
        """Where in the text the reasoning stood, with the mark that closed it; complete after ``finish``."""
        ...

    def add(self, text: str) -> list[AnswerPart]: ...

    def finish(self) -> list[AnswerPart]:
        """What was held back, once no text follows."""
        ...


class TextModel(Protocol):
    """The text side of a model. Thread-safe: the server calls it from its own threads."""

    name: str
    context_tokens: int
    has_chat_template: bool

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]: ...

    def tokenize_chat(self, rendered: RenderedChat) -> list[int]:
        """The tokens of a rendered conversation: marks in its literal places are text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for (logprobs report them)."""

    def detokenizer(self, marks: bool = False) -> Detokenizer:
        """``marks``: control tokens that a reader needs are kept as text; the others never have any."""
        ...

    def reader(
        self,
        functions: Mapping[str, Mapping[str, Any]],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> AnswerReader:
        """For one answer whose text comes from ``detokenizer(marks=True)``.

        ``functions``: the parameters' JSON schema of each function that may be called, by name.
        ``opening``: of the rendered prompt. ``constrained``: the answer is one JSON value by its constraint,
        a call or the answer itself, and holds no marks.
        """
        ...

    def call_syntax(self) -> CallSyntax | None:
        """How the model's template writes calls; None: not in a way that a grammar can demand."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether this token ends generation (EOS, EOT)."""

    def end_tokens(self) -> Sequence[int]:
        """The tokens that end an answer, for clients that make an end likelier (``logit_bias``)."""
        ...

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        """Apply the model's chat template; ``options`` are further variables of it
        (``enable_thinking``). ``ValueError`` with one sentence if it refuses."""
