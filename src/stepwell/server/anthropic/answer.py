"""An answer as a message of Anthropic's, whole or as named events. One state machine says which block is
open.

``message_start`` waits until the request has its place, because its usage says what was read from the
cache; no block is opened before there is something to put into it. The token counts of a prompt are a
partition: what was neither read from the cache nor written to it, what was read, what was written. Their
sum is the prompt.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.loop.requests import Admitted, Delta, Finished
from stepwell.policy.types import Wait
from stepwell.server.anthropic.errors import body as error_body
from stepwell.server.bridge import Arrival
from stepwell.server.cost import cost_of
from stepwell.server.errors import ApiError
from stepwell.server.exchange import Event
from stepwell.server.service import Service
from stepwell.server.sse import event
from stepwell.server.tools import Answer, Call, HeldText, ToolSet
from stepwell.server.turns import Ask, Progress, timing_of

PIECE_CHARS = 64
"""Of a tool's input in one event."""


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
    id: str = field(default_factory=lambda: "msg_" + secrets.token_hex(12))
    progress: Progress = field(default_factory=Progress)
    called: bool = False
    done: bytes = b""
    _held: HeldText = field(init=False)
    _started: bool = False
    _open: int | None = None
    """The index of the text block that is open."""
    _blocks: int = 0

    def __post_init__(self) -> None:
        self._held = HeldText(self.tools, self.service.text_model)

    def waits_for(self) -> Wait:
        return Wait.TOOL if self.called else Wait.PERSON

    def frame(self, data: Event) -> bytes:
        return event(data, str(data["type"]))

    def failed(self, error: ApiError) -> list[Event]:
        return [error_body(error, self.request_id)]

    # --- whole ---------------------------------------------------------------------------------

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        (self.progress,) = progress
        answer = self.tools.split(self.progress.text, self.service.text_model)
        self.called = bool(answer.calls)
        content: list[dict[str, Any]] = [{"type": "text", "text": answer.content}] if answer.content else []
        content += [self._tool_use(call, _object(call.arguments)) for call in answer.calls]
        reason, stop = self._stop(answer)
        return self._message(content) | {
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": self._usage(self._generated()) | self._cost(),
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

    def _usage(self, output_tokens: int) -> dict[str, Any]:
        read = 0 if self.progress.admitted is None else self.progress.admitted.cached_tokens
        rest = self.prompt_tokens - read
        written = rest if self.writes else 0
        return {
            "input_tokens": rest - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }

    def _cost(self) -> dict[str, Any]:
        finished = self.progress.finished
        timing = timing_of(None if finished is None else finished.timing)
        return cost_of(self.service.books, self.ask, [self.progress], 1, self.waits_for()) | timing

    def _generated(self) -> int:
        return 0 if self.progress.finished is None else self.progress.finished.generated_tokens

    def _stop(self, answer: Answer) -> tuple[str, str | None]:
        finished = self.progress.finished
        if finished is not None and finished.reason == "length":
            return "max_tokens", None
        if answer.calls:
            return "tool_use", None
        if finished is not None and finished.stop_string in self.ask.stops and finished.stop_string:
            return "stop_sequence", finished.stop_string
        return "end_turn", None

    def _tool_use(self, call: Call, given: object) -> dict[str, Any]:
        return {"type": "tool_use", "id": _tool_id(call), "name": call.name, "input": given}

    # --- streamed ------------------------------------------------------------------------------

    def begin(self) -> list[Event]:
        return []

    def take(self, arrival: Arrival) -> list[Event]:
        output = arrival.output
        self.progress.take(output)
        if isinstance(output, Admitted):
            return self._start()
        if isinstance(output, Delta):
            return [*self._start(), *self._say(self._held.add(output.text))]
        if isinstance(output, Finished):
            return [*self._start(), *self._finish()]
        return []

    def end(self) -> list[Event]:
        return [{"type": "message_stop"}]

    def _start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        return [{"type": "message_start", "message": self._message([]) | {"usage": self._usage(0)}}]

    def _say(self, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        if self._open is None:
            self._open = self._next()
            events.append(_opened(self._open, {"type": "text", "text": ""}))
        return [*events, _delta(self._open, {"type": "text_delta", "text": text})]

    def _finish(self) -> list[Event]:
        answer = self._held.finish()
        self.called = bool(answer.calls)
        events = self._say(answer.content)
        if self._open is not None:
            events.append({"type": "content_block_stop", "index": self._open})
            self._open = None
        for call in answer.calls:
            events += self._call(call)
        reason, stop = self._stop(answer)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        usage = self._usage(self._generated()) | self._cost()
        return [*events, {"type": "message_delta", "delta": delta, "usage": usage}]

    def _call(self, call: Call) -> list[Event]:
        """The block of a call; its input in pieces that join to the JSON of the whole."""
        index = self._next()
        text = json.dumps(_object(call.arguments), ensure_ascii=False)
        pieces = [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]
        deltas = [_delta(index, {"type": "input_json_delta", "partial_json": piece}) for piece in pieces]
        return [
            _opened(index, self._tool_use(call, {})),
            *deltas,
            {"type": "content_block_stop", "index": index},
        ]

    def _next(self) -> int:
        self._blocks += 1
        return self._blocks - 1


def _opened(index: int, block: dict[str, Any]) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, delta: dict[str, Any]) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _tool_id(call: Call) -> str:
    return "toolu_" + call.id.removeprefix("call_")


def _object(arguments: str) -> object:
    """The input as an object. What a model wrote that is none is kept under one key and never lost."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": value}
