"""Values in Python's writing, as models write them that were taught calls in Python: also with JSON's words,
and with line breaks in quotes."""

from __future__ import annotations

import ast
from typing import Any

MAX_CHARS = 1 << 20
_WORDS = {"true": True, "false": False, "null": None}
_BREAKS = {"\n": "\\n", "\r": "\\r"}
_FAILURES = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def parsed(text: str) -> ast.expr:
    """Raises ``ValueError`` for what is no expression."""
    if len(text) > MAX_CHARS:
        raise ValueError("too long")
    for written in (text.strip(), _on_one_line(text.strip())):
        try:
            return ast.parse(written, mode="eval").body
        except _FAILURES:
            continue
    raise ValueError("no expression")


def _on_one_line(text: str) -> str:
    """Line breaks in quotes as Python would have them written."""
    pieces, quote, at = [], "", 0
    while at < len(text):
        piece = text[at : at + 2] if quote and text[at] == "\\" else text[at]
        if piece == quote:
            quote = ""
        elif not quote and piece in ("'", '"'):
            quote = piece
        pieces.append(_BREAKS.get(piece, piece) if quote else piece)
        at += len(piece)
    return "".join(pieces)


class _Literals(ast.NodeTransformer):
    """Names are JSON's words, or texts without quotes."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.Constant(_WORDS.get(node.id, node.id))


def value_of(node: ast.expr) -> Any:
    """Raises ``ValueError`` for what is no literal."""
    try:
        return ast.literal_eval(_Literals().visit(node))
    except _FAILURES as error:
        raise ValueError("no literal") from error
