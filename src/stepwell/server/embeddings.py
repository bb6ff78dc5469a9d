"""``POST /v1/embeddings`` as OpenAI has it, ``POST /v1/rerank`` as Cohere and Jina do."""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
import sys
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.embed.process import EmbeddingProcess
from stepwell.ledger.bookkeeper import Refusal
from stepwell.ledger.port import RunningBooks
from stepwell.loop.requests import Rejected
from stepwell.policy.types import Embedded
from stepwell.server.access import access_of
from stepwell.server.body import parse, read_object
from stepwell.server.errors import bad_request, from_rejected, model_not_found, not_found
from stepwell.server.keys import ApiKey
from stepwell.server.schema import MAX_ITEMS, Schema
from stepwell.server.service import Service, identity_of, service_of
from stepwell.server.shared_budgets import amount_ahead
from stepwell.server.sse import while_connected
from stepwell.server.vectors import ServedEmbeddings

MICROUSD = 1_000_000
ServiceTier = Annotated[str, Field(max_length=64)] | None


def as_inputs(value: Any) -> Any:
    """A text, the tokens of one, or a list of either: as a list."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_token, value))):
        return [value]
    return value


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def as_text(value: Any) -> Any:
    """A document is a text, or an object with one."""
    if isinstance(value, dict):
        if not isinstance(value.get("text"), str):
            raise PydanticCustomError("string_type", "A document must be a text or an object with a text")
        return value["text"]
    return value


class DocumentObject(Schema):
    text: str


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_ITEMS)]
OneInput = Annotated[str, Field(min_length=1)] | Tokens
Document = Annotated[
    str, BeforeValidator(as_text, json_schema_input_type=str | DocumentObject), Field(min_length=1)
]


class EmbeddingsRequest(Schema):
    """OpenAI's, and ``truncate_prompt_tokens`` of vLLM."""

    model: str
    input: Annotated[
        list[OneInput],
        BeforeValidator(as_inputs, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
        Field(min_length=1, max_length=MAX_ITEMS),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    service_tier: ServiceTier = None


class RerankRequest(Schema):
    model: str
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[Document], Field(min_length=1, max_length=MAX_ITEMS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    service_tier: ServiceTier = None


@dataclass(slots=True)
class Begun:
    """How far the work of one request has come."""

    event: Embedded
    """All of it, as the books have it."""
    late: Callable[[Embedded], None]
    """Takes the time of what was still being computed when its client had gone."""
    inputs: int = 0
    spent_us: int = 0
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def further(self, inputs: int) -> None:
        self.inputs += inputs

    def spent(self, us: int) -> None:
        """The model has computed so long for a part. From any thread."""
        with self._lock:
            if not self._ended:
                self.spent_us += us
                return
        self.late(replace(self.event, tokens=0, spent_us=us))

    def end(self, tokens: int) -> Embedded | None:
        """What the books enter now; None: nothing was done."""
        with self._lock:
            self._ended = True
        entered = replace(self.event, tokens=tokens, spent_us=self.spent_us)
        return entered if tokens or self.spent_us else None


@dataclass(frozen=True, slots=True)
class _Asker:
    """The caller, and its books."""

    service: Service
    request: Request
    key: ApiKey

    async def body(self) -> dict[str, Any]:
        service = self.service
        return await read_object(self.request, service.settings, service.bodies, self.key.tenant)

    @asynccontextmanager
    async def charged(
        self, model: str, body: dict[str, Any], service_tier: str | None, counts: Sequence[int]
    ) -> AsyncIterator[Begun]:
        """What is done within is held against the budgets while it runs and entered at its end; of what a
        client has left alone, as much as was begun. ``counts``: the tokens of each input. Raises
        ``ApiError`` where a budget has no room for it."""
        service, ledger = self.service, self.service.ledger
        identity = identity_of(self.request, body, self.key)
        caller = identity.caller(self.key.service_tier(service_tier), identity.name or "", self.key.id)
        begun = Begun(event := Embedded(caller, model, sum(counts)), service.driver.embedded)
        hold = 0 if ledger is None else await _held(ledger, event)
        tokens = 0
        try:
            yield begun
            tokens = event.tokens
        except asyncio.CancelledError:
            tokens = sum(counts[: begun.inputs])
            raise
        finally:
            entered = begun.end(tokens)
            if ledger is not None:
                ledger.embedding_over(hold, entered)
            if entered is not None:
                service.driver.embedded(entered)

    def usage(self, event: Embedded) -> dict[str, Any]:
        """``usage`` of the answer."""
        usage: dict[str, Any] = {"prompt_tokens": event.tokens, "total_tokens": event.tokens}
        ledger = self.service.ledger
        return usage if ledger is None else usage | {"cost": ledger.bills.embedding(event) / MICROUSD}


async def _held(ledger: RunningBooks, event: Embedded) -> int:
    """The number of the hold. Raises ``ApiError``."""
    async with amount_ahead(ledger.lessee, event.caller, ledger.bills.embedding(event)):
        hold = ledger.hold_embedding(event)
        if isinstance(hold, Refusal):
            raise from_rejected(Rejected(*hold))
        return hold


async def embeddings(request: Request) -> Response:
    """A vector of length 1 for each input."""
    service, served, key = _enter(request)
    with service.gate.errand(key):
        limits = service.rates.request(key)
        asker = _Asker(service, request, key)
        body = await asker.body()
        wanted = parse(EmbeddingsRequest, body)
        access_of(request.scope).model = wanted.model
        model = _model(service, served, wanted.model)
        _bounded(served, len(wanted.input), "input")
        answer = await while_connected(request, _embed(asker, served, model, wanted, body, limits))
    return JSONResponse(answer, headers=limits)


async def _embed(
    asker: _Asker,
    served: ServedEmbeddings,
    model: EmbeddingProcess,
    wanted: EmbeddingsRequest,
    body: dict[str, Any],
    limits: dict[str, str],
) -> dict[str, Any]:
    cut = wanted.truncate_prompt_tokens or 0
    counts = await served.count(model, wanted.input, cut)
    limits |= asker.service.rates.counted(asker.key, sum(counts))
    size = (await served.about(model)).dimensions
    if not size:
        raise bad_request(
            f"The model `{model.name}` ranks documents and makes no embeddings: use POST /v1/rerank.",
            param="model",
        )
    if wanted.dimensions is not None and wanted.dimensions > size:
        raise bad_request(f"This model's embeddings have {size} dimensions, not more.", param="dimensions")
    async with asker.charged(model.name, body, wanted.service_tier, counts) as begun:
        vectors = await served.embed(model, wanted.input, cut, begun.further, begun.spent)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, wanted)}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model.name, "usage": asker.usage(begun.event)}


def _written(vector: array[float], wanted: EmbeddingsRequest) -> list[float] | str:
    """The first ``dimensions`` numbers, of length 1 again (for models that were trained to be cut)."""
    if wanted.dimensions is not None and wanted.dimensions < len(vector):
        vector = vector[: wanted.dimensions]
        length = math.sqrt(sum(number * number for number in vector)) or 1.0
        vector = array("f", (number / length for number in vector))
    if wanted.encoding_format == "float":
        return vector.tolist()
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()


async def rerank(request: Request) -> Response:
    """Documents by how well they answer the question, best first. A model that was not trained to rank says
    how near they are to it."""
    service, served, key = _enter(request)
    with service.gate.errand(key):
        limits = service.rates.request(key)
        asker = _Asker(service, request, key)
        body = await asker.body()
        wanted = parse(RerankRequest, body)
        access_of(request.scope).model = wanted.model
        model = _model(service, served, wanted.model)
        _bounded(served, len(wanted.documents), "documents")
        answer = await while_connected(request, _rank(asker, served, model, wanted, body, limits))
    return JSONResponse(answer, headers=limits)


async def _rank(
    asker: _Asker,
    served: ServedEmbeddings,
    model: EmbeddingProcess,
    wanted: RerankRequest,
    body: dict[str, Any],
    limits: dict[str, str],
) -> dict[str, Any]:
    counts = await served.count_pairs(model, wanted.query, wanted.documents)
    limits |= asker.service.rates.counted(asker.key, sum(counts))
    async with asker.charged(model.name, body, wanted.service_tier, counts) as begun:
        scores = await served.rank(model, wanted.query, wanted.documents, begun.further, begun.spent)
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: wanted.top_n]
    results = [
        {"index": index, "relevance_score": scores[index], **_document(wanted, index)} for index in best
    ]
    name = "rerank-" + secrets.token_hex(14)
    usage = asker.usage(begun.event)
    return {"id": name, "object": "list", "model": model.name, "results": results, "usage": usage}


def _document(wanted: RerankRequest, index: int) -> dict[str, Any]:
    return {"document": {"text": wanted.documents[index]}} if wanted.return_documents else {}


def _enter(request: Request) -> tuple[Service, ServedEmbeddings, ApiKey]:
    service = service_of(request)
    service.require_open()
    key = service.key(request)
    if service.embeddings is None:
        raise not_found("This server makes no embeddings: [embeddings] in its settings names a model.")
    return service, service.embeddings, key


def _model(service: Service, served: ServedEmbeddings, name: str) -> EmbeddingProcess:
    model = served.find(name)
    if model is not None:
        return model
    if name in service.models:
        there = ", ".join(f"`{one.name}`" for one in served.models)
        raise bad_request(
            f"The model `{name}` writes text: embeddings and rankings are made by {there}.", param="model"
        )
    raise model_not_found(name)


def _bounded(served: ServedEmbeddings, count: int, param: str) -> None:
    if count > served.max_inputs:
        raise bad_request(f"At most {served.max_inputs:,} are allowed in one request.", param=param)
