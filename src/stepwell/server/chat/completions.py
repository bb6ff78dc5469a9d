"""``POST /v1/completions``: text in, text out, no chat template."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepwell.loop.requests import Delta, Finished, Generation, Output, Scored, TokenInfo
from stepwell.policy.types import Hint, Wait
from stepwell.server.backends.bridge import Arrival
from stepwell.server.errors import bad_request, unsupported
from stepwell.server.generation.call import understand
from stepwell.server.generation.constraints import constraint_of
from stepwell.server.generation.cost import cost_of
from stepwell.server.generation.exchange import DataFrames, Event, exchange
from stepwell.server.generation.logprobs import PlacedToken, TextOffsets, completion_logprobs, placed, shown
from stepwell.server.generation.prompts import TokenPrompt, plain_prompt, text_of
from stepwell.server.generation.sampling import choice_count, sampling_params
from stepwell.server.generation.turns import Ask, Progress, RequestUsage
from stepwell.server.service import Service
from stepwell.server.wire.schema import CompletionRequest

MAX_SCORES = 2**16
"""Most log probabilities of prompts in one answer, which is written in the event loop: about 2 MB."""


async def completions(request: Request) -> Response:
    """OpenAI's legacy completions route. Choices are ordered by prompt, then by choice."""
    call = await understand(request, CompletionRequest)
    service, wanted = call.service, call.wanted
    _refuse_what_would_be_ignored(wanted, service)
    constraint = constraint_of(wanted.response_format, wanted, service.settings)
    ask = call.ask(sampling_params(wanted, constraint, wanted.logprobs), wanted.max_tokens)
    if wanted.max_tokens == 0:
        ask = replace(ask, prewarm=True)
    shape = CompletionShape(service, wanted, ask, choice_count(wanted, service.settings))

    turns = len(wanted.prompt) * shape.n

    def prepare() -> Sequence[Generation]:
        shape.prompts = [plain_prompt(service.text_model, prompt) for prompt in wanted.prompt]
        generations = [one for prompt in shape.prompts for one in ask.generations(prompt, shape.n)]
        return scored(generations, wanted.logprobs) if wanted.scores_prompt else generations

    return await exchange(call, ask, prepare, shape, stream=bool(wanted.stream), turns=turns)


def _refuse_what_would_be_ignored(wanted: CompletionRequest, service: Service) -> None:
    if wanted.suffix:
        raise unsupported("This server does not insert text: 'suffix' is not supported.", param="suffix")
    if wanted.best_of is not None and wanted.best_of != (wanted.n or 1):
        raise unsupported("'best_of' must equal 'n': every choice is returned.", param="best_of")
    if len(wanted.prompt) > service.settings.max_prompts:
        raise bad_request(
            f"At most {service.settings.max_prompts} prompts are allowed in one request.", param="prompt"
        )


def scored(generations: Sequence[Generation], n_top: int | None) -> list[Generation]:
    """With log probabilities of the prompts, each computed once however many choices it has. What is computed
    for them is of no use to other requests. Raises ``ApiError`` where the answer would be too long."""
    entries = sum(len(one.prompt) for one in generations) * (1 + (n_top or 0))  # each choice repeats them
    if entries > MAX_SCORES:
        raise bad_request(
            f"Log probabilities of these prompts are {entries:,} entries, and one answer has {MAX_SCORES:,} "
            "at most: send fewer or shorter prompts at once, or ask for fewer alternatives.",
            param="logprobs",
        )
    return [
        one
        if one.same_prompt
        else replace(one, sampling=replace(one.sampling, prompt_logprobs=n_top), hint=_over(one.hint))
        for one in generations
    ]


def _over(hint: Hint) -> Hint:
    return replace(hint, wait=Wait.DONE) if hint.wait is Wait.UNKNOWN else hint


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
    sent: list[int] = field(default_factory=list)
    """Per choice: how many characters it has said."""
    waiting: dict[int, list[PlacedToken]] = field(default_factory=dict)
    """Per choice: tokens whose text has not been said, and never will be where it is a stop text."""
    said: set[int] = field(default_factory=set)
    """Of a stream with scored prompts: the first choices of those that have been said."""
    held: dict[int, list[Output]] = field(default_factory=dict)
    """Per choice: what comes behind its prompt."""

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
        choices = [self._whole(index, one, progress) for index, one in enumerate(progress)]
        return {**self.head, "choices": choices, "usage": self._usage(progress)}

    def _whole(self, index: int, one: Progress, progress: Sequence[Progress]) -> dict[str, Any]:
        text, offsets = self._echo(index) + one.text, self._offsets(index)
        tokens = self._placed([*self._scores(progress, index), *one.tokens], offsets)
        logprobs = self._logprobs(shown(tokens, offsets, len(text)))
        return self._choice(index, text, logprobs=logprobs, reason=self._reason(one.finished))

    def _usage(self, progress: Sequence[Progress]) -> dict[str, Any]:
        cost = cost_of(self.service.books, self.ask, progress, self.n, self.waits_for())
        return {**RequestUsage.of(progress, self.n).chat(), **cost}

    def _echo(self, index: int) -> str:
        if not self.wanted.echo:
            return ""
        prompt = self.prompts[index // self.n]
        return prompt.text or text_of(self.service.text_model, prompt.tokens)

    def _scores(self, progress: Sequence[Progress], index: int) -> Sequence[TokenInfo]:
        """The tokens of a choice's prompt, which is scored for the first of its choices."""
        return progress[index - index % self.n].prompt

    def _offsets(self, index: int) -> TextOffsets:
        return TextOffsets(self._echo(index) if self.wanted.scores_prompt else "")

    def _reason(self, finished: Finished | None) -> str | None:
        if finished is None:
            return None
        return "length" if self.wanted.max_tokens == 0 else finished.reason

    def _placed(self, tokens: Sequence[TokenInfo], offsets: TextOffsets) -> list[PlacedToken]:
        return [] if self.wanted.logprobs is None else placed(tokens, self.service.text_model, offsets)

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> dict[str, Any] | None:
        top = self.wanted.logprobs
        return None if top is None else completion_logprobs(tokens, self.service.text_model, top)

    @staticmethod
    def _choice(
        index: int, text: str, *, logprobs: Mapping[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    # --- streamed -----------------------------------------------------------------------------

    def begin(self) -> list[Event]:
        count = len(self.prompts) * self.n
        self.progress = [Progress() for _ in range(count)]
        self.offsets = [self._offsets(index) for index in range(count)]
        self.sent = [0] * count
        if not self.wanted.echo or self.wanted.scores_prompt:
            return []
        return [self._chunk(self._choice(index, self._echo(index))) for index in range(count)]

    def take(self, arrival: Arrival) -> list[Event]:
        index, output = arrival.index, arrival.output
        self.progress[index].take(output)
        if isinstance(output, Scored):
            return self._said(range(index, index + self.n))
        if self.wanted.scores_prompt and index - index % self.n not in self.said:
            self.held.setdefault(index, []).append(output)
            return []
        return self._events(index, output)

    def _events(self, index: int, output: Output) -> list[Event]:
        if isinstance(output, Delta) and (output.text or self.wanted.logprobs is not None):
            return [self._delta(index, output)]
        if isinstance(output, Finished):
            rest = shown(self.waiting.pop(index, []), self.offsets[index], self.sent[index])
            logprobs = self._logprobs(rest) if rest else None
            return [self._chunk(self._choice(index, "", logprobs=logprobs, reason=self._reason(output)))]
        return []

    def _said(self, choices: Sequence[int]) -> list[Event]:
        """The prompt with its log probabilities, for each of its choices, and what these have said before the
        first of them had scored it."""
        self.said.add(choices[0])
        events: list[Event] = []
        for index in choices:
            tokens = self._placed(self._scores(self.progress, index), self.offsets[index])
            text = self._echo(index)
            self.sent[index] = len(text)
            events.append(self._chunk(self._choice(index, text, logprobs=self._logprobs(tokens))))
            events += [event for output in self.held.pop(index, []) for event in self._events(index, output)]
        return events

    def _delta(self, index: int, delta: Delta) -> dict[str, Any]:
        self.sent[index] += len(delta.text)
        tokens = [*self.waiting.pop(index, []), *self._placed(delta.tokens, self.offsets[index])]
        said = [one for one in tokens if one.offset < self.sent[index]]
        if len(said) < len(tokens):
            self.waiting[index] = tokens[len(said) :]
        return self._chunk(self._choice(index, delta.text, logprobs=self._logprobs(said)))

    def end(self) -> list[Event]:
        if not self._include_usage():
            return []
        return [{**self.head, "choices": [], "usage": self._usage(self.progress)}]

    def _chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if self._include_usage() else {}
        return {**self.head, "choices": [choice], **usage}

    def _include_usage(self) -> bool:
        return bool(self.wanted.stream_options and self.wanted.stream_options.include_usage)
