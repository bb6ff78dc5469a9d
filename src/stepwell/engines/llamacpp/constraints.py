"""What an answer is held to, compiled by llguidance: a schema, a grammar, a regular expression.

Compiled once per text and kept; each request gets a copy. That happens off the driver's thread, before a
request is taken (``Engine.validate``), and every text is tried in a process of its own first: whatever it
makes the compiler do, it does not do it to the server. At each token the library's own limits bound the
work.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from stepwell.engines.base import RELAXED, SamplingParams
from stepwell.engines.llamacpp.grammar import grammar_of

KEPT = 256
KEPT_BYTES = 16 * 1024 * 1024
"""Of texts; what is compiled is some twenty times as large."""

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)
"""Some 20 ms a token at most, on one core: by llguidance's figures a millisecond is 14,000 units of fuel or
20,000 items."""

Verdict = Callable[[str], str]
"""Compiles a grammar of llguidance where it can do no harm; says what is wrong with it, or nothing."""


def is_constrained(sampling: SamplingParams) -> bool:
    return any(one is not None for one in _given(sampling))


def _given(sampling: SamplingParams) -> tuple[str | None, ...]:
    return sampling.json_schema, sampling.grammar, sampling.regex, sampling.calls


class Constraints:
    """The compiled constraints of one model. Thread-safe."""

    def __init__(
        self,
        tokenizer: Callable[[], LLTokenizer],
        trial: Verdict,
        marks: Callable[[], Mapping[str, int]] = dict,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """``tokenizer`` is called by ``prepare`` or when the first constraint comes: it takes up to a second.
        ``marks``: the tokens that are no text, by their name; called when calls are first demanded."""
        self.close = close
        self._make_tokenizer = tokenizer
        self._marks = cache(marks)
        self._made: LLTokenizer | None = None
        self._trial = trial
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def compiled(self, sampling: SamplingParams) -> LLMatcher:
        """A matcher at its beginning, the caller's own. ``ValueError`` with one sentence if there is none."""
        if sum(one is not None for one in _given(sampling)) != 1:
            raise ValueError("give one of a grammar, a regular expression and a JSON schema, not several")
        text = _key(sampling)
        with self._lock:
            found = self._kept.get(text)
            if found is not None:
                self._kept.move_to_end(text)
                return found.deep_copy()
        made = self._compile(sampling)
        with self._lock:
            if text not in self._kept:
                self._kept[text] = made
                self._bytes += len(text)
            while len(self._kept) > KEPT or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
                self._bytes -= len(self._kept.popitem(last=False)[0])
        return made.deep_copy()

    def prepare(self) -> None:
        """Read the vocabulary now instead of at the first constraint."""
        self._tokenizer()

    def _tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._made is None:
                self._made = self._make_tokenizer()
            return self._made

    def _compile(self, sampling: SamplingParams) -> LLMatcher:
        if wrong := self._trial(grammar_of(sampling)):
            widest = _without_relaxed(sampling)
            if widest is None or self._trial(grammar_of(widest)):
                raise ValueError(f"the {_kind(sampling)} cannot be used: {wrong}")
            sampling = widest
        marks = self._marks() if sampling.calls is not None else None
        matcher = LLMatcher(self._tokenizer(), grammar_of(sampling, marks), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise ValueError(f"the {_kind(sampling)} cannot be used: {first_line(matcher.get_error())}")
        return matcher


def _key(sampling: SamplingParams) -> str:
    text = next((one for one in _given(sampling) if one is not None), "")
    return f"{_kind(sampling)}:{text}"


def _kind(sampling: SamplingParams) -> str:
    if sampling.json_schema is not None:
        return "JSON schema"
    if sampling.calls is not None:
        return "parameters of a tool"
    return "regular expression" if sampling.regex is not None else "grammar"


def _without_relaxed(sampling: SamplingParams) -> SamplingParams | None:
    """The parameters with every relaxed schema as wide as it can be; None: nothing in it is relaxed."""
    text = sampling.json_schema or sampling.calls
    if text is None or RELAXED not in text:
        return None
    wider = json.dumps(_widest(json.loads(text)))
    if sampling.json_schema is None:
        return replace(sampling, calls=wider)
    return replace(sampling, json_schema=wider)


def _widest(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_widest(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get(RELAXED) is True:
        return {"type": "object"}
    return {key: _widest(value) for key, value in schema.items()}


def first_line(message: str) -> str:
    """What llguidance says is wrong, in one line, without the client's text."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and line.strip() != "<state>"]
    said = next(
        (line for line in lines if line.startswith("error:")), lines[0] if lines else "it does not compile"
    )
    return " ".join(said.split())[:200]
