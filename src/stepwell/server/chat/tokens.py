"""``/tokenize`` and ``/detokenize``, as vLLM and llama.cpp have them: what a prompt comes to."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.server.errors import bad_request
from stepwell.server.generation.constraints import FREE
from stepwell.server.generation.prompts import MAX_TOKEN_CHARS, chat_prompt, template_messages, text_of
from stepwell.server.generation.tools import build_tools
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.schema import MAX_ITEMS, Message, Schema, Tool

TokenId = Annotated[int, Field(ge=0)]


class TokenizeRequest(Schema):
    """A text (``prompt``, or ``content`` as llama.cpp calls it) or a conversation."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_ITEMS)] | None = None
    add_special_tokens: bool = True
    add_special: bool | None = None
    return_token_strs: bool = False


class DetokenizeRequest(Schema):
    """Token ids."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=1_000_000, fail_fast=True)]


async def tokenize(request: Request) -> Response:
    """The tokens of a text, or of a conversation as the model's template renders it."""
    service = service_of(request)
    key, tenant = who_asks(service, request)
    with service.gate.errand(key):
        body = await read_object(request, service.settings, service.bodies, tenant)
        wanted = parse(TokenizeRequest, body)
        service = _of_model(service, wanted.model)
        work = partial(_tokens, service, wanted)
        tokens = await service.preparing.run(service.gate.weight(key.default_service_tier), work)
    answer: dict[str, Any] = {
        "count": len(tokens),
        "max_model_len": service.text_model.context_tokens,
        "tokens": tokens,
    }
    if wanted.return_token_strs:
        answer["token_strs"] = [text_of(service.text_model, [token]) for token in tokens]
    return JSONResponse(answer)


def _tokens(service: Service, wanted: TokenizeRequest) -> list[int]:
    model = service.text_model
    if wanted.messages is not None:
        functions = [tool.function for tool in wanted.tools or ()]
        tools = build_tools(functions, None, FREE, service.settings)
        return list(chat_prompt(model, template_messages(wanted.messages), tools, "messages").tokens)
    text = wanted.prompt if wanted.prompt is not None else wanted.content
    if text is None:
        raise bad_request("Give 'prompt' or 'messages'.", param="prompt", code="missing_required_parameter")
    if len(text) > 8 * model.context_tokens * MAX_TOKEN_CHARS:
        raise bad_request("The text is far longer than any prompt may be.", param="prompt")
    special = wanted.add_special_tokens if wanted.add_special is None else wanted.add_special
    return model.tokenize(text, add_bos=special, parse_special=True)


async def detokenize(request: Request) -> Response:
    """The text of token ids; ``content`` says the same for clients of llama.cpp."""
    service = service_of(request)
    key, tenant = who_asks(service, request)
    with service.gate.errand(key):
        body = await read_object(request, service.settings, service.bodies, tenant)
        wanted = parse(DetokenizeRequest, body)
        service = _of_model(service, wanted.model)
        size = service.model.info.vocab_size
        if (wrong := next((token for token in wanted.tokens if token >= size), None)) is not None:
            raise bad_request(f"Token {wrong} does not exist: this model has {size} tokens.", param="tokens")
        work = partial(text_of, service.text_model, wanted.tokens)
        text = await service.preparing.run(service.gate.weight(key.default_service_tier), work)
    return JSONResponse({"prompt": text, "content": text})


def _of_model(service: Service, name: str | None) -> Service:
    if name is None:
        return service
    service.require_model(name)
    return service.of_model(name)
