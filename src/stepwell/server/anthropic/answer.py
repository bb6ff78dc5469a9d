"""An answer as a message of Anthropic's, whole or as named events. One state machine says which block is
open.

``message_start`` waits until the request has its place, because its usage says what was read from the
cache; no block is opened before there is something to put into it. The token counts of a prompt are a
partition: what was neither read from the cache nor written to it, what was read, what was written. Their
sum is the prompt.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import from_json

from stepwell.engines.base import AnswerPart
from stepwell.loop.requests import Admitted, Delta, Finished
from stepwell.policy.types import Wait
from stepwell.server.anthropic.errors import body as error_body
from stepwell.server.backends.bridge import Arrival
from stepwell.server.errors import ApiError
from stepwell.server.generation.cost import cost_of
from stepwell.server.generation.exchange import Event
from stepwell.server.generation.reading import MadeCall, Reading
from stepwell.server.generation.tool_kinds import tool_kind
from stepwell.server.generation.tools import ToolSet
from stepwell.server.generation.turns import Ask, Progress, timing_of
from stepwell.server.service import Service
from stepwell.server.wire.sse import event

SIGNATURE = "stepwell:"
"""Marks the reasoning as this server's own: what follows is its hash. Whatever comes back is taken."""
Kind = Literal["text", "thinking", "tool_use"]


@dataclass(slots=True)
class MessageShape:
    """One message on its way to the client."""

    service: Service
    ask: Ask
    tools: ToolSet
    model: str
    request_id: str
    writes: bool
    """Whether what was not in the cache counts as written to it."""
    prompt_tokens: int = 0
    """Set as soon as the prompt is counted."""
    shows_thinking: bool = False
    """Whether the client asked for reasoning: one that did not may take the first block for the answer."""
    id: str = field(default_factory=lambda: "msg_" + secrets.token_hex(12))
    progress: Progress = field(default_factory=Progress)
    done: bytes = b""
    opening: str | None = None
    """Of the prompt; set together with ``prompt_tokens``."""
    reading: Reading | None = None
    """Once the answer has begun."""
    _open: tuple[Kind, int] | None = None
    """The block that is open: what it is, and of a call which."""
    _blocks: int = 0

    def waits_for(self) -> Wait:
        return Wait.TOOL if self.reading is not None and self.reading.calls else Wait.PERSON

    def called(self) -> str:
        calls = self.reading.calls if self.reading is not None else ()
        return tool_kind((call.name, call.arguments) for call in calls)

    def frame(self, data: Event) -> bytes:
        return event(data, str(data["type"]))

    def failed(self, error: ApiError) -> list[Event]:
        return [error_body(error, self.request_id)]

    # --- whole ---------------------------------------------------------------------------------

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        (self.progress,) = progress
        reading = Reading.whole(self.tools, self.service.text_model, self.progress, self.opening)
        self.reading = reading
        content: list[dict[str, Any]] = []
        if reading.reasoning and self.shows_thinking:
            content.append(_thinking(reading.reasoning, _signature(reading.reasoning)))
        if reading.content:
            content.append({"type": "text", "text": reading.content})
        content += [_tool_use(call, _object(call.arguments)) for call in reading.calls]
        reason, stop = self._stop(reading)
        return self._message(content) | {
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": self._usage(self._generated(), reading) | self._cost(),
        }

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self, output_tokens: int, reading: Reading) -> dict[str, Any]:
        read = 0 if self.progress.admitted is None else self.progress.admitted.cached_tokens
        rest = self.prompt_tokens - read
        written = rest if self.writes else 0
        return {
            "input_tokens": rest - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "output_tokens": output_tokens,
            "output_tokens_details": {"thinking_tokens": reading.reasoning_tokens},
            "service_tier": "standard",
        }

    def _cost(self) -> dict[str, Any]:
        finished = self.progress.finished
        timing = timing_of(None if finished is None else finished.timing)
        return cost_of(self.service.books, self.ask, [self.progress], 1, self.waits_for()) | timing

    def _generated(self) -> int:
        return 0 if self.progress.finished is None else self.progress.finished.generated_tokens

    def _stop(self, reading: Reading) -> tuple[str, str | None]:
        finished = self.progress.finished
        if finished is not None and finished.reason == "length":
            return "max_tokens", None
        if reading.calls:
            return "tool_use", None
        if finished is not None and finished.stop_string in self.ask.stops and finished.stop_string:
            return "stop_sequence", finished.stop_string
        return "end_turn", None

    # --- streamed ------------------------------------------------------------------------------

    def begin(self) -> list[Event]:
        return []

    def take(self, arrival: Arrival) -> list[Event]:
        output = arrival.output
        self.progress.take(output)
        if not isinstance(output, Admitted | Delta | Finished):
            return []
        events: list[Event] = []
        reading = self.reading
        if reading is None:
            self.reading = reading = Reading(self.tools, self.service.text_model, self.opening)
            message = self._message([]) | {"usage": self._usage(0, reading)}
            events.append({"type": "message_start", "message": message})
        if isinstance(output, Delta):
            events += self._say(reading, reading.add(output.text, output.tokens))
        if isinstance(output, Finished):
            events += self._finish(reading)
        return events

    def end(self) -> list[Event]:
        return [{"type": "message_stop"}]

    def _say(self, reading: Reading, parts: Sequence[AnswerPart]) -> list[Event]:
        return [event for part in parts for event in self._part(reading, part)]

    def _part(self, reading: Reading, part: AnswerPart) -> list[Event]:
        """One part of the answer: a block begins where another kind of part does."""
        match part.kind:
            case "call":
                call = reading.calls[part.call]
                return self._begin_block(reading, ("tool_use", part.call), _tool_use(call, {}))
            case "arguments":
                return [self._delta("input_json_delta", "partial_json", part.text)]
            case "reasoning" if not self.shows_thinking:
                return []
            case "reasoning":
                events = self._begin_block(reading, ("thinking", 0), _thinking("", ""))
                return [*events, self._delta("thinking_delta", "thinking", part.text)]
        events = self._begin_block(reading, ("text", 0), {"type": "text", "text": ""})
        return [*events, self._delta("text_delta", "text", part.text)]

    def _begin_block(self, reading: Reading, wanted: tuple[Kind, int], block: dict[str, Any]) -> list[Event]:
        if self._open == wanted:
            return []
        events = self._end_block(reading)
        self._open = wanted
        self._blocks += 1
        index = self._blocks - 1
        return [*events, {"type": "content_block_start", "index": index, "content_block": block}]

    def _end_block(self, reading: Reading) -> list[Event]:
        if self._open is None:
            return []
        events: list[Event] = []
        if self._open[0] == "thinking":
            events.append(self._delta("signature_delta", "signature", _signature(reading.reasoning)))
        self._open = None
        return [*events, {"type": "content_block_stop", "index": self._blocks - 1}]

    def _delta(self, kind: str, name: str, text: str) -> Event:
        delta = {"type": kind, name: text}
        return {"type": "content_block_delta", "index": self._blocks - 1, "delta": delta}

    def _finish(self, reading: Reading) -> list[Event]:
        events = [*self._say(reading, reading.finish()), *self._end_block(reading)]
        reason, stop = self._stop(reading)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        usage = self._usage(self._generated(), reading) | self._cost()
        return [*events, {"type": "message_delta", "delta": delta, "usage": usage}]


def _thinking(text: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signature}


def _signature(text: str) -> str:
    return SIGNATURE + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _tool_use(call: MadeCall, given: object) -> dict[str, Any]:
    return {"type": "tool_use", "id": _tool_id(call), "name": call.name, "input": given}


def _tool_id(call: MadeCall) -> str:
    return "toolu_" + call.id.removeprefix("call_")


def _object(arguments: str) -> object:
    """The input as an object, one that was cut as far as it got: what a client makes of the stream. What a
    model wrote that is none is kept under one key and never lost."""
    try:
        value = _finite(from_json(arguments, allow_partial=True)) if arguments else {}
    except ValueError:
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": value}


def _finite(value: Any) -> Any:
    """``1e999`` is a number in JSON and none in an answer that we write: null, as everywhere."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
