"""An answer as Gemini's clients read it, whole or as events."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.engines.base import AnswerPart
from stepwell.loop.requests import Delta, Finished
from stepwell.policy.types import Wait
from stepwell.server.backends.bridge import Arrival
from stepwell.server.errors import ApiError
from stepwell.server.gemini.errors import body as error_body
from stepwell.server.generation.cost import cost_of
from stepwell.server.generation.exchange import Event
from stepwell.server.generation.reading import Reading
from stepwell.server.generation.tools import ToolSet
from stepwell.server.generation.turns import Ask, Progress, RequestUsage
from stepwell.server.service import Service
from stepwell.server.wire.sse import event


@dataclass(slots=True)
class GeminiShape:
    """One answer of ``generateContent`` or ``streamGenerateContent``."""

    service: Service
    ask: Ask
    tools: ToolSet
    model: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    progress: Progress = field(default_factory=Progress)
    opening: str | None = None
    """Of the prompt; set as soon as it is rendered."""
    reading: Reading | None = None
    done: bytes = b""

    def waits_for(self) -> Wait:
        return Wait.PERSON

    def called(self) -> str:
        return ""

    def frame(self, data: Event) -> bytes:
        return event(data)

    def failed(self, error: ApiError) -> list[Event]:
        return [error_body(error)]

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        (self.progress,) = progress
        self.reading = Reading.whole(self.tools, self.service.text_model, self.progress, self.opening)
        return self._answer(self.reading.content, last=True)

    def begin(self) -> list[Event]:
        self.reading = Reading(self.tools, self.service.text_model, self.opening)
        return []

    def take(self, arrival: Arrival) -> list[Event]:
        output, reading = arrival.output, self.reading
        assert reading is not None
        self.progress.take(output)
        if isinstance(output, Delta) and (text := _said(reading.add(output.text, output.tokens))):
            return [self._answer(text)]
        if isinstance(output, Finished):
            return [self._answer(_said(reading.finish()), last=True)]
        return []

    def end(self) -> list[Event]:
        return []

    def _answer(self, text: str, *, last: bool = False) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        answer: dict[str, Any] = {
            "candidates": [candidate],
            "modelVersion": self.model,
            "responseId": self.id,
        }
        if last:
            finished = self.progress.finished
            cut = finished is not None and finished.reason == "length"
            candidate["finishReason"] = "MAX_TOKENS" if cut else "STOP"
            answer["usageMetadata"] = self._usage()
        return answer

    def _usage(self) -> dict[str, Any]:
        thought = 0 if self.reading is None else self.reading.reasoning_tokens
        usage = RequestUsage.of([self.progress], 1, thought)
        return {
            "promptTokenCount": usage.prompt_tokens,
            "cachedContentTokenCount": usage.cached_tokens,
            "candidatesTokenCount": usage.completion_tokens - thought,
            "thoughtsTokenCount": thought,
            "totalTokenCount": usage.prompt_tokens + usage.completion_tokens,
            **cost_of(self.service.books, self.ask, [self.progress], 1, self.waits_for()),
        }


def _said(parts: Sequence[AnswerPart]) -> str:
    return "".join(part.text for part in parts if part.kind == "content")
