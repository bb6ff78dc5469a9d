"""Embedding models as the routes see them: off the event loop, a slice of a request at a time."""

from __future__ import annotations

import asyncio
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from stepwell.embed.base import About, EmbeddingError, Input, WrongInput
from stepwell.embed.process import EmbeddingProcess, Spent
from stepwell.server.errors import ApiError, bad_request

AT_ONCE = 16
"""Inputs that are computed before another request has its turn."""
RETRY_AFTER_MS = 1_000

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Told = Callable[[int], None]


@dataclass(slots=True)
class ServedEmbeddings:
    """Lives in the event loop's thread."""

    models: Sequence[EmbeddingProcess]
    max_inputs: int = 2_048
    """Of one request; OpenAI's."""
    _turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """By model: requests that wait run in the order in which they came."""

    def find(self, name: str) -> EmbeddingProcess | None:
        """The model that clients call so."""
        return next((model for model in self.models if model.name == name), None)

    async def count(self, model: EmbeddingProcess, inputs: Sequence[Input], cut: int) -> list[int]:
        """Tokens of each. Raises ``ApiError``, which names the input that this model cannot take."""
        return await self._sliced(model, inputs, "input", lambda some: model.count(some, cut))

    async def embed(
        self, model: EmbeddingProcess, inputs: Sequence[Input], cut: int, told: Told, spent: Spent
    ) -> list[array[float]]:
        """One vector of length 1 each; ``spent`` is told from another thread how long they took."""
        work = partial(model.embed, cut=cut, spent=spent)
        return await self._sliced(model, inputs, "input", work, told)

    async def about(self, model: EmbeddingProcess) -> About:
        """What it is. Raises ``ApiError``."""
        (about,) = await self._sliced(model, [model], "model", lambda some: [one.about() for one in some])
        return about

    async def count_pairs(self, model: EmbeddingProcess, query: str, documents: Sequence[str]) -> list[int]:
        """Tokens that are read for each document."""
        return await self._sliced(model, documents, "documents", lambda some: model.count_pairs(query, some))

    async def rank(
        self, model: EmbeddingProcess, query: str, documents: Sequence[str], told: Told, spent: Spent
    ) -> list[float]:
        """A score for each document; ``spent`` as for ``embed``."""
        work = partial(model.rank, query, spent=spent)
        return await self._sliced(model, documents, "documents", work, told)

    async def _sliced(
        self,
        model: EmbeddingProcess,
        items: Sequence[Item],
        param: str,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        told: Told = lambda begun: None,
    ) -> list[Answer]:
        """A client that has gone is given up after a slice. ``told``: how many items are begun now."""
        found: list[Answer] = []
        for at in range(0, len(items), AT_ONCE):
            some = items[at : at + AT_ONCE]
            async with self._turns[model.name]:
                told(len(some))
                try:
                    found += await asyncio.to_thread(work, some)
                except WrongInput as error:
                    place = f"{param}[{at + error.index}]"
                    raise bad_request(f"{place} cannot be read: {error}.", param=param) from error
                except EmbeddingError as error:
                    raise _away(error) from error
        return found


def _away(error: EmbeddingError) -> ApiError:
    return ApiError(
        503,
        f"{str(error)[:1].upper()}{str(error)[1:]}."[:500],
        code="embeddings_unavailable",
        type="server_error",
        retry_after_ms=RETRY_AFTER_MS,
    )
