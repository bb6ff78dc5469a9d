"""One HTTP request's generations: what they are asked, what they said, what they used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stepwell.basics.per_tier import NOTHING, PerTier, total_of
from stepwell.engines.base import SamplingParams, ThinkingBudget
from stepwell.loop.requests import Admitted, Delta, Finished, Generation, Output, Rejected, Scored, TokenInfo
from stepwell.loop.timing import Timing
from stepwell.policy.types import NO_HINT, Caller, Hint, RequestArrived
from stepwell.server.backends.bridge import Generations
from stepwell.server.errors import from_rejected
from stepwell.server.generation.prompts import TokenPrompt
from stepwell.server.generation.sampling import SEEDS


@dataclass(frozen=True, slots=True)
class Ask:
    """What all generations of one request have in common."""

    sampling: SamplingParams
    stops: tuple[str, ...]
    max_new_tokens: int | None
    default_max_new_tokens: int
    context_tokens: int
    caller: Caller
    hint: Hint = NO_HINT
    prewarm: bool = False
    """Only prepare the cache: nothing is answered."""
    thinking_tokens: int | None = None
    """How many tokens the reasoning of an answer may have; None: any number."""
    model: str = ""
    """Which of the server's models."""

    @property
    def service_tier(self) -> str:
        return self.caller.service_tier

    def generations(self, prompt: TokenPrompt, n: int) -> list[Generation]:
        """``n`` choices of one prompt. With a seed each choice gets its own, else they would be equal."""
        seed = self.sampling.seed
        sampling = self.sampling
        if prompt.thinking is not None and self.thinking_tokens is not None:
            sampling = replace(sampling, thinking=ThinkingBudget(prompt.thinking, self.thinking_tokens))
        asked = 1 if self.prewarm else self.max_new_tokens
        return [
            Generation(
                prompt=prompt.tokens,
                max_new_tokens=prompt.max_new_tokens(asked, self.default_max_new_tokens, self.context_tokens),
                sampling=sampling if seed is None else replace(sampling, seed=(seed + i) % SEEDS),
                stop=tuple(dict.fromkeys((*self.stops, *prompt.stops))),
                caller=self.caller,
                hint=self.hint,
                prewarm=self.prewarm,
                same_prompt=i > 0,
                opening=prompt.opening,
                model=self.model,
            )
            for i in range(n)
        ]

    def arrival(self, prompt_tokens: int, *, same_prompt: bool) -> RequestArrived:
        """One of the generations as the ledger hears of it, as far as its charge depends on it."""
        return RequestArrived(
            request=0,
            caller=self.caller,
            prompt_tokens=prompt_tokens,
            max_new_tokens=0,
            units=(),
            hint=self.hint,
            prewarm=self.prewarm,
            same_prompt=same_prompt,
            adapter=self.sampling.adapter,
        )


@dataclass(slots=True)
class Progress:
    """What one generation has said so far."""

    pieces: list[str] = field(default_factory=list)
    tokens: list[TokenInfo] = field(default_factory=list)
    prompt: tuple[TokenInfo, ...] = ()
    """Where it is scored: the tokens of the prompt."""
    admitted: Admitted | None = None
    finished: Finished | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def take(self, output: Output) -> None:
        """Raises ``ApiError`` when the driver gave the generation up."""
        match output:
            case Admitted():
                self.admitted = output
            case Scored(tokens):
                self.prompt = tokens
            case Delta(text, tokens):
                self.pieces.append(text)
                self.tokens += tokens
            case Finished():
                self.finished = output
            case Rejected():
                raise from_rejected(output)


async def collect(batch: Generations) -> list[Progress]:
    """Wait for everything. Raises ``ApiError`` at the first generation that was given up."""
    progress = [Progress() for _ in batch.generations]
    while not batch.over:
        arrival = await batch.next()
        if arrival is not None:
            progress[arrival.index].take(arrival.output)
    return progress


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """Tokens of one request. A prompt shared by several choices counts once."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: PerTier[int] = NOTHING
    recomputed_tokens: int = 0
    """Computed again although they had been before, for whatever request."""
    timing: Timing | None = None
    """Of the generation that took longest."""
    reasoning_tokens: int = 0
    """Of ``completion_tokens``."""
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Guessed tokens that were checked, and the right ones, which are among ``completion_tokens``."""

    @classmethod
    def of(
        cls, progress: Sequence[Progress], choices_per_prompt: int = 1, reasoning_tokens: int = 0
    ) -> RequestUsage:
        """``progress`` is ordered by prompt. What was cached is what the prompt's first choice found."""
        first = [p.admitted for p in progress[::choices_per_prompt] if p.admitted is not None]
        return cls(
            sum(p.finished.prompt_tokens for p in progress[::choices_per_prompt] if p.finished is not None),
            sum(p.finished.generated_tokens for p in progress if p.finished is not None),
            total_of(admitted.cached for admitted in first),
            sum(p.finished.recomputed_tokens for p in progress if p.finished is not None),
            longest([p.finished.timing for p in progress if p.finished is not None]),
            reasoning_tokens,
            sum(p.finished.drafted_tokens for p in progress if p.finished is not None),
            sum(p.finished.accepted_tokens for p in progress if p.finished is not None),
        )

    @property
    def cached_tokens(self) -> int:
        return sum(self.cached)

    def _cached(self) -> dict[str, Any]:
        return {
            "cached_tokens": self.cached_tokens,
            "cached_tokens_by_kv_tier": self.cached._asdict(),
            "recomputed_tokens": self.recomputed_tokens,
        }

    def chat(self) -> dict[str, Any]:
        """The ``usage`` of chat and completions, with where the cached tokens lay as an extra key."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": self._cached(),
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens, **self._drafted()},
            **timing_of(self.timing),
        }

    def _drafted(self) -> dict[str, int]:
        """OpenAI's names for guesses at the answer. The wrong ones are not paid for here."""
        wrong = self.drafted_tokens - self.accepted_tokens
        found = {"accepted_prediction_tokens": self.accepted_tokens, "rejected_prediction_tokens": wrong}
        return found if self.drafted_tokens else {}

    def responses(self) -> dict[str, Any]:
        """The ``usage`` of Responses. Every prompt token not read from the cache was written to it."""
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {
                **self._cached(),
                "cache_write_tokens": self.prompt_tokens - self.cached_tokens,
            },
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            **timing_of(self.timing),
        }


def longest(timings: Sequence[Timing | None]) -> Timing | None:
    known = [timing for timing in timings if timing is not None]
    return max(known, key=lambda timing: timing.total_us, default=None)


def timing_of(timing: Timing | None) -> dict[str, Any]:
    """``usage.timing``, an extension: where the request's time went, in milliseconds by cause."""
    return {} if timing is None else {"timing": timing.as_json()}
