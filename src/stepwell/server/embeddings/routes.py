"""``POST /v1/embeddings`` as OpenAI has it, ``POST /v1/rerank`` as Cohere and Jina do."""

from __future__ import annotations

import base64
import math
import secrets
import sys
from array import array
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.embed.process import EmbeddingProcess
from stepwell.server.backends.vectors import ServedEmbeddings
from stepwell.server.callers.keys import ApiKey
from stepwell.server.embeddings.charging import Asker
from stepwell.server.embeddings.request import EmbeddingsRequest, RerankRequest
from stepwell.server.errors import bad_request, model_not_found, not_found
from stepwell.server.service import Service, service_of
from stepwell.server.telemetry.access import access_of
from stepwell.server.wire.body import parse
from stepwell.server.wire.sse import while_connected

Wanted = TypeVar("Wanted", EmbeddingsRequest, RerankRequest)
Compute = Callable[
    [Asker, ServedEmbeddings, EmbeddingProcess, Wanted, dict[str, Any], dict[str, str]],
    Coroutine[Any, Any, dict[str, Any]],
]
"""The answer; what is left of the limits is added to the last one, the headers."""


async def embeddings(request: Request) -> Response:
    """A vector of length 1 for each input."""
    return await _answered(request, EmbeddingsRequest, _embed)


async def _embed(
    asker: Asker,
    served: ServedEmbeddings,
    model: EmbeddingProcess,
    wanted: EmbeddingsRequest,
    body: dict[str, Any],
    limits: dict[str, str],
) -> dict[str, Any]:
    _bounded(served, len(wanted.input), "input")
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
    return await _answered(request, RerankRequest, _rank)


async def _rank(
    asker: Asker,
    served: ServedEmbeddings,
    model: EmbeddingProcess,
    wanted: RerankRequest,
    body: dict[str, Any],
    limits: dict[str, str],
) -> dict[str, Any]:
    _bounded(served, len(wanted.documents), "documents")
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


async def _answered(request: Request, schema: type[Wanted], compute: Compute[Wanted]) -> Response:
    """Raises ``ApiError``, or ``ClientGone`` when the client has left."""
    service, served, key = _enter(request)
    with service.gate.errand(key):
        limits = service.rates.request(key)
        asker = Asker(service, request, key)
        body = await asker.body()
        wanted = parse(schema, body)
        access_of(request.scope).model = wanted.model
        model = _model(service, served, wanted.model)
        answer = await while_connected(request, compute(asker, served, model, wanted, body, limits))
    return JSONResponse(answer, headers=limits)


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
