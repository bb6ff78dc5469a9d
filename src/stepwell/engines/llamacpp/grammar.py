"""Grammars from clients: JSON schema to GBNF, and a refusal in one sentence for what cannot be used.

llama.cpp parses grammars by recursion and in C++, where a stack overflow would end the process. So
size and nesting are bounded here before it sees anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
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
        if not isinstance(schema, dict):
            raise ValueError("it is not a JSON object")
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
    """Find what is commonly wrong, and say it. llama.cpp would print it, with the whole grammar, to the
    server's standard error and tell us nothing; it still has the last word on what remains."""
    if len(grammar) > MAX_GRAMMAR_BYTES:
        raise ValueError(f"the grammar is longer than {MAX_GRAMMAR_BYTES} characters")
    if "\0" in grammar:
        raise ValueError("the grammar holds a zero byte")
    symbols = list(_symbols(grammar))
    _check_names(symbols)
    _check_nesting(symbols)


_SYMBOL = re.compile(
    r"""(?P<skip> \s+ | \#[^\n]* )
      | (?P<rule> [A-Za-z0-9_-]+ (?= \s* ::= ) ) \s* ::=
      | (?P<name> [A-Za-z0-9_-]+ )
      | (?P<text> "(?: [^"\\\n] | \\. )*" | \[(?: [^\]\\] | \\. )*\] | !?<[^>\n]*> | \{[0-9,\s]*\} | [.|*+?] )
      | (?P<open> \( )
      | (?P<close> \) )""",
    re.VERBOSE | re.DOTALL,
)


def _symbols(grammar: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of everything that means something, in order."""
    at = 0
    while at < len(grammar):
        match = _SYMBOL.match(grammar, at)
        if match is None:
            line = grammar.count("\n", 0, at) + 1
            raise ValueError(f"the grammar cannot be read in line {line}, at {grammar[at : at + 20]!r}")
        at = match.end()
        kind = match.lastgroup or ""
        if kind != "skip":
            yield kind, match.group(kind)


def _check_names(symbols: Sequence[tuple[str, str]]) -> None:
    defined = {text for kind, text in symbols if kind == "rule"}
    if "root" not in defined:
        raise ValueError("the grammar has no rule called root")
    for kind, text in symbols:
        if kind == "name" and text not in defined:
            raise ValueError(f"the grammar uses a rule {text[:60]!r} that it does not define")


def _check_nesting(symbols: Sequence[tuple[str, str]]) -> None:
    depth = 0
    for kind, _ in symbols:
        depth += (kind == "open") - (kind == "close")
        if depth > MAX_NESTING:
            raise ValueError(f"the grammar nests parentheses more than {MAX_NESTING} deep")
        if depth < 0 or (kind == "rule" and depth):
            raise ValueError("the grammar's parentheses do not match")
    if depth:
        raise ValueError("the grammar's parentheses do not match")
