"""What a page would cost its parser, told from its tags alone, before it is parsed.

How HTML5 reads broken pages takes, for some of them, time with the square of what is written: elements within
each other, formatting that is never closed and so opened again in every block, attributes that are compared
with all those before, options of a list. What no page for people has is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from stepwell.errors import BadInput


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAX_DEPTH = 5_000
"""Elements within each other; browsers stop at 512."""
MAX_COPIES = 2_000_000
"""Formatting elements that are opened again."""
MAX_ATTRIBUTES = 500
"""Of one element."""
MAX_OPTIONS = 20_000
_TAG = re.compile(
    r"""<(/?)([a-zA-Z][a-zA-Z0-9-]{0,30})
    ((?: =\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+) | [^>=]++ )*+)""",
    re.VERBOSE,
)
_VALUE = re.compile(r"""=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+)""")
_OPENED = re.compile(r"<!--|<script\b", re.I)
_COMMENT_END, _SCRIPT_END = re.compile("-->"), re.compile("</script[^>]{0,100}>", re.I)
_NEVER_OPEN = _names(
    "area base br col embed hr img input link meta source track wbr p li dt dd option optgroup tr td th "
    "thead tbody tfoot colgroup html head body rt rp"
)
"""Elements that hold nothing, or whose end tag may be left out."""
_FORMATTING = _names("a b big code em font i nobr s small strike strong tt u")
_ALONE = frozenset({"a", "nobr"})
"""The next of these closes the one before."""
_NOAHS_ARK = 3
"""Of formatting elements that are equal no more than this are opened again."""
_MERGED = frozenset({"html", "body"})
"""All tags of these are one element, with the attributes of all."""


def parsable(text: str) -> str:
    """The page, without its scripts where ``<`` in those looks like tags. ``BadInput`` with a sentence for a
    page that is made to be slow.

    Only HTML5's own parser knows for sure what is a script, so what is cut here is cut for it too.
    """
    try:
        _require_parsable(text)
    except BadInput:
        bare = "".join(_without_scripts(text))
        if len(bare) == len(text):
            raise
        _require_parsable(bare)
        return bare
    return text


def _without_scripts(text: str) -> Iterator[str]:
    """The pieces around them. What is in a comment is none."""
    at = 0
    while found := _OPENED.search(text, at):
        comment = found[0] == "<!--"
        end = (_COMMENT_END if comment else _SCRIPT_END).search(text, found.end())
        if end is None:
            break
        yield text[at : end.end() if comment else found.start()]
        at = end.end()
    yield text[at:]


def _require_parsable(text: str) -> None:
    depth = _Depth()
    formatting = _Formatting()
    copies = options = merged = 0
    for found in _TAG.finditer(text, 0, text.rfind(">") + 1):
        closes, name, inside = found[1], found[2].lower(), found[3]
        depth.tag(name, closes=bool(closes))
        if closes:
            formatting.closed(name)
            continue
        copies += formatting.active
        options += name == "option"
        formatting.opened(name, inside)
        attributes = _attributes(inside) if name in _MERGED or len(inside) > MAX_ATTRIBUTES else 0
        merged += attributes if name in _MERGED else 0
        if max(attributes, merged) > MAX_ATTRIBUTES:
            raise BadInput(f"the page has an element with more than {MAX_ATTRIBUTES} attributes")
        if copies > MAX_COPIES:
            raise BadInput("the page has formatting that is opened again and again and never closed")
        if options > MAX_OPTIONS:
            raise BadInput(f"the page has lists with more than {MAX_OPTIONS:,} options")


def _attributes(inside: str) -> int:
    return len(_VALUE.sub(" ", inside).replace("/", " ").split())


class _Depth:
    def __init__(self) -> None:
        self._opened: Counter[str] = Counter()
        self._depth = 0

    def tag(self, name: str, *, closes: bool) -> None:
        if name in _NEVER_OPEN:
            return
        if not closes:
            self._opened[name] += 1
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise BadInput(f"the page has more than {MAX_DEPTH:,} elements within each other")
        elif self._opened[name]:
            self._opened[name] -= 1
            self._depth -= 1


class _Formatting:
    """The formatting elements that have not been closed; equal ones count as HTML5 counts them."""

    def __init__(self) -> None:
        self._opened: dict[str, list[str]] = {}
        self._equal: Counter[str] = Counter()
        self.active = 0

    def opened(self, name: str, inside: str) -> None:
        if name not in _FORMATTING:
            return
        if name in _ALONE:
            self.closed(name)
        one = f"{name} {inside}"
        self._opened.setdefault(name, []).append(one)
        self._equal[one] += 1
        self.active += self._equal[one] <= _NOAHS_ARK

    def closed(self, name: str) -> None:
        waiting = self._opened.get(name)
        if waiting:
            one = waiting.pop()
            self.active -= self._equal[one] <= _NOAHS_ARK
            self._equal[one] -= 1
