"""A response as the Responses API writes it down: an object that grows, and an event for each change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.engines.base import AnswerPart
from stepwell.loop.requests import Admitted, Delta, Finished, TokenInfo
from stepwell.policy.types import Wait
from stepwell.server.backends.bridge import Arrival
from stepwell.server.errors import ApiError
from stepwell.server.generation.cost import cost_of
from stepwell.server.generation.exchange import Event
from stepwell.server.generation.logprobs import token_logprobs
from stepwell.server.generation.reading import Reading
from stepwell.server.generation.tool_kinds import tool_kind
from stepwell.server.generation.tools import ToolSet
from stepwell.server.generation.turns import Ask, Progress, RequestUsage
from stepwell.server.responses.citations import citations
from stepwell.server.responses.request import FileSearchTool, ResponseRequest, ResponseTool
from stepwell.server.service import Service
from stepwell.server.stores.items import new_id
from stepwell.server.wire.schema import ToolChoice
from stepwell.server.wire.sse import event

ERROR_CODES = frozenset({"server_error", "rate_limit_exceeded"})
"""``response.error.code`` knows no others for what can happen after acceptance."""


ITEMS = {
    "content": "message",
    "reasoning": "reasoning",
    "call": "function_call",
    "arguments": "function_call",
}
"""The item that a part of an answer belongs to."""
IDS = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


@dataclass(slots=True)
class OpenItem:
    """The output item that still grows. Its text is joined at its end: a long one would be copied often."""

    kind: str
    number: int
    """Of a call: which."""
    item: dict[str, Any]
    index: int
    pieces: list[str] = field(default_factory=list)


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
    searched: list[dict[str, Any]] = field(default_factory=list)
    """What was searched for before the answer; items of it once it has begun."""
    opening: str | None = None
    """Of the prompt; set as soon as it is rendered."""
    reading: Reading | None = None
    """Once the answer has begun."""
    done: bytes = b""
    """The last event of a Responses stream says itself that it is the last."""
    _sequence: int = 0
    _open: OpenItem | None = None
    _logprobs: list[Any] = field(default_factory=list)
    """Of tokens that no part of the message has been sent for yet."""

    def __post_init__(self) -> None:
        self.response = _new_response(self.service, self.wanted, self.ask)

    # --- what exchange calls ------------------------------------------------------------------

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        """Without a stream the same events are made, and not sent."""
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
            case Admitted():
                queued = self.response["status"] == "queued"
                self.response["status"] = "in_progress"
                begun = [self._status("response.in_progress")] if queued else []
                return begun + [event for item in self.searched for event in self._search(item)]
            case Delta(text, tokens):
                return self._read(text, tokens)
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

    def called(self) -> str:
        items = (item for item in self.response["output"] if item["type"] == "function_call")
        return tool_kind((item["name"], item["arguments"]) for item in items)

    def _search(self, item: dict[str, Any]) -> list[Event]:
        """A search that has been made, told as one that is."""
        at = len(self.response["output"])
        self.response["output"].append(item)
        said = {"item_id": item["id"], "output_index": at}
        stages = [f"response.file_search_call.{stage}" for stage in ("in_progress", "searching", "completed")]
        new = {**item, "status": "in_progress", "results": None}
        return [
            self._event("response.output_item.added", output_index=at, item=new),
            *(self._event(stage, **said) for stage in stages),
            self._event("response.output_item.done", output_index=at, item=dict(item)),
        ]

    # --- growing ------------------------------------------------------------------------------

    def _read(self, text: str, tokens: Sequence[TokenInfo]) -> list[Event]:
        if self.reading is None:
            self.reading = Reading(self.tools, self.service.text_model, self.opening)
        if self.wanted.wants_logprobs:
            self._logprobs += token_logprobs(tokens, self.service.text_model)
        return self._parts(self.reading, self.reading.add(text, tokens))

    def _parts(self, reading: Reading, parts: Sequence[AnswerPart]) -> list[Event]:
        """Events of parts: an item begins where another kind of part, or another call, does."""
        events: list[Event] = []
        for part in parts:
            kind, number = ITEMS[part.kind], part.call
            if self._open is None or (self._open.kind, self._open.number) != (kind, number):
                events += self._end_item("completed")
                events += self._begin(kind, number, reading)
            if part.kind != "call":
                events.append(self._more(part.text))
        return events

    def _begin(self, kind: str, number: int, reading: Reading) -> list[Event]:
        item: dict[str, Any] = {"id": new_id(IDS[kind]), "type": kind, "status": "in_progress"}
        if kind == "function_call":
            call = reading.calls[number]
            item |= {"call_id": call.id, "name": call.name, "arguments": ""}
        elif kind == "reasoning":
            item |= {"summary": [], "content": [], "encrypted_content": None}
        else:
            item |= {"role": "assistant", "content": []}
        self._open = OpenItem(kind, number, item, len(self.response["output"]))
        self.response["output"].append(item)
        empty = {**item, "content": []} if "content" in item else dict(item)
        added = self._item("response.output_item.added", empty)
        if kind == "function_call":
            return [added]
        part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["content"].append(part)
        return [added, self._in_item("response.content_part.added", content_index=0, part=dict(part))]

    def _more(self, text: str) -> Event:
        item = self._opened()
        item.pieces.append(text)
        if item.kind == "function_call":
            return self._in_item("response.function_call_arguments.delta", delta=text)
        if item.kind == "reasoning":
            return self._in_item("response.reasoning_text.delta", content_index=0, delta=text)
        logprobs, self._logprobs = self._logprobs, []
        item.item["content"][0]["logprobs"] += logprobs
        return self._in_item("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def _end_item(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        item, text = self._open.item, "".join(self._open.pieces)
        item["status"] = status
        if self._open.kind == "function_call":
            item["arguments"] = text
            said = {"name": item["name"], "arguments": text}
            events = [self._in_item("response.function_call_arguments.done", **said)]
        else:
            part = item["content"][0]
            part["text"] = text
            cited = citations(text, self.searched) if self._open.kind == "message" and self.searched else []
            logprobs = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
            kind = "output_text" if self._open.kind == "message" else "reasoning_text"
            events = [self._cited(number, one) for number, one in enumerate(cited)]
            events += [
                self._in_item(f"response.{kind}.done", content_index=0, text=text, **logprobs),
                self._in_item("response.content_part.done", content_index=0, part=dict(part)),
            ]
        events.append(self._item("response.output_item.done", dict(item)))
        self._open = None
        return events

    def _cited(self, number: int, annotation: dict[str, Any]) -> Event:
        self._opened().item["content"][0]["annotations"].append(annotation)
        said = {"content_index": 0, "annotation_index": number, "annotation": annotation}
        return self._in_item("response.output_text.annotation.added", **said)

    def _finish(self, finished: Finished) -> list[Event]:
        events = self._read("", ())
        reading = self.reading
        assert reading is not None
        cut = finished.reason == "length"
        status = "incomplete" if cut else "completed"
        events += self._parts(reading, reading.finish())
        if len(self.response["output"]) == len(self.searched) and not self.ask.prewarm:
            events += self._begin("message", 0, reading)
        if self._logprobs and self._open is not None and self._open.kind == "message":
            events.append(self._more(""))
        events += self._end_item(status)
        self.response["status"] = status
        self.response["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        cost = cost_of(self.service.books, self.ask, [self.progress], 1, self.waits_for())
        usage = RequestUsage.of([self.progress], 1, reading.reasoning_tokens)
        self.response["usage"] = {**usage.responses(), **cost}
        return events

    def _close(self, status: str) -> None:
        self.response["status"] = status
        if status in ("completed", "incomplete"):
            self.response["completed_at"] = int(self.service.now_s())
        self.ended()

    # --- events -------------------------------------------------------------------------------

    def _opened(self) -> OpenItem:
        assert self._open is not None
        return self._open

    def _event(self, kind: str, **data: Any) -> Event:
        number = self._sequence
        self._sequence += 1
        return {"type": kind, "sequence_number": number, **data}

    def _status(self, kind: str) -> Event:
        return self._event(kind, response={**self.response, "output": list(self.response["output"])})

    def _item(self, kind: str, item: dict[str, Any]) -> Event:
        return self._event(kind, output_index=self._opened().index, item=item)

    def _in_item(self, kind: str, **data: Any) -> Event:
        opened = self._opened()
        return self._event(kind, item_id=opened.item["id"], output_index=opened.index, **data)


def _new_response(service: Service, wanted: ResponseRequest, ask: Ask) -> dict[str, Any]:
    text_format = wanted.text.format if wanted.text is not None else None
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(service.now_s()),
        "completed_at": None,
        "status": "queued",
        "background": bool(wanted.background),
        "conversation": None if wanted.conversation is None else {"id": wanted.conversation},
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
        "reasoning": {"effort": wanted.reasoning.effort if wanted.reasoning else None, "summary": None},
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


def _echo_tool(tool: ResponseTool | FileSearchTool) -> dict[str, Any]:
    if isinstance(tool, FileSearchTool):
        return tool.model_dump(exclude_none=True)
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
