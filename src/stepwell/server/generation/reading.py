"""One answer on its way from the model's text to what a client gets: reasoning, content, calls.

All routes read through this, whole answers and streams alike, so that they say the same.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwell.engines.base import AnswerPart, TextModel
from stepwell.loop.requests import TokenInfo
from stepwell.server.generation.tools import ToolSet
from stepwell.server.generation.turns import Progress


def new_call_id() -> str:
    return "call_" + secrets.token_hex(12)


@dataclass(slots=True)
class MadeCall:
    """One function call the model made. ``arguments`` is JSON text, valid or not: it may have been cut."""

    name: str
    id: str = field(default_factory=new_call_id)
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class Reading:
    """What has been read of one answer."""

    def __init__(self, tools: ToolSet, text_model: TextModel, opening: str | None = None) -> None:
        """``opening``: of the prompt that the answer goes on from."""
        self.calls: list[MadeCall] = []
        self._most_calls = None if tools.parallel else 1
        self._reader = text_model.reader(tools.functions, opening or "", constrained=tools.constrained)
        self._said: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._detokenizer = text_model.detokenizer(marks=True)
        self._token_chars = 0
        self._begins: list[int] = []
        """Where each token begins, in characters of the answer's text."""

    @classmethod
    def whole(cls, tools: ToolSet, text_model: TextModel, progress: Progress, opening: str | None) -> Reading:
        """A finished answer, read in one piece."""
        reading = cls(tools, text_model, opening)
        reading.add(progress.text, progress.tokens)
        reading.finish()
        return reading

    @property
    def content(self) -> str:
        return "".join(self._said["content"])

    @property
    def reasoning(self) -> str:
        return "".join(self._said["reasoning"])

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens were spent on reasoning; known once it has ended."""
        return sum(
            bisect_left(self._begins, end) - bisect_left(self._begins, start)
            for start, end in self._reader.thought
        )

    def add(self, text: str, tokens: Sequence[TokenInfo] = ()) -> list[AnswerPart]:
        """What became certain with this text, made of these tokens."""
        for info in tokens:
            self._begins.append(self._token_chars)
            self._token_chars += len(self._detokenizer.add(info.token))
        return self._taken(self._reader.add(text))

    def finish(self) -> list[AnswerPart]:
        """The rest, once no text follows."""
        return self._taken(self._reader.finish())

    def _taken(self, parts: Sequence[AnswerPart]) -> list[AnswerPart]:
        return [part for part in parts if self._keep(part)]

    def _keep(self, part: AnswerPart) -> bool:
        """Note a part; False: it belongs to a call beyond the one that is allowed."""
        if part.kind in self._said:
            self._said[part.kind].append(part.text)
            return True
        if self._most_calls is not None and part.call >= self._most_calls:
            return False
        if part.kind == "call":
            self.calls.append(MadeCall(part.text))
        else:
            self.calls[part.call].pieces.append(part.text)
        return True
