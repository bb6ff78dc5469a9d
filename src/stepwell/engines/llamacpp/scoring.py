"""How likely the tokens of prompts were, gathered while the prompts are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.engines.base import BatchItem, PromptToken
from stepwell.engines.llamacpp.native import Logits
from stepwell.engines.llamacpp.sampling import logprobs
from stepwell.policy.types import RequestId

SCORED_BYTES = 64 << 20
"""Most memory for the logits of one decode call."""


def scored_at_once(n_outputs: int, vocab_size: int) -> int:
    """How many tokens of scored prompts are computed by one decode call; llama.cpp gives logits for at most
    ``n_outputs`` tokens."""
    return max(1, min(n_outputs, SCORED_BYTES // (4 * vocab_size)))


@dataclass(slots=True)
class _Prompt:
    n_top: int
    tokens: list[PromptToken | None] = field(default_factory=lambda: [None])
    waiting: tuple[int, Logits] | None = None
    """The position of a token whose successor has not come yet, and its logits."""

    def add(self, position: int, token: int, logits: Logits) -> None:
        """``token`` stands at ``position``; ``logits`` are those of the token before it."""
        self.tokens += [None] * (position + 1 - len(self.tokens))
        self.tokens[position] = PromptToken(*logprobs(logits, token, self.n_top))


class Scores:
    """The prompts that are scored. One entry a request, from its opening until its first token is chosen."""

    def __init__(self) -> None:
        self._prompts: dict[RequestId, _Prompt] = {}

    def __contains__(self, request: RequestId) -> bool:
        return request in self._prompts

    def begin(self, request: RequestId, n_top: int) -> None:
        self._prompts[request] = _Prompt(n_top)

    def row(self, item: BatchItem, offset: int, logits: Logits) -> None:
        """The logits of the item's token at ``offset``; they come in the order of the tokens. After a
        preemption what is computed again is scored again."""
        prompt, position = self._prompts[item.request], item.start + offset
        if offset == 0 and prompt.waiting is not None and prompt.waiting[0] == position - 1:
            prompt.add(position, item.tokens[0], prompt.waiting[1])
        if offset + 1 < len(item.tokens):
            prompt.add(position + 1, item.tokens[offset + 1], logits)
        else:
            prompt.waiting = (position, logits.copy())

    def end(self, request: RequestId, n_tokens: int) -> tuple[PromptToken | None, ...]:
        """The first token of the answer follows: what is known of the ``n_tokens`` of the prompt."""
        tokens = self._prompts.pop(request).tokens
        return tuple(tokens + [None] * (n_tokens - len(tokens)))

    def forget(self, request: RequestId) -> None:
        self._prompts.pop(request, None)
