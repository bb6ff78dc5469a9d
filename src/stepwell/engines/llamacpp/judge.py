"""What the child of ``trial`` does with a grammar: compile it over bytes, ask what may come first."""

from __future__ import annotations

import time
from functools import lru_cache

from llguidance import LLMatcher

from stepwell.engines.llamacpp.constraints import LIMITS, first_line
from stepwell.engines.llamacpp.vocabulary import bytes_tokenizer

_tokenizer = lru_cache(maxsize=1)(bytes_tokenizer)

MAX_FIRST_MASK_S = 0.25
"""Of processor time: a grammar is no worse because others keep the machine busy."""
NOTHING = "nothing at all satisfies it"
_NEVER = "NoExtensionBias"
"""How llguidance says it of a regular expression."""


def judge(grammar: str) -> str:
    """What is wrong with a grammar of llguidance; empty: nothing."""
    matcher = LLMatcher(_tokenizer(), grammar, log_level=0, limits=LIMITS)
    started_s = time.thread_time()
    mask = b"" if matcher.is_error() else matcher.compute_bitmask()
    if matcher.is_error():
        said = first_line(matcher.get_error())
        return NOTHING if _NEVER in said else said
    if time.thread_time() - started_s > MAX_FIRST_MASK_S:
        return "it takes too much time at each token"
    return "" if any(mask) else NOTHING
