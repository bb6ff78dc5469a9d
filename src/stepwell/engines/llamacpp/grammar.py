"""Grammars from clients: JSON schema to GBNF, and a refusal in one sentence for what cannot be used.

llama.cpp parses grammars by recursion and in C++, where a stack overflow would end the process. So
size and nesting are bounded here before it sees anything.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from llama_cpp.llama_grammar import SchemaConverter

from stepwell.engines.base import SamplingParams

MAX_GRAMMAR_BYTES = 256 * 1024
MAX_SCHEMA_BYTES = 64 * 1024
MAX_NESTING = 200

_CONVERTER_ERRORS = (
    AssertionError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError,
)  # fmt: skip


def gbnf_of(sampling: SamplingParams) -> str | None:
    """The GBNF text these parameters ask for, or None. ``ValueError`` when it cannot be used."""
    if sampling.grammar is not None and sampling.json_schema is not None:
        raise ValueError("give a grammar or a JSON schema, not both")
    if sampling.json_schema is not None:
        return schema_to_gbnf(sampling.json_schema)
    if sampling.grammar is not None:
        _check_gbnf(sampling.grammar)
    return sampling.grammar


@lru_cache(maxsize=64)
def schema_to_gbnf(text: str) -> str:
    """A JSON schema (as text) as a grammar. ``{}`` stands for any JSON object, as OpenAI has it."""
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"the JSON schema is longer than {MAX_SCHEMA_BYTES} characters")
    try:
        schema = json.loads(text)
        _refuse_remote_refs(schema)
        grammar = _convert(schema or {"type": "object"})
    except _CONVERTER_ERRORS as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"the JSON schema cannot be turned into a grammar: {reason}") from None
    _check_gbnf(grammar)
    return grammar


def _convert(schema: Any) -> str:
    # llama.cpp's own converter, as its Python package carries it.
    converter = SchemaConverter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter.visit(converter.resolve_refs(schema, "schema"), "")
    return str(converter.format_grammar())


def _refuse_remote_refs(schema: Any, depth: int = 0) -> None:
    """The converter would fetch them from the network if assertions were off."""
    if depth > MAX_NESTING:
        raise ValueError("it is nested too deeply")
    if isinstance(schema, dict):
        ref = schema.get("$ref")
        if isinstance(ref, str) and not ref.startswith("#"):
            raise ValueError(f"$ref {ref[:100]!r} does not point into the schema itself")
        for value in schema.values():
            _refuse_remote_refs(value, depth + 1)
    elif isinstance(schema, list):
        for value in schema:
            _refuse_remote_refs(value, depth + 1)


def _check_gbnf(grammar: str) -> None:
    if len(grammar) > MAX_GRAMMAR_BYTES:
        raise ValueError(f"the grammar is longer than {MAX_GRAMMAR_BYTES} characters")
    if not grammar.strip() or "\0" in grammar:
        raise ValueError("the grammar is empty or holds a zero byte")
    if _nesting(grammar) > MAX_NESTING:
        raise ValueError(f"the grammar nests parentheses more than {MAX_NESTING} deep")


def _nesting(grammar: str) -> int:
    """How deep parentheses go, outside of literals and character classes."""
    depth = deepest = 0
    closing = ""
    escaped = False
    for char in grammar:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif closing:
            closing = "" if char == closing else closing
        elif char in '"[#':
            closing = {'"': '"', "[": "]", "#": "\n"}[char]
        elif char == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif char == ")":
            depth -= 1
    return deepest
