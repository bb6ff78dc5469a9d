"""llama.cpp's grammar notation (GBNF), parsed here once; nothing but what was parsed goes further.

A grammar that comes from a client is foreign text. It is read without recursion over its length, bounded in
size, nesting and repetition, and written down anew as a Lark grammar for llguidance. Two parsers never have
to agree on where a comment ends.

Rules that do not refer back to themselves become terminals (regular expressions, taken whole); only recursive
rules are parsed as rules. Before a recursive rule a terminal takes as much as it can, as Lark has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_BYTES = 256 * 1024
MAX_NESTING = 100
MAX_SYMBOLS = 60_000
MAX_COUNT = 2_000
MAX_TIMES = 20_000
"""Of repetitions inside one another, multiplied: each is written out by the engine that runs the grammar."""
MAX_DEPTH = 300
"""Of rules that refer to rules, the ones that are mere names for others left out."""


@dataclass(frozen=True, slots=True)
class Text:
    value: str


@dataclass(frozen=True, slots=True)
class Chars:
    negated: bool
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


@dataclass(frozen=True, slots=True)
class Seq:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: Node
    low: int
    high: int | None


Node = Text | Chars | Ref | Seq | Alt | Repeat

ANY = Chars(True, ())
_TIMES = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_SYMBOL = re.compile(
    r"""(?P<skip> [ \t\r\n]+ | \#[^\r\n]* )
      | (?P<rule> [A-Za-z0-9_-]+ (?= [ \t\r\n]* ::= ) ) [ \t\r\n]* ::=
      | (?P<name> [A-Za-z0-9_-]+ )
      | (?P<text> "(?: [^"\\\r\n] | \\. )*" )
      | (?P<chars> \[ (?: [^\]\\\r\n] | \\. )* \] )
      | (?P<times> [*+?] | \{ [ \t]* [0-9]{1,9} [ \t]* (?: , [ \t]* [0-9]{0,9} [ \t]* )? \} )
      | (?P<mark> [.|()] )""",
    re.VERBOSE,
)
"""Every alternative begins differently and repeats over single characters: time is linear in the text."""


def parse(text: str) -> dict[str, Node]:
    """Rules by name, ``root`` among them. ``ValueError`` with one sentence for whatever cannot be used."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise ValueError(f"the grammar is longer than {MAX_BYTES} bytes")
    rules: dict[str, Node] = {}
    name, body = "", _Body()
    for kind, symbol in _symbols(text):
        if kind == "rule":
            if name:
                rules[name] = body.end()
            if symbol in rules:
                raise ValueError(f"the grammar defines the rule {symbol[:60]!r} twice")
            name, body = symbol, _Body()
        elif not name:
            raise ValueError(f"the grammar begins with {symbol[:20]!r} and not with a rule")
        else:
            body.take(kind, symbol)
    if name:
        rules[name] = body.end()
    _check_names(rules)
    return rules


def _symbols(text: str) -> Iterator[tuple[str, str]]:
    at = count = 0
    while at < len(text):
        match = _SYMBOL.match(text, at)
        if match is None:
            line = len(re.findall(r"\r\n|\r|\n", text[:at])) + 1
            raise ValueError(f"the grammar cannot be read in line {line}, at {text[at : at + 20]!r}")
        at = match.end()
        kind = match.lastgroup or ""
        if kind != "skip":
            count += 1
            if count > MAX_SYMBOLS:
                raise ValueError(f"the grammar has more than {MAX_SYMBOLS} symbols")
            yield kind, match.group(kind)


@dataclass(slots=True)
class _Body:
    """The right side of one rule while it is read: a stack of open parentheses, no recursion."""

    open: list[list[list[Node]]] = field(default_factory=lambda: [[[]]])

    def take(self, kind: str, symbol: str) -> None:
        row = self.open[-1][-1]
        if kind == "name":
            row.append(Ref(symbol))
        elif kind == "text":
            row.append(Text(_unescaped(symbol[1:-1])))
        elif kind == "chars":
            row.append(_chars(symbol[1:-1]))
        elif kind == "times":
            self._repeat(row, symbol)
        elif symbol == ".":
            row.append(ANY)
        elif symbol == "|":
            self.open[-1].append([])
        elif symbol == "(":
            if len(self.open) > MAX_NESTING:
                raise ValueError(f"the grammar nests parentheses more than {MAX_NESTING} deep")
            self.open.append([[]])
        else:
            self._close()

    def _close(self) -> None:
        if len(self.open) < 2:
            raise ValueError("the grammar's parentheses do not match")
        group = self.open.pop()
        self.open[-1][-1].append(_alternatives(group))

    @staticmethod
    def _repeat(row: list[Node], symbol: str) -> None:
        if not row:
            raise ValueError(f"the grammar has {symbol!r} where there is nothing to repeat")
        row[-1] = Repeat(row[-1], *_counts(symbol))

    def end(self) -> Node:
        if len(self.open) > 1:
            raise ValueError("the grammar's parentheses do not match")
        return _alternatives(self.open[0])


def _counts(symbol: str) -> tuple[int, int | None]:
    if symbol in _TIMES:
        return _TIMES[symbol]
    low_text, comma, high_text = symbol[1:-1].partition(",")
    low = int(low_text)
    high = int(high_text) if high_text.strip() else None if comma else low
    if max(low, high or 0) > MAX_COUNT:
        raise ValueError(f"the grammar repeats {symbol} times: at most {MAX_COUNT}")
    if high is not None and high < low:
        raise ValueError(f"the grammar repeats {symbol} times, which is never")
    return low, high


def _alternatives(rows: list[list[Node]]) -> Node:
    parts = tuple(row[0] if len(row) == 1 else Seq(tuple(row)) for row in rows)
    return parts[0] if len(parts) == 1 else Alt(parts)


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)


def _unescaped(text: str) -> str:
    return "".join(chr(code) for code, _ in _codes(text))


def _codes(text: str) -> Iterator[tuple[int, bool]]:
    """(code point, whether it was written with a backslash)."""
    at = 0
    while at < len(text):
        match = _ESCAPE.match(text, at)
        if match is None:
            code, at, escaped = ord(text[at]), at + 1, False
        else:
            at, escaped = match.end(), True
            digits = match[1] or match[2] or match[3]
            if digits is None and match[4] not in _ESCAPES:
                raise ValueError(f"the grammar has an unknown escape \\{match[4]}")
            code = int(digits, 16) if digits else ord(_ESCAPES[match[4]])
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise ValueError(f"the grammar names the code point {code:#x}, which is no character")
        yield code, escaped


def _chars(text: str) -> Chars:
    negated = text.startswith("^")
    codes = list(_codes(text[negated:]))
    ranges: list[tuple[int, int]] = []
    while codes:
        low, _ = codes.pop(0)
        high = low
        if len(codes) >= 2 and codes[0] == (ord("-"), False):
            high = codes[1][0]
            del codes[:2]
        if high < low:
            raise ValueError(f"the grammar has the range {chr(low)!r} to {chr(high)!r}, which is empty")
        ranges.append((low, high))
    if not ranges and not negated:
        raise ValueError("the grammar has [], which no character matches")
    return Chars(negated, tuple(ranges))


def _check_names(rules: dict[str, Node]) -> None:
    if "root" not in rules:
        raise ValueError("the grammar has no rule called root")
    for body in rules.values():
        for ref in refs_of(body):
            if ref not in rules:
                raise ValueError(f"the grammar uses a rule {ref[:60]!r} that it does not define")


def refs_of(body: Node) -> Iterator[str]:
    left = [body]
    while left:
        node = left.pop()
        if isinstance(node, Ref):
            yield node.name
        elif isinstance(node, Repeat):
            left.append(node.item)
        elif isinstance(node, Seq | Alt):
            left += node.items


def literal(value: str) -> str:
    """``value`` as a GBNF literal."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return (
        '"' + "".join(escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in value) + '"'
    )


def quoted(value: str) -> str:
    """``value`` as a literal of Lark."""
    return json.dumps(value, ensure_ascii=False)
