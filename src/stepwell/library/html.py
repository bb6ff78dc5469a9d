"""The readable text of a web page: no scripts, styles or tags; headings, lists and cells stay apart.

The page is read by lexbor (selectolax), as a browser reads it: end tags may be left out, comments end where
HTML5 says, and nothing goes back over what was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from stepwell.library.html_bounds import parsable


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SPACE = " \t\r\n\f\v\ufeff"
_TAG = re.compile(r"</?[a-zA-Z]")
_SILENT = frozenset({"script", "style", "iframe", "noframes", "datalist", "annotation"})
_SILENT_IN_SVG = frozenset({"title", "desc", "metadata", "defs"})
_BLOCKS = _names(
    "p div section article header footer main aside nav ul ol table form blockquote pre figure dl dd dt "
    "figcaption address details summary fieldset textarea dialog"
)
_LINES = frozenset({"br", "li", "tr", "option", "hr"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_PREFORMATTED = frozenset({"pre", "textarea", "listing", "plaintext", "xmp"})
_SHOWN_INPUTS = frozenset(
    {"", "text", "search", "email", "url", "tel", "number", "date", "time", "submit", "button"}
)


def looks_like_html(text: str, *, named: bool) -> bool:
    """``named``: the file is called so, and then any tag will do."""
    if _begins_as_html(text[:4096]):
        return True
    first = _TAG.search(text) if named else None
    return first is not None and text.rfind(">") > first.start()


def _begins_as_html(text: str) -> bool:
    """Behind spaces, an XML declaration and comments."""
    at = _behind_space(text, 0)
    while text.startswith(("<?", "<!--"), at):
        mark, end = ("-->", 3) if text.startswith("<!--", at) else ("?>", 2)
        found = text.find(mark, at + 2)
        if found < 0:
            return False
        at = _behind_space(text, found + end)
    low = text[at : at + 32].lower()
    after = low[5:6]
    return low.startswith("<html") and (after in _SPACE or after == ">") if low[:2] != "<!" else _doctype(low)


def _doctype(low: str) -> bool:
    words = low.removeprefix("<!").replace(">", " ").split()
    return words[:2] == ["doctype", "html"]


def _behind_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def html_text(text: str) -> str:
    """Readable text. ``BadInput`` for a page that is made to be slow; browsers read the rest, and so does
    this."""
    from selectolax.lexbor import LexborHTMLParser

    text = parsable(text)
    reader = _Reader()
    page = LexborHTMLParser(text.encode("utf-8", "replace"))
    if page.root is not None:
        reader.read(page.root)
    lines = (" ".join(line.split()) if not line.startswith("\t") else line[1:] for line in reader.lines())
    return "\n".join(_few_blank(lines)).strip() + "\n"


def _few_blank(lines: Iterator[str]) -> Iterator[str]:
    """At most one empty line in a row."""
    blank = 0
    for line in lines:
        blank = 0 if line else blank + 1
        if blank < 2:
            yield line


class _Reader:
    """Collects text; a line that begins with a tab is preformatted and keeps its spaces."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._preformatted = 0
        self._drawing = 0
        self.title = ""

    def lines(self) -> list[str]:
        body = "".join(self._pieces)
        title = " ".join(self.title.split())
        # A page's title is often its only heading; one that is also the first heading says it once.
        if title and title not in body[: 4 * len(title) + 200]:
            body = f"{title}\n\n{body}"
        return body.split("\n")

    def read(self, root: Any) -> None:
        """Walks down and up again without recursion: pages are nested deeper than Python's stack."""
        waiting: list[tuple[Any, bool]] = [(root, False)]
        while waiting:
            node, leaving = waiting.pop()
            if leaving:
                self._leave(node.tag)
                continue
            if node.is_text_node:
                self._text(node.text_content or "")
            elif not node.is_comment_node and (not node.is_element_node or self._enter(node)):
                waiting.append((node, True))
                waiting += [(child, False) for child in reversed(_children(node))]

    def _enter(self, node: Any) -> bool:
        """False: nothing within it is read."""
        tag = node.tag
        if tag == "title" and not self._drawing:
            self.title += node.text(deep=True) or ""
            return False
        if tag in _SILENT or (self._drawing and tag in _SILENT_IN_SVG):
            return False
        self._drawing += tag == "svg"
        self._preformatted += tag in _PREFORMATTED
        self._pieces.append(self._before(tag))
        if tag == "input" and (node.attributes.get("type") or "").lower() in _SHOWN_INPUTS:
            self._pieces.append(f" {node.attributes.get('value') or ''} ")
        return True

    def _leave(self, tag: str) -> None:
        self._drawing -= tag == "svg"
        self._preformatted -= tag in _PREFORMATTED
        if tag in _BLOCKS or tag in _HEADINGS:
            self._pieces.append("\n\n")

    def _before(self, tag: str) -> str:
        if tag in _HEADINGS:
            return "\n\n" + "#" * _HEADINGS[tag] + " "
        if tag == "li":
            return "\n- "
        if tag in ("td", "th"):
            return " | "
        return "\n\n" if tag in _BLOCKS else "\n" if tag in _LINES else ""

    def _text(self, data: str) -> None:
        self._pieces.append(_preserved(data) if self._preformatted else re.sub(r"\s+", " ", data))


def _children(node: Any) -> list[Any]:
    """Of a template only what stands in a shadow tree is shown."""
    if node.tag == "template":
        return list(node.template_fragments()) if "shadowrootmode" in node.attributes else []
    found = []
    child = node.child
    while child is not None:
        found.append(child)
        child = child.next
    return found


def _preserved(data: str) -> str:
    return "\n".join("\t" + line.replace("\t", "    ") for line in data.split("\n"))
