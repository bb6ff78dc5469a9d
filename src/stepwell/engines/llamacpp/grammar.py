"""From what a request asks for (a schema, a regular expression, a grammar) to a grammar of llguidance.

``ValueError`` with one sentence for whatever cannot be used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import is_lark_syntax

from stepwell.engines.base import SamplingParams
from stepwell.engines.llamacpp.call_grammar import of_calls
from stepwell.engines.llamacpp.gbnf import MAX_BYTES
from stepwell.engines.llamacpp.lark import lark_of
from stepwell.engines.llamacpp.schema_gbnf import gbnf_of
from stepwell.engines.llamacpp.schemas import enforceable, repeats_too_much

MAX_SCHEMA_BYTES = 256 * 1024
WHITESPACE = r" |\n[ \t]{0,20}"
"""Between the parts of JSON: a model that cannot decide would write spaces until its tokens are used up."""
_ESCAPES = 'nrbtf"\\'
"""No ``\\u``: a property's name spelled with it would not be recognised."""


def grammar_of(sampling: SamplingParams, marks: Mapping[str, int] | None = None) -> str:
    """llguidance's grammar for these parameters. ``ValueError`` with one sentence when it cannot be used.

    ``marks``: tokens of the vocabulary that are no text, by their name; None: a grammar to be tried without a
    vocabulary, in which they are text.
    """
    if sampling.calls is not None:
        return of_calls(sampling.calls, _json_options(sampling.calls), marks or {})
    if sampling.json_schema is not None:
        return of_schema(sampling.json_schema)
    if sampling.regex is not None:
        return of_regex(sampling.regex)
    return of_grammar(sampling.grammar or "")


def of_schema(text: str) -> str:
    """A JSON schema as text. ``{}`` stands for any JSON object, as OpenAI has it."""
    schema = _read(text)
    try:
        held = enforceable(schema or {"type": "object"})
    except ValueError as error:
        raise ValueError(f"the JSON schema cannot be used: {error}") from None
    options: Any = _json_options(text)
    return str(LLMatcher.grammar_from_json_schema(held, overrides=options))


def _json_options(text: str) -> dict[str, Any]:
    """How JSON is written under schemas with this text."""
    options: dict[str, Any] = {"whitespace_flexible": True, "whitespace_pattern": WHITESPACE}
    if "\\u00" not in text:  # else a value of the schema itself may need it
        options["json_allowed_escapes"] = _ESCAPES
    return options


def _read(text: str) -> dict[str, Any]:
    if len(text.encode("utf-8", "replace")) > MAX_SCHEMA_BYTES:
        raise ValueError(f"the JSON schema is longer than {MAX_SCHEMA_BYTES} bytes")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the JSON schema is not JSON: {str(error)[:100]}") from None
    if not isinstance(schema, dict):
        raise ValueError("the JSON schema is not an object")
    return schema


def of_regex(pattern: str) -> str:
    if len(pattern) > MAX_BYTES // 4 or repeats_too_much(pattern):
        raise ValueError("the regular expression is too long or repeats too much")
    return str(LLMatcher.grammar_from_regex(pattern))


def of_grammar(text: str) -> str:
    """GBNF (root rule ``root``), or Lark as llguidance has it (rule ``start``)."""
    if len(text) <= MAX_BYTES and is_lark_syntax(text):
        if "%import" in text or "%json" in text or repeats_too_much(text):
            raise ValueError(
                "a Lark grammar here has no %import and no %json, and does not repeat thousands of times"
            )
        return str(LLMatcher.grammar_from_lark(text))
    return str(LLMatcher.grammar_from_lark(lark_of(text)))


def schema_to_gbnf(text: str) -> str:
    """A JSON schema (as text) as a grammar for llama.cpp and programs like it.

    The server does not use it: GBNF holds less than a schema says. The grammar takes every text that obeys
    with its properties in order, and where GBNF falls short some that do not.
    """
    return gbnf_of(_read(text) or {"type": "object"})
