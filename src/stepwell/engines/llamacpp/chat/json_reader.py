"""Reads an answer that its constraint makes one JSON value: a call of a function, or the answer itself.

Marks inside it are text of its strings, so nothing is looked for but the call that the whole may be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.engines.base import AnswerPart, Span
from stepwell.engines.llamacpp.chat.calls import CallReader
from stepwell.engines.llamacpp.chat.reader import joined
from stepwell.engines.llamacpp.chat.source import StreamSource, Wait


class JsonReader:
    """See ``AnswerReader``."""

    thought: Sequence[Span] = ()

    def __init__(self, functions: Mapping[str, Mapping[str, Any]]) -> None:
        self._source = StreamSource()
        self._parts: list[AnswerPart] = []
        self._calls = -1
        self._reader = CallReader(self._source, functions, self._begin, self._more)
        self._may_call = bool(functions)
        self._run = self._read()
        next(self._run)

    def add(self, text: str) -> list[AnswerPart]:
        self._source.text += text
        return self._resume()

    def finish(self) -> list[AnswerPart]:
        self._source.ended = True
        return self._resume()

    def _resume(self) -> list[AnswerPart]:
        with contextlib.suppress(StopIteration):
            next(self._run)
        parts, self._parts = self._parts, []
        return joined(parts)

    def _begin(self, name: str) -> None:
        self._calls += 1
        self._parts.append(AnswerPart("call", name, self._calls))

    def _more(self, arguments: str) -> None:
        if arguments:
            self._parts.append(AnswerPart("arguments", arguments, self._calls))

    def _read(self) -> Wait[None]:
        source = self._source
        if self._may_call and (yield from self._reader.json_calls(bare=True)):
            return
        if self._calls >= 0:
            return  # cut in the middle of a call
        source.at = 0
        while True:
            if source.at < len(source.text):
                self._parts.append(AnswerPart("content", source.text[source.at :]))
                source.at = len(source.text)
                source.forget()
            if source.ended:
                return
            yield
