"""``POST /v1/chat/completions``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepwell.engines.base import AnswerPart
from stepwell.loop.requests import Delta, Finished, Generation, TokenInfo
from stepwell.policy.types import Wait
from stepwell.server.bridge import Arrival
from stepwell.server.call import understand
from stepwell.server.constraints import constraint_of
from stepwell.server.cost import cost_of
from stepwell.server.errors import bad_request, unsupported
from stepwell.server.exchange import DataFrames, Event, exchange
from stepwell.server.logprobs import chat_logprobs
from stepwell.server.prompts import chat_prompt, template_messages
from stepwell.server.reading import MadeCall, Reading
from stepwell.server.sampling import choice_count, sampling_params
from stepwell.server.schema import ChatRequest
from stepwell.server.service import Service
from stepwell.server.tool_kinds import tool_kind
from stepwell.server.tools import ToolSet, build_tools
from stepwell.server.turns import Ask, Progress, RequestUsage


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


@dataclass(slots=True)
class ChatShape(DataFrames):
    """Chat answers, whole or as chunks."""

    service: Service
    wanted: ChatRequest
    ask: Ask
    tools: ToolSet
    n: int
    head: Mapping[str, Any]
    opening: str | None = None
    """Of the prompt; set as soon as it is rendered."""
    progress: list[Progress] = field(init=False)
    readings: list[Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.progress = [Progress() for _ in range(self.n)]

    def waits_for(self) -> Wait:
        return Wait.TOOL if any(reading.calls for reading in self.readings) else Wait.PERSON

    def called(self) -> str:
        return tool_kind((call.name, call.arguments) for reading in self.readings for call in reading.calls)

    # --- whole --------------------------------------------------------------------------------

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        self.readings = [
            Reading.whole(self.tools, self.service.text_model, one, self.opening) for one in progress
        ]
        choices = [self._choice(index, one) for index, one in enumerate(progress)]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self._usage(progress)}

    def _usage(self, progress: Sequence[Progress]) -> dict[str, Any]:
        cost = cost_of(self.service.books, self.ask, progress, self.n, self.waits_for())
        thought = sum(reading.reasoning_tokens for reading in self.readings)
        return {**RequestUsage.of(progress, self.n, thought).chat(), **cost}

    def _choice(self, index: int, progress: Progress) -> dict[str, Any]:
        reading = self.readings[index]
        message: dict[str, Any] = {"role": "assistant", "content": reading.content, "refusal": None}
        if reading.reasoning:
            message["reasoning_content"] = reading.reasoning
        if reading.calls:
            message["content"] = reading.content or None
            message["tool_calls"] = [
                {**_call_head(call), "function": {"name": call.name, "arguments": call.arguments}}
                for call in reading.calls
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(progress.tokens),
            "finish_reason": finish_reason(progress, reading),
        }

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        return chat_logprobs(tokens, self.service.text_model) if self.wanted.logprobs else None

    # --- streamed -----------------------------------------------------------------------------

    def begin(self) -> list[Event]:
        self.readings = [Reading(self.tools, self.service.text_model, self.opening) for _ in range(self.n)]
        first = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(index, first) for index in range(self.n)]

    def take(self, arrival: Arrival) -> list[Event]:
        index, output = arrival.index, arrival.output
        self.progress[index].take(output)
        if isinstance(output, Delta):
            return self._delta(index, output)
        if isinstance(output, Finished):
            parts = self.readings[index].finish()
            chunks = [self._chunk(index, self._part(index, part)) for part in parts]
            reason = finish_reason(self.progress[index], self.readings[index])
            return [*chunks, self._chunk(index, {}, reason=reason)]
        return []

    def _delta(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """A chunk for each part; the first brings the log-probabilities of all tokens that made them."""
        said = [self._part(index, part) for part in self.readings[index].add(delta.text, delta.tokens)]
        logprobs = self._logprobs(delta.tokens)
        if not said and logprobs is None:
            return []
        first, *rest = said or [{"content": ""}]
        return [
            self._chunk(index, first, logprobs=logprobs),
            *(self._chunk(index, one) for one in rest),
        ]

    def _part(self, index: int, part: AnswerPart) -> dict[str, Any]:
        """A part of an answer as the ``delta`` of a chunk."""
        match part.kind:
            case "content":
                return {"content": part.text}
            case "reasoning":
                return {"reasoning_content": part.text}
            case "call":
                call = self.readings[index].calls[part.call]
                head = {**_call_head(call), "function": {"name": call.name, "arguments": ""}}
                return {"tool_calls": [{"index": part.call, **head}]}
        return {"tool_calls": [{"index": part.call, "function": {"arguments": part.text}}]}

    def end(self) -> list[Event]:
        if not self._include_usage():
            return []
        usage = self._usage(self.progress)
        return [{**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage}]

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        *,
        reason: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        # With include_usage every chunk but the last has "usage": null, as OpenAI sends it.
        usage = {"usage": None} if self._include_usage() else {}
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice], **usage}

    def _include_usage(self) -> bool:
        return bool(self.wanted.stream_options and self.wanted.stream_options.include_usage)


def finish_reason(progress: Progress, reading: Reading) -> str:
    """``stop``, ``length`` or ``tool_calls``."""
    reason = progress.finished.reason if progress.finished is not None else "stop"
    return "tool_calls" if reading.calls and reason == "stop" else reason


def _call_head(call: MadeCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function"}
