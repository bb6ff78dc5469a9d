"""``POST /v1/completions``: text in, text out, no chat template."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepwell.loop.requests import Delta, Finished, Generation, TokenInfo
from stepwell.policy.types import Wait
from stepwell.server.bridge import Arrival
from stepwell.server.call import understand
from stepwell.server.constraints import constraint_of
from stepwell.server.cost import cost_of
from stepwell.server.errors import bad_request, unsupported
from stepwell.server.exchange import DataFrames, Event, exchange
from stepwell.server.logprobs import TextOffsets, completion_logprobs
from stepwell.server.prompts import TokenPrompt, plain_prompt, text_of
from stepwell.server.sampling import choice_count, sampling_params
from stepwell.server.schema import CompletionRequest
from stepwell.server.service import Service
from stepwell.server.turns import Ask, Progress, Usage


async def completions(request: Request) -> Response:
    """OpenAI's legacy completions route. Choices are ordered by prompt, then by choice."""
    call = await understand(request, CompletionRequest)
    service, wanted = call.service, call.wanted
    _refuse_what_would_be_ignored(wanted, service)
    constraint = constraint_of(wanted.response_format, wanted, service.settings)
    ask = call.ask(sampling_params(wanted, constraint, wanted.logprobs), wanted.max_tokens)
    shape = CompletionShape(service, wanted, ask, choice_count(wanted, service.settings))

    turns = len(wanted.prompt) * shape.n

    def prepare() -> Sequence[Generation]:
        shape.prompts = [plain_prompt(service.text_model, prompt) for prompt in wanted.prompt]
        return [one for prompt in shape.prompts for one in ask.generations(prompt, shape.n)]

    return await exchange(call, ask, prepare, shape, stream=bool(wanted.stream), turns=turns)


def _refuse_what_would_be_ignored(wanted: CompletionRequest, service: Service) -> None:
    if wanted.suffix:
        raise unsupported("This server does not insert text: 'suffix' is not supported.", param="suffix")
    if wanted.best_of is not None and wanted.best_of != (wanted.n or 1):
        raise unsupported("'best_of' must equal 'n': every choice is returned.", param="best_of")
    if wanted.echo and wanted.logprobs is not None:
        raise unsupported("'echo' cannot be combined with 'logprobs': a prompt has none here.", param="echo")
    if len(wanted.prompt) > service.settings.max_prompts:
        raise bad_request(
            f"At most {service.settings.max_prompts} prompts are allowed in one request.", param="prompt"
        )


@dataclass(slots=True)
class CompletionShape(DataFrames):
    """Completions, whole or as chunks."""

    service: Service
    wanted: CompletionRequest
    ask: Ask
    n: int
    prompts: list[TokenPrompt] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    head: Mapping[str, Any] = field(init=False)
    offsets: list[TextOffsets] = field(default_factory=list)
    """Per choice: where the next token begins."""

    def __post_init__(self) -> None:
        self.head = {
            "id": "cmpl-" + secrets.token_hex(14),
            "object": "text_completion",
            "created": int(self.service.now_s()),
            "model": self.wanted.model,
            "service_tier": self.ask.service_tier,
            "system_fingerprint": self.service.fingerprint,
        }

    def waits_for(self) -> Wait:
        """Plain text does not show whether it holds a call that the client will understand."""
        return Wait.UNKNOWN

    # --- whole --------------------------------------------------------------------------------

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        choices = [
            self._choice(
                index,
                self._echo(index) + one.text,
                logprobs=self._logprobs(one.tokens, TextOffsets()),
                reason=one.finished.reason if one.finished is not None else None,
            )
            for index, one in enumerate(progress)
        ]
        return {**self.head, "choices": choices, "usage": self._usage(progress)}

    def _usage(self, progress: Sequence[Progress]) -> dict[str, Any]:
        cost = cost_of(self.service.books, self.ask, progress, self.n, self.waits_for())
        return {**Usage.of(progress, self.n).chat(), **cost}

    def _echo(self, index: int) -> str:
        if not self.wanted.echo:
            return ""
        prompt = self.prompts[index // self.n]
        return prompt.text or text_of(self.service.text_model, prompt.tokens)

    def _logprobs(self, tokens: Sequence[TokenInfo], offsets: TextOffsets) -> dict[str, Any] | None:
        top = self.wanted.logprobs
        return None if top is None else completion_logprobs(tokens, self.service.text_model, offsets, top)

    @staticmethod
    def _choice(
        index: int, text: str, *, logprobs: Mapping[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    # --- streamed -----------------------------------------------------------------------------

    def begin(self) -> list[Event]:
        count = len(self.prompts) * self.n
        self.progress = [Progress() for _ in range(count)]
        self.offsets = [TextOffsets() for _ in range(count)]
        if not self.wanted.echo:
            return []
        return [self._chunk(self._choice(index, self._echo(index))) for index in range(count)]

    def take(self, arrival: Arrival) -> list[Event]:
        index, output = arrival.index, arrival.output
        self.progress[index].take(output)
        if isinstance(output, Delta) and (output.text or self.wanted.logprobs is not None):
            return [self._delta(index, output)]
        if isinstance(output, Finished):
            return [self._chunk(self._choice(index, "", reason=output.reason))]
        return []

    def _delta(self, index: int, delta: Delta) -> dict[str, Any]:
        logprobs = self._logprobs(delta.tokens, self.offsets[index])
        return self._chunk(self._choice(index, delta.text, logprobs=logprobs))

    def end(self) -> list[Event]:
        if not self._include_usage():
            return []
        return [{**self.head, "choices": [], "usage": self._usage(self.progress)}]

    def _chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if self._include_usage() else {}
        return {**self.head, "choices": [choice], **usage}

    def _include_usage(self) -> bool:
        return bool(self.wanted.stream_options and self.wanted.stream_options.include_usage)
