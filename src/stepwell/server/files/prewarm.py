"""A document's KV computed before the first question: a turn that only prepares the cache, and is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.engines.base import SamplingParams
from stepwell.library.index import FileRecord
from stepwell.loop.requests import Generation
from stepwell.policy.types import Caller, Hint, Wait
from stepwell.server.callers.hints import ttl_us
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import bad_request, not_found
from stepwell.server.generation.attachments import frame_of
from stepwell.server.generation.constraints import FREE
from stepwell.server.generation.cost import cost_of
from stepwell.server.generation.exchange import admitted
from stepwell.server.generation.prompts import TokenPrompt, chat_prompt
from stepwell.server.generation.tools import build_tools
from stepwell.server.generation.turns import Ask, RequestUsage, collect
from stepwell.server.service import Service, identity_of, service_of
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.schema import Schema
from stepwell.server.wire.sse import while_connected

DEFAULT_TTL = "1h"
SESSION = "library"
ROLE = "document"


class PrewarmRequest(Schema):
    """How the agents will attach it. ``instructions`` is their system message where it is the same for all;
    ``role`` is whose message begins with the document; ``model`` is the one that will read it, and the
    server's first one where nothing is said."""

    model: str | None = None
    ttl: str | int | float = DEFAULT_TTL
    role: Literal["user", "system"] = "user"
    instructions: Annotated[str, Field(max_length=1_000_000)] | None = None
    service_tier: Annotated[str, Field(max_length=64)] | None = None


def agent_of(record: FileRecord) -> str:
    """The agent whose context is this document: ``/v1/agents/library/file-...`` says where its KV lies."""
    return f"{SESSION}/{record.id}"


async def prewarm_file(request: Request) -> Response:
    """``POST /v1/files/{id}/prewarm``."""
    service = service_of(request)
    service.require_open()
    if service.library is None:
        raise not_found("This server keeps no documents.", code="library_off")
    library, key = service.library.library, service.key(request)
    tenant, file_id = identity_of(request, {}, key).tenant, request.path_params["file_id"]
    empty = request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
    body = {} if empty else await read_object(request, service.settings, service.bodies, tenant)
    wanted = parse(PrewarmRequest, body)
    record = await service.library.work(lambda: library.get(tenant, file_id), "file_id")
    return JSONResponse(await prewarm(service, request, key, record, wanted))


async def prewarm(
    service: Service, request: Request, key: ApiKey, record: FileRecord, wanted: PrewarmRequest
) -> dict[str, Any]:
    """Compute what is missing of the document's KV and hold it for ``ttl``. Raises ``ApiError``."""
    assert service.library is not None
    name = wanted.model if wanted.model is not None else service.model.text.name
    service.require_model(name)
    service = service.of_model(name)
    assert service.library is not None
    library, retain_us = service.library.library, ttl_us(wanted.ttl)
    if retain_us is None:
        raise bad_request('\'ttl\' is a time like "30m" or "12h", or a number of seconds.', param="ttl")
    ask = Ask(
        sampling=SamplingParams(adapter=service.adapter(name, key)),
        stops=(),
        max_new_tokens=1,
        default_max_new_tokens=1,
        context_tokens=service.text_model.context_tokens,
        caller=Caller(
            record.tenant,
            key.service_tier(wanted.service_tier),
            SESSION,
            agent_of(record),
            role=ROLE,
            key=key.id,
        ),
        hint=Hint(retain_us=retain_us),
        prewarm=True,
        model=service.text_model.name,
    )
    frame = await service.library.work(lambda: frame_of(library, record))

    def prepare() -> Sequence[Generation]:
        return ask.generations(shared_prompt(service, frame, wanted), 1)

    with ExitStack() as stack:
        batch, _ = await admitted(stack, service, request, key, ask.service_tier, prepare)
        progress = await while_connected(request, collect(batch))
    cost = cost_of(service.books, ask, progress, 1, Wait.UNKNOWN)
    return {
        "object": "file.prewarm",
        "file_id": record.id,
        "agent_id": agent_of(record),
        "model": name,
        "retain_s": retain_us // 1_000_000,
        "usage": {**RequestUsage.of(progress).chat(), **cost},
    }


def shared_prompt(service: Service, frame: str, wanted: PrewarmRequest) -> TokenPrompt:
    """The tokens with which every prompt begins that attaches the document in this way: what two prompts
    that go on differently have in common. Raises ``ApiError``."""
    tools = build_tools((), None, FREE, service.settings)
    one, other = (
        chat_prompt(service.text_model, _messages(frame, wanted, rest), tools, "file_id").tokens
        for rest in ("0", "x")
    )
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return TokenPrompt(one[: max(1, same)], "")


def _messages(frame: str, wanted: PrewarmRequest, rest: str) -> list[dict[str, Any]]:
    """As the schema joins the parts of a message: by a newline."""
    instructions = [{"role": "system", "content": wanted.instructions}] if wanted.instructions else []
    own = {"role": wanted.role, "content": f"{frame}\n{rest}"}
    if wanted.role == "user":
        return [*instructions, own]
    if instructions:
        own["content"] = f"{frame}\n{wanted.instructions}\n{rest}"
    return [own, {"role": "user", "content": rest}]
