"""Which tool an answer of vLLM calls, read off it while it passes by, in each dialect.

Stepwell's own answers say it as they are made (``server.exchange``); vLLM's say it in OpenAI's words (chat
and Responses) or in Anthropic's, whole or in the pieces of a stream. A tool is named as everywhere
(``tool_kinds``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from stepwell.server.generation.tool_kinds import tool_kind

MOST_CALLS = 256
"""Of one answer; of more the first ones are heard."""
MOST_ARGUMENT_CHARS = 65_536
"""Of one call: ``tool_kind`` reads no more."""
Place = tuple[str, int, int]
"""Of a call in an answer: dialect, choice, number."""


@dataclass(slots=True)
class _Call:
    name: str
    pieces: list[str] = field(default_factory=list)
    chars: int = 0

    def add(self, arguments: str) -> None:
        self.chars += len(arguments)
        if self.chars <= MOST_ARGUMENT_CHARS:
            self.pieces.append(arguments)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces) if self.chars <= MOST_ARGUMENT_CHARS else ""


@dataclass(slots=True)
class Called:
    """The calls of one answer, in the order in which they began."""

    calls: dict[Place, _Call] = field(default_factory=dict)
    shows: bool = False
    """The answer is of a kind that would show calls; a plain completion is not."""

    def hear(self, said: dict[str, Any]) -> None:
        """A whole answer, or the data of one event. Never raises."""
        for number, choice in enumerate(_objects(said.get("choices"))):
            message = _object(choice.get("message")) or _object(choice.get("delta"))
            self.shows = self.shows or bool(message)
            for place, call in enumerate(_objects(message.get("tool_calls"))):
                at = ("chat", _index(choice, number), _index(call, place))
                function = _object(call.get("function"))
                self._add(at, function.get("name"), function.get("arguments"))
        self._hear_messages(said)
        self._hear_response(_object(said.get("response")) or said)

    def kind(self) -> str:
        """As the policy tells tools apart; empty: none is called."""
        return tool_kind((call.name, call.arguments) for call in self.calls.values())

    def _hear_messages(self, said: dict[str, Any]) -> None:
        """Anthropic's: a message, or an event of one."""
        match said.get("type"):
            case "message" | "message_start":
                self.shows = True
                for number, block in enumerate(_objects(said.get("content"))):
                    self._block(number, block)
            case "content_block_start":
                self._block(_index(said, 0), _object(said.get("content_block")))
            case "content_block_delta":
                piece = _object(said.get("delta")).get("partial_json")
                self._add(("messages", 0, _index(said, 0)), None, piece)

    def _block(self, number: int, block: dict[str, Any]) -> None:
        if block.get("type") == "tool_use":
            given = _object(block.get("input"))
            self._add(("messages", 0, number), block.get("name"), json.dumps(given) if given else "")

    def _hear_response(self, response: dict[str, Any]) -> None:
        """OpenAI's Responses: its events end with the whole of it."""
        if response.get("object") == "response":
            self.shows = True
        for number, item in enumerate(_objects(response.get("output"))):
            if item.get("type") == "function_call":
                at = ("responses", 0, number)
                self.calls.pop(at, None)
                self._add(at, item.get("name"), item.get("arguments"))

    def _add(self, at: Place, name: object, arguments: object) -> None:
        call = self.calls.get(at)
        if call is None:
            if not isinstance(name, str) or not name or len(self.calls) >= MOST_CALLS:
                return
            call = self.calls[at] = _Call(name)
        if isinstance(arguments, str):
            call.add(arguments)


def _index(said: dict[str, Any], otherwise: int) -> int:
    index = said.get("index")
    return index if isinstance(index, int) else otherwise


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
