"""Which beginnings of prompts each node was sent lately. For turns of which no agent's place tells: those of
callers that name no agent, and an agent's first.

A prompt is told as a chain: a digest of its first 64 tokens, of its first 85, and so on, each a third longer
than the one before, and of the whole. All prompts are cut at the same places, so two of them have as many
digests in common as they begin alike, and the chain of a very long one is short.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

MAX_PREFIXES = 32
FIRST_CUT_TOKENS = 64
MAX_NODE_PREFIXES = 65_536
"""Of each node; about 12 MB. At ten prefixes a prompt it is the last few thousand prompts."""
WAITING_TOO = 2
"""Times what the node can hold: prompts count when they are sent, and some of them still wait there."""


class PromptPrefix(NamedTuple):
    """How a prompt begins."""

    digest: str
    """Of all its tokens up to there, salted with what they are computed for (tenant, model)."""
    tokens: int


def _cuts() -> tuple[int, ...]:
    found = [FIRST_CUT_TOKENS]
    while len(found) < MAX_PREFIXES - 1:
        found.append(found[-1] * 4 // 3)
    return tuple(found)


CUTS = _cuts()
"""Where prompts are cut, in tokens: 64 to about 350,000. What is longer is as good as equal by then."""


class SentPrefixes:
    """One node's: at most ``max_prefixes``, and about as much as the node can hold (a beginning that two
    prompts share is counted once). What was sent longest ago is forgotten first, of a prompt its end before
    its beginning: what is known of a chain is always its first part."""

    def __init__(self, max_prefixes: int = MAX_NODE_PREFIXES) -> None:
        self._max_prefixes = max_prefixes
        self._spans: OrderedDict[tuple[str, str], int] = OrderedDict()
        """By tenant and digest: tokens from the end of the prefix before. Latest last."""
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._spans)

    def matched(self, tenant: str, chain: Sequence[PromptPrefix]) -> int:
        """Tokens of the longest prefix that was sent there."""
        spans = self._spans
        known = bisect_left(chain, True, key=lambda prefix: (tenant, prefix.digest) not in spans)
        return chain[known - 1].tokens if known else 0

    def sent(self, tenant: str, chain: Sequence[PromptPrefix], kv_tokens: int | None = None) -> None:
        """``kv_tokens``: what the node can hold; None: not known."""
        max_tokens = None if kv_tokens is None else WAITING_TOO * kv_tokens
        starts = [0, *[prefix.tokens for prefix in chain]]
        for prefix, start in list(zip(chain, starts, strict=False))[::-1]:
            name = (tenant, prefix.digest)
            if name in self._spans:
                self._spans.move_to_end(name)
            else:
                self._spans[name] = prefix.tokens - start
                self.tokens += prefix.tokens - start
        while len(self._spans) > self._max_prefixes or (max_tokens is not None and self.tokens > max_tokens):
            if not self._spans:
                break
            self.tokens -= self._spans.popitem(last=False)[1]

    def clear(self) -> None:
        self._spans.clear()
        self.tokens = 0
