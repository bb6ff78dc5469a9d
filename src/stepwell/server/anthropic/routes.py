"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.loop.requests import Generation
from stepwell.server.anthropic.answer import MessageShape
from stepwell.server.anthropic.request import chat_body, marks_cache, shows_thinking
from stepwell.server.errors import ApiError
from stepwell.server.generation.call import Call, understand
from stepwell.server.generation.constraints import constraint_of
from stepwell.server.generation.exchange import exchange
from stepwell.server.generation.prompts import TokenPrompt, chat_prompt, template_messages
from stepwell.server.generation.sampling import sampling_params
from stepwell.server.generation.tools import ToolSet, build_tools
from stepwell.server.middleware import request_id_of
from stepwell.server.wire.schema import ChatRequest


class Dialect:
    """Translates a body, and remembers what only Anthropic's answers need to know of it."""

    def __init__(self) -> None:
        self.marks_cache = False
        self.shows_thinking = False

    def __call__(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.marks_cache = marks_cache(body)
        self.shows_thinking = shows_thinking(body)
        return chat_body(body)


async def messages(request: Request) -> Response:
    """Anthropic's route; what differs from Anthropic is in ``docs/api.md``."""
    dialect = Dialect()
    call = await understand(request, ChatRequest, dialect)
    if call.wanted.max_tokens is None:
        raise ApiError(400, "Field required.", param="max_tokens", code="missing_required_parameter")
    tools = _tools(call)
    ask = call.ask(sampling_params(call.wanted, tools.constraint, None), call.wanted.max_tokens)
    shape = MessageShape(
        call.service, ask, tools, call.wanted.model, request_id_of(request.scope), dialect.marks_cache
    )
    shape.shows_thinking = dialect.shows_thinking

    def prepare() -> Sequence[Generation]:
        prompt = _prompt(call, tools)
        shape.prompt_tokens = len(prompt.tokens)
        shape.opening = prompt.opening
        return ask.generations(prompt, 1)

    response = await exchange(call, ask, prepare, shape, stream=bool(call.wanted.stream))
    response.headers["request-id"] = request_id_of(request.scope)
    return response


async def count_tokens(request: Request) -> Response:
    """The tokens that the same body would have as a prompt: one renderer, one tokeniser, one number."""
    call = await understand(request, ChatRequest, chat_body)
    service, tier = call.service, call.key.service_tier(call.wanted.service_tier)
    with service.gate.errand(call.key):
        work = partial(_prompt, call, _tools(call))
        prompt = await service.preparing.run(service.gate.weight(tier), work)
    return JSONResponse({"input_tokens": len(prompt.tokens)})


def _prompt(call: Call[ChatRequest], tools: ToolSet) -> TokenPrompt:
    conversation: list[dict[str, Any]] = template_messages(call.wanted.messages)
    options = call.wanted.template_options
    return chat_prompt(call.service.text_model, conversation, tools, "messages", options, prefill=True)


def _tools(call: Call[ChatRequest]) -> ToolSet:
    wanted, settings = call.wanted, call.service.settings
    if len(wanted.messages) > settings.max_messages:
        raise ApiError(400, f"At most {settings.max_messages} messages are allowed.", param="messages")
    return build_tools(
        [tool.function for tool in wanted.tools or ()],
        wanted.tool_choice,
        constraint_of(wanted.response_format, wanted, settings),
        settings,
        parallel=wanted.parallel_tool_calls is not False,
        several=wanted.parallel_tool_calls is True,
        syntax=call.service.text_model.call_syntax(),
    )
