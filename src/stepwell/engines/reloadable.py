"""An engine whose memory can be given back and taken again, behind one face.

What is known of a model (``info``) and what checks requests (``validate``) stays while it is unloaded;
nothing that touches the device may be asked then. The policy has taken everything off the device before.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from stepwell.engines.base import BatchItem, Buffer, Engine, EngineError, Sampled, SamplingParams
from stepwell.policy.types import BlockId, BlockMeta, RequestId


class ReloadableEngine:
    """See ``Engine``. ``bring_back`` and ``unload`` are called while nothing else is, except ``validate``."""

    def __init__(
        self,
        make: Callable[[], Engine],
        validate: Callable[[SamplingParams], None] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """``make`` loads it, now and each time again. ``validate``: for parameters but for their adapter;
        None: that of the first engine does. ``close`` ends what outlives the engine."""
        self._make, self._close = make, close
        engine = self._make()
        self._engine: Engine | None = engine
        self._validate = validate or engine.validate
        self.info = engine.info
        self.loads = 1
        self.prepare_first: Callable[[], None] = engine.prepare if validate is None else lambda: None

    @property
    def loaded(self) -> bool:
        return self._engine is not None

    def unload(self) -> None:
        """Give the memory back. No sequence is open and no block is on the device."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close_engine()
            del engine
            gc.collect()  # weights go with the last object that knows them

    def bring_back(self) -> None:
        """Take it again; in any thread. Raises ``StepwellError`` when the model cannot be had any more, and
        ``EngineError`` when it is another one now."""
        engine = self._make()
        if engine.info != self.info:
            engine.close_engine()
            raise EngineError(f"the model {self.info.model} has changed since the server started: restart it")
        self._engine = engine
        self.loads += 1

    def _there(self) -> Engine:
        if self._engine is None:
            raise EngineError(f"the model {self.info.model} is not loaded")
        return self._engine

    def open(
        self, request: RequestId, blocks: Sequence[BlockId], n_tokens: int, sampling: SamplingParams
    ) -> None:
        self._there().open(request, blocks, n_tokens, sampling)

    def forget(self, request: RequestId) -> None:
        if self._engine is not None:
            self._engine.forget(request)

    def seal(self, request: RequestId, block: BlockMeta) -> None:
        self._there().seal(request, block)

    def keep_state(self, request: RequestId, tokens: int) -> None:
        self._there().keep_state(request, tokens)

    def adopt(self, request: RequestId, block: BlockMeta) -> None:
        self._there().adopt(request, block)

    def drop_state(self, block: BlockId) -> None:
        self._there().drop_state(block)

    def load_state(self, block: BlockMeta, data: Buffer) -> None:
        self._there().load_state(block, data)

    def close(self, request: RequestId) -> None:
        self._there().close(request)

    def drop(self, block: BlockId) -> None:
        self._there().drop(block)

    def store(self, block: BlockId) -> Buffer:
        return self._there().store(block)

    def load(self, block: BlockMeta, data: Buffer) -> None:
        self._there().load(block, data)

    def run(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        return self._there().run(batch)

    def take_back(self, request: RequestId, n_tokens: int) -> None:
        self._there().take_back(request, n_tokens)

    def validate(self, sampling: SamplingParams) -> None:
        if sampling.adapter and sampling.adapter not in dict(self.info.adapters):
            there = ", ".join(name for name, _ in self.info.adapters) or "none"
            raise ValueError(f"there is no adapter {sampling.adapter!r}; this model has {there}")
        self._validate(sampling)

    def prepare(self) -> None:
        self.prepare_first()

    def check(self) -> None:
        if self._engine is not None:
            self._engine.check()

    def close_engine(self) -> None:
        self.unload()
        self._close()
