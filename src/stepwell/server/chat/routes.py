"""``POST /v1/chat/completions``."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepwell.loop.requests import Generation
from stepwell.server.chat.answer import ChatShape
from stepwell.server.errors import bad_request, unsupported
from stepwell.server.generation.call import understand
from stepwell.server.generation.constraints import constraint_of
from stepwell.server.generation.exchange import exchange
from stepwell.server.generation.prompts import chat_prompt, template_messages
from stepwell.server.generation.sampling import choice_count, sampling_params
from stepwell.server.generation.tools import ToolSet, build_tools
from stepwell.server.generation.turns import Ask
from stepwell.server.service import Service
from stepwell.server.wire.schema import ChatRequest


async def chat_completions(request: Request) -> Response:
    """OpenAI's chat route; what differs from OpenAI is in ``docs/api.md``."""
    call = await understand(request, ChatRequest)
    service, wanted = call.service, call.wanted
    _refuse_what_would_be_ignored(wanted)
    tools = _tools(wanted, service)
    sampling = sampling_params(wanted, tools.constraint, _logprobs(wanted))
    ask = call.ask(sampling, wanted.max_completion_tokens or wanted.max_tokens)
    n = choice_count(wanted, service.settings)

    def prepare() -> Sequence[Generation]:
        prompt = chat_prompt(
            service.text_model,
            template_messages(wanted.messages),
            tools,
            "messages",
            wanted.template_options,
            straight=wanted.thinking_tokens == 0,
            prefill=wanted.prefill,
        )
        shape.opening = prompt.opening
        return ask.generations(prompt, n)

    shape = ChatShape(service, wanted, ask, tools, n, _head(service, wanted, ask))
    return await exchange(call, ask, prepare, shape, stream=bool(wanted.stream), turns=n)


def _refuse_what_would_be_ignored(wanted: ChatRequest) -> None:
    if wanted.functions is not None:
        raise unsupported("'functions' is deprecated; use 'tools'.", param="functions")
    if wanted.modalities not in (None, ["text"]):
        raise unsupported("This server answers in text only.", param="modalities")
    if wanted.top_logprobs is not None and not wanted.logprobs:
        raise bad_request("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")


def _tools(wanted: ChatRequest, service: Service) -> ToolSet:
    if len(wanted.messages) > service.settings.max_messages:
        raise bad_request(f"At most {service.settings.max_messages} messages are allowed.", param="messages")
    return build_tools(
        [tool.function for tool in wanted.tools or ()],
        wanted.tool_choice,
        constraint_of(wanted.response_format, wanted, service.settings),
        service.settings,
        parallel=wanted.parallel_tool_calls is not False,
        several=wanted.parallel_tool_calls is True,
        syntax=service.text_model.call_syntax(),
    )


def _logprobs(wanted: ChatRequest) -> int | None:
    return (wanted.top_logprobs or 0) if wanted.logprobs else None


def _head(service: Service, wanted: ChatRequest, ask: Ask) -> dict[str, Any]:
    """What the response and every chunk have in common."""
    return {
        "id": "chatcmpl-" + secrets.token_hex(14),
        "created": int(service.now_s()),
        "model": wanted.model,
        "service_tier": ask.service_tier,
        "system_fingerprint": service.fingerprint,
    }
