"""A document, or a part of one, as models see it."""

from __future__ import annotations

import html
import itertools
import re

from stepwell.server.generation.prompts import DOCUMENT_END

_CONTROL_MARKS = re.compile(
    r"<(?=\|[^|<>\n]{1,48}\|>|/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>|/document)", re.IGNORECASE
)
_MARK_CHARS = 64
"""No mark is longer."""
_WINDOW_CHARS = 64 * 1024


def document_frame(name: str, text: str) -> str:
    """A document as models see it: the same bytes for the same document, whichever agent attaches it.

    What in a stranger's text would end the frame, or a turn of a conversation, is made harmless by a space.
    """
    safe = _harmless(text).strip("\n")
    return f'<document name="{html.escape(_harmless(name))}">\n{safe}\n{DOCUMENT_END}'


def _harmless(text: str) -> str:
    """A space after the ``<`` of each mark. Window by window: over megabytes of what looks like marks one
    call takes half a second, and no other thread runs meanwhile."""
    ends = [
        found.end()
        for at in range(0, len(text), _WINDOW_CHARS)
        for found in _CONTROL_MARKS.finditer(text, at, at + _WINDOW_CHARS + _MARK_CHARS)
        if found.start() < at + _WINDOW_CHARS
    ]
    return " ".join(text[a:b] for a, b in itertools.pairwise([0, *ends, len(text)]))
