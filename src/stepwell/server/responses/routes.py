"""``/v1/responses``: create, follow, fetch, cancel, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.loop.requests import Generation
from stepwell.server.callers.identity import Identity
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import bad_request, unsupported
from stepwell.server.generation.call import Call, understand
from stepwell.server.generation.constraints import constraint_of
from stepwell.server.generation.exchange import admitted, exchange, stream_events
from stepwell.server.generation.prompts import chat_prompt
from stepwell.server.generation.sampling import sampling_params
from stepwell.server.generation.tools import ToolSet, build_tools
from stepwell.server.middleware import request_id_of
from stepwell.server.responses.answer import ResponseShape
from stepwell.server.responses.hosted_search import searched
from stepwell.server.responses.items import as_messages, input_items
from stepwell.server.responses.request import ResponseRequest
from stepwell.server.service import Service, identity_of, service_of
from stepwell.server.stores.background import BackgroundRun
from stepwell.server.stores.conversations import ConversationTurn
from stepwell.server.stores.items import Item
from stepwell.server.stores.responses import StoredResponse
from stepwell.server.telemetry.access import access_of
from stepwell.server.wire.schema import ToolChoice
from stepwell.server.wire.sse import COMMENTS, Comment, EventStream, event, while_connected


@dataclass(slots=True)
class Creation:
    """One ``POST /v1/responses``, understood."""

    call: Call[ResponseRequest]
    identity: Identity
    earlier: list[StoredResponse]
    items: list[Item]
    tools: ToolSet
    shape: ResponseShape
    turn: ConversationTurn | None
    """Where a conversation is named: the turn on it."""

    def prepare(self) -> Sequence[Generation]:
        before = [item for record in self.earlier for item in record.items()]
        if self.turn is not None:
            before += self.turn.before()
        messages = as_messages([*before, *self.items, *self.shape.searched], self.call.wanted.instructions)
        options = self.call.wanted.template_options
        prompt = chat_prompt(
            self.call.service.text_model,
            messages,
            self.tools,
            "input",
            options,
            straight=self.call.wanted.thinking_tokens == 0,
        )
        self.shape.opening = prompt.opening
        return self.shape.ask.generations(prompt, 1)

    def keep(self, run: BackgroundRun | None = None) -> StoredResponse:
        record = StoredResponse(self.identity, self.shape.response, self.items, run)
        self.call.service.store.put(record)
        return record

    def ended(self) -> None:
        """The answer's status is final, and the client has not seen it yet."""
        if self.call.wanted.store is not False:
            self.keep()
        self.settle()

    def settle(self) -> None:
        """The conversation gets what was said, and is free before the client can see the end. A prewarming
        turn has said nothing."""
        if self.turn is None:
            return
        response = self.shape.response
        if response["status"] in ("completed", "incomplete") and not self.shape.ask.prewarm:
            self.turn.completed(response["output"])
        self.turn.over()


async def create_response(request: Request) -> Response:
    """OpenAI's Responses: whole, streamed or in the background."""
    call = await understand(request, ResponseRequest)
    wanted = call.wanted
    _refuse_what_would_be_ignored(wanted)
    creation = _creation(call)
    if wanted.searches:
        work = searched(call.service, creation.identity.tenant, wanted, creation.items)
        with call.service.gate.errand(call.key):
            creation.shape.searched = await while_connected(request, work)
    if wanted.background:
        return await _in_background(request, creation)
    shape = creation.shape
    shape.ended = creation.ended
    stream = bool(wanted.stream)
    return await exchange(call, shape.ask, creation.prepare, shape, stream=stream, holding=creation.turn)


def _refuse_what_would_be_ignored(wanted: ResponseRequest) -> None:
    if wanted.conversation is not None and wanted.previous_response_id is not None:
        raise bad_request(
            "'conversation' and 'previous_response_id' cannot be used together.",
            param="conversation",
            code="mutually_exclusive_parameters",
        )
    if wanted.prompt is not None:
        raise unsupported("Stored prompt templates are not supported.", param="prompt")
    if wanted.background and wanted.store is False:
        raise bad_request("A background response must be stored.", param="background")
    if wanted.top_logprobs and not wanted.wants_logprobs:
        raise bad_request(
            "'top_logprobs' needs 'message.output_text.logprobs' in 'include'.", param="top_logprobs"
        )


def _creation(call: Call[ResponseRequest]) -> Creation:
    service, wanted, settings = call.service, call.wanted, call.service.settings
    earlier = service.store.conversation(call.identity.tenant, wanted.previous_response_id)
    items = input_items(wanted.input)
    if not 0 < len(items) <= settings.max_messages:
        raise bad_request(f"Between 1 and {settings.max_messages} input items are allowed.", param="input")
    text_format = wanted.text.format if wanted.text is not None else None
    answer = constraint_of(
        text_format.as_response_format() if text_format is not None else wanted.response_format,
        wanted,
        settings,
    )
    parallel = wanted.parallel_tool_calls is not False
    tools = build_tools(
        wanted.functions,
        _choice_of(wanted),
        answer,
        settings,
        parallel=parallel,
        several=wanted.parallel_tool_calls is True,
        syntax=service.text_model.call_syntax(),
    )
    identity = _continued(call.identity, earlier)
    logprobs = (wanted.top_logprobs or 0) if wanted.wants_logprobs else None
    sampling = sampling_params(wanted, tools.constraint, logprobs)
    ask = call.ask(sampling, wanted.max_output_tokens or wanted.max_tokens, identity)
    turn = None
    if wanted.conversation is not None:
        conversation = service.conversations.get(identity.tenant, wanted.conversation)
        turn = service.conversations.turn(conversation, items)
    shape = ResponseShape(service, wanted, ask, tools)
    return Creation(call, identity, earlier, items, tools, shape, turn)


def _choice_of(wanted: ResponseRequest) -> ToolChoice | None:
    """Where a tool is demanded and none is offered but a search, which is made anyhow, the answer is free."""
    choice = wanted.tool_choice
    only_searches = wanted.searches and not wanted.functions
    return None if choice is not None and choice.mode == "required" and only_searches else choice


def _continued(identity: Identity, earlier: Sequence[StoredResponse]) -> Identity:
    """A stored response is gone on from by the agent that made it, unless the client says otherwise."""
    if identity.agent or not earlier:
        return identity
    root = earlier[0]
    agent = root.identity.agent or root.id
    return replace(
        identity,
        session=root.identity.session or identity.session or agent,
        agent=agent,
        parent=root.identity.parent,
        source="previous_response_id",
        confidence="stated",
    )


# --- background --------------------------------------------------------------------------------


async def _in_background(request: Request, creation: Creation) -> Response:
    service, tenant = creation.call.service, creation.identity.tenant
    with ExitStack() as stack:
        stack.enter_context(service.gate.background(tenant))
        stack.enter_context(creation.turn or nullcontext())
        service_tier = creation.shape.ask.service_tier
        key, prepare = creation.call.key, creation.prepare
        batch, _ = await admitted(stack, service, request, key, service_tier, prepare)
        source = stream_events(service, request_id_of(request.scope), batch, creation.shape)
        resources = stack.pop_all()
    access = access_of(request.scope)
    access.goes_on = True
    resources.callback(access.over)
    run = BackgroundRun(source, resources.close)
    record = creation.keep(run)

    def ended() -> None:
        service.store.put(record)
        creation.settle()

    creation.shape.ended = ended
    if creation.call.wanted.stream:
        return _follow(creation.call.key, service, run, -1)
    return JSONResponse(record.response)


def _follow(key: ApiKey, service: Service, run: BackgroundRun, starting_after: int) -> Response:
    errand = ExitStack()
    errand.enter_context(service.gate.errand(key))

    async def frames() -> AsyncIterator[bytes]:
        async for data in run.follow(starting_after, service.settings.keep_alive_s):
            yield COMMENTS[data] if isinstance(data, Comment) else event(data, data["type"])

    return EventStream(frames(), errand.close, service.settings.send_timeout_s)


# --- stored responses --------------------------------------------------------------------------


def _stored(request: Request) -> tuple[Service, StoredResponse]:
    service = service_of(request)
    tenant = identity_of(request, {}, service.key(request)).tenant
    return service, service.store.get(tenant, request.path_params["response_id"])


async def get_response(request: Request) -> Response:
    """The response as it is now; with ``stream=true`` its events from ``starting_after`` on."""
    service, record = _stored(request)
    if request.query_params.get("stream") not in ("true", "True", "1"):
        return JSONResponse(record.response)
    if record.run is None:
        raise bad_request("Only background responses can be streamed later.", param="stream")
    after = request.query_params.get("starting_after", "-1")
    if not after.removeprefix("-").isdecimal() or len(after) > 9:
        raise bad_request("'starting_after' must be a sequence number.", param="starting_after")
    return _follow(service.key(request), service, record.run, max(-1, int(after)))


async def cancel_response(request: Request) -> Response:
    """Stop a background response. Cancelling twice is fine."""
    _, record = _stored(request)
    if record.run is None:
        raise bad_request("Only background responses can be cancelled.", code="invalid_request")
    if record.response["status"] not in ("queued", "in_progress", "cancelled"):
        raise bad_request(
            f"The response is {record.response['status']} and cannot be cancelled.", code="invalid_request"
        )
    await stop(record)
    return JSONResponse(record.response)


async def stop(record: StoredResponse) -> None:
    """End a background response early, if it has not ended."""
    if record.running and record.run is not None:
        await record.run.cancel()
        if record.response["status"] in ("queued", "in_progress"):
            record.response["status"] = "cancelled"


async def delete_response(request: Request) -> Response:
    """A stored response goes; one that runs is stopped first."""
    service, record = _stored(request)
    await stop(record)
    service.store.delete(record.identity.tenant, record.id)
    return JSONResponse({"id": record.id, "object": "response", "deleted": True})


MAX_PAGE = 100


async def list_input_items(request: Request) -> Response:
    """The items a response was asked with, newest first unless ``order=asc``."""
    _, record = _stored(request)
    query = request.query_params
    limit = query.get("limit", "20")
    if not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= MAX_PAGE:
        raise bad_request(f"'limit' must be between 1 and {MAX_PAGE}.", param="limit")
    items = list(record.input_items) if query.get("order") == "asc" else list(record.input_items)[::-1]
    page, more = _page(items, query.get("after"), int(limit))
    return JSONResponse(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": more,
        }
    )


def _page(items: list[Item], after: str | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise bad_request("'after' names no item of this response.", param="after")
    start = ids.index(after) + 1 if after is not None else 0
    return items[start : start + limit], start + limit < len(items)
