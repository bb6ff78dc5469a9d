"""Grammars from clients: JSON schema to GBNF, and a refusal in one sentence for what cannot be used.

llama.cpp parses grammars by recursion and in C++, where a stack overflow would end the process. So
size and nesting are bounded here before it sees anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from llama_cpp.llama_grammar import SchemaConverter

from stepwell.engines.base import SamplingParams

MAX_GRAMMAR_BYTES = 256 * 1024
MAX_SCHEMA_BYTES = 64 * 1024
MAX_NESTING = 200
MAX_PATTERN_CHARS = 1 << 24
"""Of a pattern with its repetitions written out, as the converter does."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
MAX_COUNT = 2_000
"""Of one repetition: llama.cpp takes no more."""
MAX_COUNTED = 32_000
"""Of all repetitions together: each is that many rules in its memory."""

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
        _refuse_unbounded(schema)
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
    return _with_counts(str(converter.format_grammar()))


def _with_counts(grammar: str) -> str:
    """``(char (char)?)?``, which the converter writes for ``maxLength``, as ``char{0,2}``.

    llama.cpp reads a count without recursion, so a text may be longer than parentheses may be deep.
    Raises ``ValueError`` where all counts together are too large for it.
    """
    counted = 0

    def shorter(match: re.Match[str]) -> str:
        nonlocal counted
        times = match["opens"].count("(") if match["opens"] else 0
        left_over = (match["ends"] or "").count(")") - times
        if not times or left_over < 0:
            return match[0]  # a literal, or something else in parentheses
        counted += times
        return f"{match['name']}{{0,{times}}}" + ")?" * left_over

    shortened = _NESTED.sub(shorter, grammar)
    if counted > MAX_COUNTED:
        raise ValueError(f"its bounded texts have {counted} characters together: at most {MAX_COUNTED}")
    return shortened


def _refuse_unbounded(schema: Any, depth: int = 0) -> None:
    """What the converter would fetch from the network if assertions were off, or write out so often that
    memory ends."""
    if depth > MAX_NESTING:
        raise ValueError("it is nested too deeply")
    if isinstance(schema, dict):
        ref = schema.get("$ref")
        if isinstance(ref, str) and not ref.startswith("#"):
            raise ValueError(f"$ref {ref[:100]!r} does not point into the schema itself")
        _refuse_large_counts(schema)
        for value in schema.values():
            _refuse_unbounded(value, depth + 1)
    elif isinstance(schema, list):
        for value in schema:
            _refuse_unbounded(value, depth + 1)


def _refuse_large_counts(schema: dict[str, Any]) -> None:
    for key in _COUNTS:
        count = schema.get(key)
        if isinstance(count, int | float) and count > MAX_COUNT:
            raise ValueError(f"{key} is {count}: at most {MAX_COUNT}")
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        # Counts in one another multiply, and what they repeat is no longer than the whole.
        times = math.prod(max(1, int(count)) for count in re.findall(r"(?<=[{,])[0-9]{1,9}(?=[,}])", pattern))
        if times * len(pattern) > MAX_PATTERN_CHARS or re.search(r"[0-9]{10}", pattern):
            raise ValueError(f"the pattern {pattern[:60]!r} repeats too much")


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


_NESTED = re.compile(
    r"""" (?: [^"\\\n] | \\. )* " | \[ (?: [^\]\\] | \\. )* \]
      | (?P<opens> \( (?P<name> [A-Za-z0-9_-]+ ) [ ] (?: \( (?P=name) [ ] )* \( (?P=name) )
        (?P<ends> (?: \)\? )+ )""",
    re.VERBOSE | re.DOTALL,
)
"""Literals, so that what stands in them is left alone; and one name, nested in itself."""
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
