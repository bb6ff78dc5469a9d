"""The Engine contract on llama.cpp: memory by ``device``, tokens by one decode call per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stepwell.engines.base import (
    UNIT_TOKENS,
    BatchItem,
    Buffer,
    EngineError,
    EngineInfo,
    NoRoom,
    Sampled,
    SamplingParams,
)
from stepwell.engines.llamacpp.adapters import Adapters
from stepwell.engines.llamacpp.cells import FRAME_TOKENS
from stepwell.engines.llamacpp.config import LlamaCppConfig
from stepwell.engines.llamacpp.constraints import Constraints
from stepwell.engines.llamacpp.device import Stretch
from stepwell.engines.llamacpp.native import UBATCH_TOKENS, Logits, NativeModel
from stepwell.engines.llamacpp.padding import PAD
from stepwell.engines.llamacpp.sampling import Candidates, Sampler, logprobs, validate
from stepwell.engines.llamacpp.scoring import Scores, scored_at_once
from stepwell.engines.llamacpp.setup import make_device
from stepwell.engines.llamacpp.trial import Trial
from stepwell.engines.llamacpp.vocabulary import marks_of, tokenizer_of, vocabulary_of
from stepwell.policy.types import BlockId, BlockMeta, RequestId

DRAFT_ROWS = 60
"""From 64 tokens on llama.cpp's attention on the CPU works in tiles (GGML_FA_TILE_Q in ggml-cpu/common.h) and
rounds otherwise than for a few; 60 is a multiple of four, so that padding does not reach it."""

LogitsWatcher = Callable[[RequestId, Logits], None]


class LlamaCppEngine:
    """See ``Engine``. All calls from one thread, except ``validate``."""

    def __init__(
        self,
        model: NativeModel,
        config: LlamaCppConfig,
        fingerprint: str,
        constraints: Constraints | None = None,
    ) -> None:
        """``constraints``: the caller's own, which outlive this engine."""
        self._model = model
        self._adapters = Adapters(model, config.adapters)  # llama.cpp wants them before the context
        made = make_device(model, config)
        self._context, self.device, self._padding = made.context, made.device, made.padding
        self.info = EngineInfo(
            model=config.model_name,
            fingerprint=fingerprint,
            context_tokens=min(
                config.context_tokens or model.trained_context, made.device_blocks * FRAME_TOKENS
            ),
            block_tokens=FRAME_TOKENS,
            device_blocks=made.device_blocks,
            max_sequences=made.max_sequences,
            block_bytes=made.size_of[FRAME_TOKENS] + made.context.checkpoint_bytes,
            token_bytes=made.size_of[FRAME_TOKENS] - made.size_of[FRAME_TOKENS - 1],
            vocab_size=model.vocab_size,
            # A state is known at the end of a block alone: no sequence goes on from the middle of one.
            unit_tokens=FRAME_TOKENS if model.stateful else UNIT_TOKENS,
            checkpoint_bytes=made.context.checkpoint_bytes,
            device_states=made.device_states,
            adapters=self._adapters.digests,
            draft_rows=0 if model.stateful else DRAFT_ROWS,
            depth_frames=made.depth_frames if made.depth_frames < made.device_blocks else 0,
        )
        self._candidates = Candidates(model.vocab_size)
        self._end_tokens = [token for token in range(model.vocab_size) if model.is_end(token)]
        self._constraints = constraints or constraints_of(model)
        self._closes = self._constraints.close if constraints is None else None
        self._samplers: dict[RequestId, Sampler] = {}
        self._sampling: dict[RequestId, SamplingParams] = {}
        self._scores = Scores()
        self._scored_at_once = scored_at_once(made.context.n_ids, model.vocab_size)
        self.watch_logits: LogitsWatcher | None = None
        """Called with every row of logits before a token is chosen from it (copy it to keep it).
        The exactness benchmark compares these."""

    # --- blocks and sequences -----------------------------------------------------------------

    def open(
        self, request: RequestId, blocks: Sequence[BlockId], n_tokens: int, sampling: SamplingParams
    ) -> None:
        try:
            self._adapters.require(sampling.adapter)
        except ValueError as error:
            raise EngineError(f"request {request} cannot run: {error}", [request]) from error
        self.device.open(request, blocks, n_tokens)
        self._adapters.opened(request, sampling.adapter)
        if request not in self._samplers:
            try:
                self._samplers[request] = self._sampler(sampling)
            except ValueError as error:
                self.device.close([request])
                raise EngineError(f"request {request} cannot be sampled: {error}", [request]) from error
            self._sampling[request] = sampling
            if sampling.prompt_logprobs is not None:
                self._scores.begin(request, sampling.prompt_logprobs)

    def _sampler(self, sampling: SamplingParams) -> Sampler:
        memory_tokens = self.info.context_tokens
        return Sampler(
            self._model, sampling, self._candidates, self._end_tokens, memory_tokens, self._constraints
        )

    def forget(self, request: RequestId) -> None:
        self._adapters.forget(request)
        self._scores.forget(request)
        sampler = self._samplers.pop(request, None)
        if sampler is not None:
            sampler.free()
            del self._sampling[request]

    def seal(self, request: RequestId, block: BlockMeta) -> None:
        self.device.seal(request, block)

    def keep_state(self, request: RequestId, tokens: int) -> None:
        self.device.keep_state(request, tokens)

    def adopt(self, request: RequestId, block: BlockMeta) -> None:
        self.device.adopt(request, block)

    def drop_state(self, block: BlockId) -> None:
        self.device.drop_state(block)

    def load_state(self, block: BlockMeta, data: Buffer) -> None:
        self.device.load_state(block, data)

    def close(self, request: RequestId) -> None:
        self.device.close([request])

    def drop(self, block: BlockId) -> None:
        self.device.drop(block)

    def store(self, block: BlockId) -> Buffer:
        return self.device.store(block)

    def load(self, block: BlockMeta, data: Buffer) -> None:
        self.device.load(block, data)

    # --- computing ----------------------------------------------------------------------------

    def run(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        self._refuse_bad_items(batch)
        self._refuse_what_has_no_room(batch)
        sampled: list[Sampled] = []
        for number, (adapter, part) in enumerate(self._parts(batch)):
            self._adapters.use(self._context.handle, adapter)
            try:
                sampled += self._run_part(part)
            except EngineError as error:
                if number == 0:
                    raise
                # Earlier parts have gone on and their tokens would be lost: no request is as it was.
                requests = [item.request for item in batch]
                self.device.close(requests)
                raise EngineError(str(error), requests) from error
        return sampled

    def _parts(self, batch: Sequence[BatchItem]) -> list[tuple[str, list[BatchItem]]]:
        """What is decoded by one call each, and under which adapter."""
        cut = split_at_blocks if self.info.checkpoint_bytes else split
        parts: list[tuple[str, list[BatchItem]]] = []
        for name, items in self._adapters.apart(batch):
            plain = [item for item in items if item.request not in self._scores]
            scored = [item for item in items if item.request in self._scores]
            parts += [(name, part) for part in [*cut(plain), *cut(scored, self._scored_at_once)]]
        return parts

    def _refuse_bad_items(self, batch: Sequence[BatchItem]) -> None:
        """What is wrong with single items is found before anything is touched."""
        wrong: dict[RequestId, str] = {}
        seen = set()
        for item in batch:
            what = self._what_is_wrong(item) or ("it is in the batch twice" if item.request in seen else "")
            seen.add(item.request)
            if what:
                wrong[item.request] = what
        if wrong:
            self.device.close(list(wrong))
            request, what = next(iter(wrong.items()))
            raise EngineError(f"request {request} cannot run: {what}", list(wrong))

    def _refuse_what_has_no_room(self, batch: Sequence[BatchItem]) -> None:
        room = self.device.n_free
        for item in batch:
            room -= self.device.missing(item.request, len(item.tokens))
            if room < 0:
                self.device.close([item.request])
                raise NoRoom(f"no frame is free for request {item.request}", [item.request])

    def _what_is_wrong(self, item: BatchItem) -> str:
        run = self.device.runs.get(item.request)
        if run is None:
            return "it is not open"
        if item.start != run.tokens:
            return f"it has {run.tokens} tokens and the item starts at {item.start}"
        if not item.tokens:
            return "the item has no tokens"
        if min(item.tokens) < 0 or max(item.tokens) >= self.info.vocab_size:
            return "a token is not in the vocabulary"
        if item.draft and (wrong := self._what_is_wrong_with_draft(item)):
            return wrong
        if item.start + len(item.tokens) > self.info.context_tokens:
            return f"it would grow past the context of {self.info.context_tokens} tokens"
        if self.device.ends_sealed(item.request):
            return "its last tokens are a sealed block"
        return ""

    def _what_is_wrong_with_draft(self, item: BatchItem) -> str:
        last = item.start + len(item.tokens) - item.draft - 1
        if not (self.info.draft_rows and item.sample and 0 < item.draft < len(item.tokens)):
            return "tokens cannot be drafted here"
        if last % FRAME_TOKENS + item.draft + 1 >= FRAME_TOKENS:
            return "its draft does not fit into the frame of the token before it"
        return ""

    def _run_part(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        items = [(item.request, len(item.tokens)) for item in batch]
        requests = [item.request for item in batch]
        for index, (request, count) in enumerate(items):
            try:
                self.device.reserve(request, count)
            except NoRoom as error:
                self.device.close(requests[index:])
                raise NoRoom(str(error), requests[index:]) from error
        stretches = self.device.prepare(items)
        if self._context.by_id:
            stretches.sort(key=lambda stretch: self.device.runs[requests[stretch.item]].seq)
        tokens, positions, seqs, outputs = self._arrange(batch, stretches)
        scored = self._scored_rows(batch, stretches)
        wanted = {index for rows in outputs.values() for index in rows} | {row for _, _, row in scored}
        pad = self._padding.before(self._context, len(tokens))
        status = self._context.decode(
            [0] * len(pad) + tokens,
            [*pad, *positions],
            [PAD] * len(pad) + seqs,
            [len(pad) + index for index in sorted(wanted)],
        )
        if status != 0:
            self._padding.repair(self._context)
            self.device.close(requests)
            raise EngineError(f"llama.cpp could not run the batch (status {status})", requests)
        self.device.commit(items)
        for number, offset, row in scored:
            self._scores.row(batch[number], offset, self._context.logits(len(pad) + row))
        sampled: list[Sampled] = []
        for i, item in enumerate(batch):
            if item.sample:
                sampled += self._sample_all(item, [len(pad) + row for row in outputs[i]])
        return sampled

    def _scored_rows(
        self, batch: Sequence[BatchItem], stretches: Sequence[Stretch]
    ) -> list[tuple[int, int, int]]:
        """(item, offset in it, row of the batch) of each token of a scored prompt, ascending."""
        rows: list[tuple[int, int, int]] = []
        first = 0
        for stretch in stretches:
            if batch[stretch.item].request in self._scores:
                rows += [(stretch.item, stretch.offset + i, first + i) for i in range(stretch.count)]
            first += stretch.count
        return sorted(rows)

    def _sample_all(self, item: BatchItem, rows: Sequence[int]) -> list[Sampled]:
        """What follows the item's last token, and each drafted one as far as these are right."""
        sampled = [self._sample(item.request, rows[0])]
        if item.request in self._scores:
            prompt = self._scores.end(item.request, item.start + len(item.tokens))
            sampled[0] = replace(sampled[0], prompt=prompt)
        drafted = item.tokens[len(item.tokens) - item.draft :]
        for guess, row in zip(drafted, rows[1:], strict=True):
            if sampled[-1].failed or sampled[-1].token != guess:
                break
            sampled.append(self._sample(item.request, row))
        if item.draft:
            wrong = item.draft + 1 - len(sampled)
            self.device.take_back(item.request, item.start + len(item.tokens) - wrong)
        return sampled

    def take_back(self, request: RequestId, n_tokens: int) -> None:
        self.device.take_back(request, n_tokens)

    def _arrange(
        self, batch: Sequence[BatchItem], stretches: Sequence[Stretch]
    ) -> tuple[list[int], list[int], list[int], dict[int, list[int]]]:
        """The batch in the order of its cells; ``outputs``: item -> index of its last token before any
        draft, and those of the drafted ones."""
        tokens: list[int] = []
        positions: list[int] = []
        seqs: list[int] = []
        outputs: dict[int, list[int]] = {}
        for stretch in stretches:
            item = batch[stretch.item]
            first, end = stretch.offset, stretch.offset + stretch.count
            tokens += item.tokens[first:end]
            positions += range(item.start + first, item.start + end)
            seqs += [self.device.runs[item.request].seq] * stretch.count
            if item.sample and end == len(item.tokens):
                outputs[stretch.item] = list(range(len(tokens) - 1 - item.draft, len(tokens)))
        return tokens, positions, seqs, outputs

    def _sample(self, request: RequestId, index: int) -> Sampled:
        logits = self._context.logits(index)
        if self.watch_logits is not None:
            self.watch_logits(request, logits)
        sampler = self._samplers[request]
        token = sampler.choose(logits)
        n_top = self._sampling[request].logprobs
        if n_top is None or sampler.failed:
            return Sampled(request, token, failed=sampler.failed)
        chosen, top = logprobs(logits, token, n_top)
        return Sampled(request, token, chosen, top)

    def validate(self, sampling: SamplingParams) -> None:
        self._adapters.require(sampling.adapter)
        validate(self._model, sampling, self._constraints)

    def prepare(self) -> None:
        """llguidance reads the vocabulary in one go and lets no other thread of Python run meanwhile: a
        quarter of a second for 49,000 tokens."""
        self._constraints.prepare()

    # --- upkeep -------------------------------------------------------------------------------

    def check(self) -> None:
        self.device.check()
        assert set(self._samplers) >= set(self.device.runs), "an open sequence has no sampler"

    def close_engine(self) -> None:
        for request in list(self._samplers):
            self.forget(request)
        if self._closes is not None:
            self._closes()
        self._context.free()


def constraints_of(model: NativeModel) -> Constraints:
    """What answers of a model may be held to."""
    trial = Trial()
    return Constraints(
        lambda: tokenizer_of(model, vocabulary_of(model)),
        trial,
        lambda: marks_of(vocabulary_of(model)),
        trial.close,
    )


def split(batch: Sequence[BatchItem], most: int = UBATCH_TOKENS) -> list[list[BatchItem]]:
    """Parts of at most ``most`` tokens, in the order of the items.

    llama.cpp would cut a larger batch by itself, but in the order of the cells, and then which tokens
    are computed together would depend on where they lie.
    """
    parts: list[list[BatchItem]] = [[]]
    room = most
    for item in batch:
        start, left = item.start, item.tokens
        while left:
            if room == 0 or (item.draft and room < len(left)):  # what is drafted is checked in one go
                parts.append([])
                room = most
            piece, left = left[:room], left[room:]
            draft = 0 if left else item.draft
            parts[-1].append(BatchItem(item.request, start, piece, item.sample and not left, draft))
            start, room = start + len(piece), room - len(piece)
    return [part for part in parts if part]


def split_at_blocks(batch: Sequence[BatchItem], most: int = UBATCH_TOKENS) -> list[list[BatchItem]]:
    """Parts for a model with states: single tokens together, each longer item alone and cut where blocks end.

    llama.cpp reorders tokens of sequences that have unequally many in a batch. And a state is taken at the
    end of every block, so no batch runs past one; where a prompt is cut depends on nothing else.
    """
    single = [item for item in batch if len(item.tokens) == 1]
    parts = [single] if single else []
    for item in batch:
        start, left = item.start, item.tokens
        while left and len(item.tokens) > 1:
            count = min(len(left), FRAME_TOKENS - start % FRAME_TOKENS, most)
            piece, left = left[:count], left[count:]
            parts.append([BatchItem(item.request, start, piece, item.sample and not left)])
            start += count
    return parts
