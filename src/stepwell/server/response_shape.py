"""A response as the Responses API writes it down: an object that grows, and an event for each change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.loop.requests import Admitted, Delta, Finished, TokenInfo
from stepwell.policy.types import Wait
from stepwell.server.bridge import Arrival
from stepwell.server.cost import cost_of
from stepwell.server.errors import ApiError
from stepwell.server.exchange import Event
from stepwell.server.logprobs import token_logprobs
from stepwell.server.response_items import new_id
from stepwell.server.response_schema import ResponseRequest, ResponseTool
from stepwell.server.schema import ToolChoice
from stepwell.server.service import Service
from stepwell.server.sse import event
from stepwell.server.tools import Call, HeldText, ToolSet
from stepwell.server.turns import Ask, Progress, Usage

ERROR_CODES = frozenset({"server_error", "rate_limit_exceeded"})
"""``response.error.code`` knows no others for what can happen after acceptance."""


@dataclass(slots=True)
class ResponseShape:
    """Builds ``response`` while outputs arrive. ``ended`` is called when its status is final."""

    service: Service
    wanted: ResponseRequest
    ask: Ask
    tools: ToolSet
    ended: Callable[[], object] = lambda: None
    response: dict[str, Any] = field(init=False)
    progress: Progress = field(default_factory=Progress)
    held: HeldText = field(init=False)
    message: dict[str, Any] | None = None
    done: bytes = b""
    """The last event of a Responses stream says itself that it is the last."""
    _sequence: int = 0

    def __post_init__(self) -> None:
        self.held = HeldText(self.tools, self.service.text_model)
        self.response = _new_response(self.service, self.wanted, self.ask)

    # --- what exchange calls ------------------------------------------------------------------

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        """Without a stream the same events happen, and nobody hears them."""
        self.held.hold()
        for output in (progress[0].admitted, Delta(progress[0].text, tuple(progress[0].tokens))):
            if output is not None:
                self.take(Arrival(0, output))
        if progress[0].finished is not None:
            self.take(Arrival(0, progress[0].finished))
        self.end()
        return self.response

    def begin(self) -> list[Event]:
        if self.wanted.background:
            return [self._status("response.created"), self._status("response.queued")]
        self.response["status"] = "in_progress"
        return [self._status("response.created"), self._status("response.in_progress")]

    def take(self, arrival: Arrival) -> list[Event]:
        self.progress.take(arrival.output)
        match arrival.output:
            case Admitted() if self.response["status"] == "queued":
                self.response["status"] = "in_progress"
                return [self._status("response.in_progress")]
            case Delta(text, tokens):
                return self._text(self.held.add(text), tokens)
            case Finished():
                return self._finish(arrival.output)
        return []

    def end(self) -> list[Event]:
        self._close(self.response["status"])
        return [self._status(f"response.{self.response['status']}")]

    def failed(self, error: ApiError) -> list[Event]:
        code = error.code if error.code in ERROR_CODES else "server_error"
        self.response["error"] = {"code": code, "message": error.message}
        self._close("failed")
        return [self._status("response.failed")]

    def frame(self, data: Event) -> bytes:
        return event(data, data["type"])

    def waits_for(self) -> Wait:
        called = any(item["type"] == "function_call" for item in self.response["output"])
        return Wait.TOOL if called else Wait.PERSON

    # --- growing ------------------------------------------------------------------------------

    def _text(self, text: str, tokens: Sequence[TokenInfo] = ()) -> list[Event]:
        logprobs = token_logprobs(tokens, self.service.text_model) if self.wanted.wants_logprobs else []
        if not text and not logprobs:
            return []
        events = [] if self.message is not None else self._open_message()
        part = self._part()
        part["text"] += text
        part["logprobs"] += logprobs
        delta = self._in_message("response.output_text.delta", delta=text, logprobs=logprobs)
        return [*events, delta]

    def _finish(self, finished: Finished) -> list[Event]:
        answer = self.held.finish()
        cut = finished.reason == "length"
        status = "incomplete" if cut else "completed"
        events = self._text(answer.content)
        if self.message is None and not answer.calls and not self.ask.prewarm:
            events += self._open_message()
        if self.message is not None:
            events += self._close_message(status)
        for call in answer.calls:
            events += self._call(call)
        self.response["status"] = status
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        cost = cost_of(self.service.books, self.ask, [self.progress], 1, self.waits_for())
        self.response["usage"] = {**Usage.of([self.progress]).responses(), **cost}
        return events

    def _open_message(self) -> list[Event]:
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.message = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [part],
        }
        self.response["output"].append(self.message)
        empty = {**self.message, "content": []}
        return [
            self._item("response.output_item.added", empty),
            self._in_message("response.content_part.added", part=dict(part)),
        ]

    def _close_message(self, status: str) -> list[Event]:
        message, part = self._message(), dict(self._part())
        message["status"] = status
        return [
            self._in_message("response.output_text.done", text=part["text"], logprobs=part["logprobs"]),
            self._in_message("response.content_part.done", part=part),
            self._item("response.output_item.done", dict(message)),
        ]

    def _call(self, call: Call) -> list[Event]:
        item = {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        self.response["output"].append(item)
        started = {**item, "status": "in_progress", "arguments": ""}
        said = {"item_id": item["id"], "output_index": len(self.response["output"]) - 1}
        kind = "response.function_call_arguments"
        return [
            self._item("response.output_item.added", started),
            self._event(f"{kind}.delta", **said, delta=call.arguments),
            self._event(f"{kind}.done", **said, name=call.name, arguments=call.arguments),
            self._item("response.output_item.done", dict(item)),
        ]

    def _close(self, status: str) -> None:
        self.response["status"] = status
        if status in ("completed", "incomplete"):
            self.response["completed_at"] = int(self.service.now_s())
        self.ended()

    # --- events -------------------------------------------------------------------------------

    def _message(self) -> dict[str, Any]:
        assert self.message is not None
        return self.message

    def _part(self) -> dict[str, Any]:
        part = self._message()["content"][0]
        assert isinstance(part, dict)
        return part

    def _event(self, kind: str, **data: Any) -> Event:
        number = self._sequence
        self._sequence += 1
        return {"type": kind, "sequence_number": number, **data}

    def _status(self, kind: str) -> Event:
        return self._event(kind, response={**self.response, "output": list(self.response["output"])})

    def _item(self, kind: str, item: dict[str, Any]) -> Event:
        return self._event(kind, output_index=self._index(item), item=item)

    def _index(self, item: dict[str, Any]) -> int:
        return next(i for i, one in enumerate(self.response["output"]) if one["id"] == item["id"])

    def _in_message(self, kind: str, **data: Any) -> Event:
        message = self._message()
        place = {"item_id": message["id"], "output_index": self._index(message), "content_index": 0}
        return self._event(kind, **place, **data)


def _new_response(service: Service, wanted: ResponseRequest, ask: Ask) -> dict[str, Any]:
    text_format = wanted.text.format if wanted.text is not None else None
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(service.now_s()),
        "completed_at": None,
        "status": "queued",
        "background": bool(wanted.background),
        "error": None,
        "incomplete_details": None,
        "instructions": wanted.instructions,
        "max_output_tokens": wanted.max_output_tokens,
        "max_tool_calls": None,
        "metadata": wanted.metadata or {},
        "model": wanted.model,
        "output": [],
        "parallel_tool_calls": wanted.parallel_tool_calls is not False,
        "previous_response_id": wanted.previous_response_id,
        "prompt_cache_key": wanted.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": wanted.safety_identifier,
        "service_tier": ask.service_tier,
        "store": wanted.store is not False,
        "temperature": ask.sampling.temperature,
        "text": {"format": text_format.echo() if text_format is not None else {"type": "text"}},
        "tool_choice": _echo_choice(wanted.tool_choice),
        "tools": [_echo_tool(tool) for tool in wanted.tools or ()],
        "top_logprobs": wanted.top_logprobs or 0,
        "top_p": ask.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": wanted.user,
    }


def _echo_tool(tool: ResponseTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _echo_choice(choice: ToolChoice | None) -> str | dict[str, Any]:
    if choice is None or choice.names is None:
        return choice.mode if choice is not None else "auto"
    tools = [{"type": "function", "name": name} for name in choice.names]
    if choice.mode == "required" and len(tools) == 1:
        return tools[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}
