"""What operators and their machines look at: health, metrics, models, agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from stepwell import __version__
from stepwell.embed.process import EmbeddingProcess
from stepwell.loop.snapshot import ModelView
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import model_not_found
from stepwell.server.service import Service, service_of
from stepwell.server.telemetry.metrics import CONTENT_TYPE

HOME = """Stepwell {version}, serving {model}.

An OpenAI-compatible server for many agents on too little fast memory: point a client at
{base}v1 (set OPENAI_BASE_URL to it).

  POST /v1/chat/completions    POST /v1/completions    POST /v1/responses    GET /v1/models
  POST /v1/embeddings          POST /v1/rerank
  GET  /v1/agents              GET  /v1/sessions       GET  /v1/organization/costs
  GET  /health                 GET  /metrics           GET  /admin/snapshot  GET /admin/budgets

In a browser: {base}page
"""


async def home(request: Request) -> Response:
    """What this is, for a person. Clients ask with HEAD whether a server is there."""
    names = ", ".join(model.text.name for model in service_of(request).offered)
    text = HOME.format(version=__version__, model=names, base=request.base_url)
    return PlainTextResponse(text)


async def health(request: Request) -> Response:
    """200 while requests are taken, 503 while the server goes down, after its loop could not go on, while
    nothing is taken because the ledger cannot be written, or after its file was deleted."""
    service = service_of(request)
    if service.draining:
        return JSONResponse({"status": "draining"}, 503)
    if not service.driver.serves:
        return JSONResponse({"status": "failed"}, 503)
    ledger = service.ledger
    if ledger is None:
        return JSONResponse({"status": "ok"})
    if ledger.store.lost() is not None:
        return JSONResponse({"status": "ledger", "ledger": "lost"}, 503)
    state = {"ledger": "failing" if ledger.failing else "ok"}
    if ledger.refuses:
        return JSONResponse({"status": "ledger", **state}, 503)
    return JSONResponse({"status": "ok", **state})


async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    service = service_of(request)
    if not service.settings.public_metrics:
        service.require_operator(request)
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def list_models(request: Request) -> Response:
    """All names under which models can be asked for."""
    service = service_of(request)
    key, states = service.key(request), await _states(service)
    names = [name for name in sorted(service.models) if _may_ask(service, key, name)]
    data = [_model(service, name, states) for name in names]
    beside = service.embeddings.models if service.embeddings is not None else ()
    return JSONResponse({"object": "list", "data": [*data, *(_beside(service, one) for one in beside)]})


async def get_model(request: Request) -> Response:
    """One of them."""
    service = service_of(request)
    key = service.key(request)
    name = request.path_params["model"]
    vectors = service.embeddings.find(name) if service.embeddings is not None else None
    if vectors is not None:
        return JSONResponse(_beside(service, vectors))
    if name not in service.models or not _may_ask(service, key, name):
        raise model_not_found(name)
    return JSONResponse(_model(service, name, await _states(service)))


def _may_ask(service: Service, key: ApiKey, name: str) -> bool:
    """Whether the name is not that of an adapter which is for others."""
    adapter = service.adapters.get(name, "")
    return not adapter or key.may_use(adapter, service.of_model(name).model.names)


def _beside(service: Service, model: EmbeddingProcess) -> dict[str, Any]:
    """A model of vectors or rankings. What else there is to say of it is known once it is loaded."""
    return {
        "id": model.name,
        "object": "model",
        "created": service.started_s,
        "owned_by": "stepwell",
        "root": model.name,
        "type": "embedding",
        "state": "loaded" if model.loaded else "unloaded",
    }


def _model(service: Service, name: str, states: Mapping[str, ModelView]) -> dict[str, Any]:
    service = service.of_model(name)
    state = states.get(service.text_model.name)
    return {
        "id": name,
        "object": "model",
        "created": service.started_s,
        "owned_by": "stepwell",
        "root": service.text_model.name,  # the same for all names of one model, as vLLM has it
        **({"parent": service.text_model.name} if name in service.adapters else {}),  # vLLM's, of adapters
        "context_window": service.text_model.context_tokens,
        "end_token_ids": list(service.text_model.end_tokens()),
        "state": "loaded" if state is None else state.state,
    }


async def _states(service: Service) -> Mapping[str, ModelView]:
    """Whether each model is in memory; nothing is said of one that always is."""
    return (await service.agent_lists.snapshot()).models if len(service.offered) > 1 else {}


async def agents(request: Request) -> Response:
    """Every agent and where its KV lies."""
    service = service_of(request)
    service.require_operator(request)
    return JSONResponse({"agents": [asdict(view) for view in service.driver.snapshot().agents]})


async def snapshot(request: Request) -> Response:
    """``LoopPort.snapshot`` as JSON."""
    service = service_of(request)
    service.require_operator(request)
    return JSONResponse(asdict(service.driver.snapshot()))
