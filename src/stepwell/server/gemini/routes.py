"""``cachedContents`` and ``models/NAME:generateContent``, under ``/v1beta`` and ``/v1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stepwell.engines.base import SamplingParams
from stepwell.loop.requests import Generation
from stepwell.policy.types import Caller, Hint, Wait
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import bad_request, clip, not_found
from stepwell.server.gemini.answer import GeminiShape
from stepwell.server.gemini.request import chat_body, field, lifetime_s, messages_of, model_name
from stepwell.server.generation.call import understand
from stepwell.server.generation.constraints import FREE, constraint_of
from stepwell.server.generation.exchange import admitted, exchange
from stepwell.server.generation.prompts import TokenPrompt, chat_prompt, template_messages
from stepwell.server.generation.sampling import sampling_params
from stepwell.server.generation.tools import build_tools
from stepwell.server.generation.turns import Ask, collect
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.stores.cached_contents import PREFIX, Cached, new_id
from stepwell.server.wire.body import read_object
from stepwell.server.wire.paging import page_limit
from stepwell.server.wire.schema import ChatRequest
from stepwell.server.wire.sse import while_connected

PREFIXES = ("/v1beta", "/v1")
WHOLE, STREAM = "generateContent", "streamGenerateContent"
SESSION, ROLE = "cache", "cache"


async def generate_content(request: Request) -> Response:
    """Gemini's ``generateContent`` and ``streamGenerateContent``, for texts; a cached content goes before."""
    service = service_of(request)
    name, _, method = request.path_params["model"].rpartition(":")
    if method not in (WHOLE, STREAM):
        raise not_found(f"Unknown method: {clip(method, 64)}.", code="unknown_url")
    _, tenant = who_asks(service, request)

    def translate(body: Mapping[str, Any]) -> dict[str, Any]:
        cached: Sequence[dict[str, Any]] = ()
        if (wanted := field(body, "cachedContent")) is not None:
            found = service.cached.get(tenant, wanted, service.now_s())
            if field(body, "systemInstruction") is not None:
                raise bad_request(
                    "The system instruction belongs into the cached content.", param="systemInstruction"
                )
            if found.model != name:
                raise bad_request("The content was cached for another model.", param="cachedContent")
            cached = found.messages
        return chat_body(body, name, messages_of(body, cached))

    call = await understand(request, ChatRequest, translate)
    service = call.service
    constraint = constraint_of(call.wanted.response_format, call.wanted, service.settings)
    tools = build_tools((), None, constraint, service.settings)
    ask = call.ask(sampling_params(call.wanted, tools.constraint, None), call.wanted.max_tokens)
    shape = GeminiShape(service, ask, tools, name)

    def prepare() -> Sequence[Generation]:
        messages = template_messages(call.wanted.messages)
        prompt = chat_prompt(service.text_model, messages, tools, "contents", prefill=True)
        shape.opening = prompt.opening
        return ask.generations(prompt, 1)

    return await exchange(call, ask, prepare, shape, stream=method == STREAM)


async def create_cached_content(request: Request) -> Response:
    """Compute the KV of a beginning that many requests share, and hold it for `ttl`."""
    service = service_of(request)
    service.require_open()
    key, tenant = who_asks(service, request)
    body = await read_object(request, service.settings, service.bodies, tenant)
    now_s, model = service.now_s(), model_name(field(body, "model"))
    service.require_model(model)
    service = service.of_model(model)
    life_s, messages = lifetime_s(body, now_s), messages_of(body)
    if len(messages) > service.settings.max_messages:
        raise bad_request(f"At most {service.settings.max_messages} turns are allowed.", param="contents")
    title = str(field(body, "displayName") or "")[:128]
    one = Cached(tenant, new_id(), model, messages, title, now_s, now_s, now_s + life_s)
    service.cached.require_room(tenant, one.chars, now_s)
    await _hold(service.of_model(one.model), request, key, one, life_s)
    service.cached.put(one)
    return JSONResponse(_shown(one))


async def list_cached_contents(request: Request) -> Response:
    """Those of one's own, the newest first: ``pageSize``, ``pageToken``."""
    service = service_of(request)
    _, tenant = who_asks(service, request)
    found, query = service.cached.of(tenant, service.now_s()), request.query_params
    if (after := query.get("pageToken")) is not None:
        ids = [one.id for one in found]
        if after not in ids:
            raise bad_request("'pageToken' is the 'nextPageToken' of an earlier page.", param="pageToken")
        found = found[ids.index(after) + 1 :]
    page = found[: page_limit(request, "pageSize")]
    more = {"nextPageToken": page[-1].id} if len(page) < len(found) else {}
    return JSONResponse({"cachedContents": [_shown(one) for one in page], **more})


async def get_cached_content(request: Request) -> Response:
    """One of them: until when it is held, and how many tokens it has."""
    return JSONResponse(_shown(_own(request)[2]))


async def update_cached_content(request: Request) -> Response:
    """Another `ttl` or `expireTime`: held from now on, and charged, as if it had just been made."""
    service, key, one = _own(request)
    service.require_open()
    body = await read_object(request, service.settings, service.bodies, one.tenant)
    if field(body, "ttl") is None and field(body, "expireTime") is None:
        raise bad_request("Only 'ttl' or 'expireTime' can be changed.", param="ttl")
    now_s = service.now_s()
    life_s = lifetime_s(body, now_s)
    await _hold(service.of_model(one.model), request, key, one, life_s)
    one.updated_s, one.expires_s = now_s, now_s + life_s
    return JSONResponse(_shown(one))


async def delete_cached_content(request: Request) -> Response:
    """It can be named no more, and its KV is no longer held for it."""
    service, _, one = _own(request)
    service.cached.delete(one)
    service.driver.hint(0, one.tenant, _agent_of(one), Hint(wait=Wait.DONE))
    return JSONResponse({})


def _own(request: Request) -> tuple[Service, ApiKey, Cached]:
    service = service_of(request)
    key, tenant = who_asks(service, request)
    return service, key, service.cached.get(tenant, request.path_params["cached_id"], service.now_s())


def _agent_of(one: Cached) -> str:
    """The agent whose context it is: ``/v1/agents/cache/ID`` says where its KV lies."""
    return f"{SESSION}/{one.id}"


async def _hold(service: Service, request: Request, key: ApiKey, one: Cached, life_s: float) -> None:
    """Compute what is missing of its KV, and hold it from now on. Raises ``ApiError``."""
    caller = Caller(one.tenant, key.service_tier(None), SESSION, _agent_of(one), role=ROLE, key=key.id)
    ask = Ask(
        sampling=SamplingParams(adapter=service.adapter(one.model, key)),
        stops=(),
        max_new_tokens=1,
        default_max_new_tokens=1,
        context_tokens=service.text_model.context_tokens,
        caller=caller,
        hint=Hint(retain_us=int(life_s * 1e6)),
        prewarm=True,
        model=service.model.text.name,
    )

    def prepare() -> Sequence[Generation]:
        prompt = _beginning(service, one)
        one.tokens = len(prompt.tokens)
        return ask.generations(prompt, 1)

    with ExitStack() as stack:
        batch, _ = await admitted(stack, service, request, key, ask.service_tier, prepare)
        await while_connected(request, collect(batch))


def _beginning(service: Service, one: Cached) -> TokenPrompt:
    """The tokens with which every prompt begins that names it: what two that go on differently share."""
    tools = build_tools((), None, FREE, service.settings)
    first, other = (
        chat_prompt(
            service.text_model,
            messages_of({"contents": [{"parts": [{"text": rest}]}]}, one.messages),
            tools,
            "contents",
        )
        for rest in ("0", "x")
    )
    pairs = enumerate(zip(first.tokens, other.tokens, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), len(first.tokens))
    return replace(first, tokens=first.tokens[: max(1, same)], text="", opening=None, thinking=None)


def _shown(one: Cached) -> dict[str, Any]:
    return {
        "name": PREFIX + one.id,
        "model": f"models/{one.model}",
        "displayName": one.display_name,
        "createTime": _moment(one.created_s),
        "updateTime": _moment(one.updated_s),
        "expireTime": _moment(one.expires_s),
        "usageMetadata": {"totalTokenCount": one.tokens},
    }


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def gemini_routes() -> list[Route]:
    """The same under both prefixes: which one a client uses is its version's business."""
    return [
        route
        for prefix in PREFIXES
        for route in (
            Route(f"{prefix}/models/{{model:path}}", generate_content, methods=["POST"]),
            Route(f"{prefix}/cachedContents", list_cached_contents, methods=["GET"]),
            Route(f"{prefix}/cachedContents", create_cached_content, methods=["POST"]),
            Route(f"{prefix}/cachedContents/{{cached_id}}", get_cached_content, methods=["GET"]),
            Route(f"{prefix}/cachedContents/{{cached_id}}", update_cached_content, methods=["PATCH"]),
            Route(f"{prefix}/cachedContents/{{cached_id}}", delete_cached_content, methods=["DELETE"]),
        )
    ]
