"""Answers of ``POST /v1/chat/completions``, whole or as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.engines.base import AnswerPart
from stepwell.loop.requests import Delta, Finished, TokenInfo
from stepwell.policy.types import Wait
from stepwell.server.backends.bridge import Arrival
from stepwell.server.generation.cost import cost_of
from stepwell.server.generation.exchange import DataFrames, Event
from stepwell.server.generation.logprobs import chat_logprobs
from stepwell.server.generation.reading import MadeCall, Reading
from stepwell.server.generation.tool_kinds import tool_kind
from stepwell.server.generation.tools import ToolSet
from stepwell.server.generation.turns import Ask, Progress, RequestUsage
from stepwell.server.service import Service
from stepwell.server.wire.schema import ChatRequest


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
        reading = self.readings[index]
        if isinstance(output, Finished):
            chunks = [self._chunk(index, self._part(index, part)) for part in reading.finish()]
            return [*chunks, self._chunk(index, {}, reason=finish_reason(self.progress[index], reading))]
        if not isinstance(output, Delta):
            return []
        said = [self._part(index, part) for part in reading.add(output.text, output.tokens)]
        logprobs = self._logprobs(output.tokens)
        if not said and logprobs is None:
            return []
        # The first part brings the log-probabilities of all tokens that made them.
        first, *rest = said or [{"content": ""}]
        return [self._chunk(index, first, logprobs=logprobs), *(self._chunk(index, one) for one in rest)]

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
