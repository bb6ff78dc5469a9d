"""The readable text of a web page: no scripts, styles or tags; headings, lists and cells stay apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_START = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html[\s>])", re.I | re.S)
_TAG = re.compile(r"<[a-z][^>]*>|</[a-z]+\s*>", re.I)
_SILENT = frozenset({"script", "style", "template", "noscript", "head", "svg", "iframe", "object"})
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "p div section article header footer main aside nav ul ol table form blockquote pre figure dl dd dt "
        "figcaption address details summary fieldset",
    )
)
_LINES = frozenset({"br", "li", "tr", "option", "hr"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def looks_like_html(text: str, *, named: bool) -> bool:
    """``named``: the file is called so, and then any tag will do."""
    return _START.match(text[:4096]) is not None or (named and _TAG.search(text) is not None)


def html_text(text: str) -> str:
    """Readable text. Never raises: browsers read anything, and so does this."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    lines = (" ".join(line.split()) if not line.startswith("\t") else line[1:] for line in reader.lines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


class _Reader(HTMLParser):
    """Collects text; a line that begins with a tab is preformatted and keeps its spaces."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._silent: list[str] = []
        self._preformatted = 0
        self._title = False
        self.title = ""

    def lines(self) -> list[str]:
        body = "".join(self._pieces)
        title = " ".join(self.title.split())
        # A page's title is often its only heading; one that is also the first heading says it once.
        if title and title not in body[: 4 * len(title) + 200]:
            body = f"{title}\n\n{body}"
        return body.split("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._title = True
        elif tag == "body":
            self._silent.clear()  # a <head> that nobody closed ends here
        elif tag in _SILENT:
            self._silent.append(tag)
        elif tag == "pre":
            self._preformatted += 1
        self._pieces.append(self._before(tag))

    def _before(self, tag: str) -> str:
        if tag in _HEADINGS:
            return "\n\n" + "#" * _HEADINGS[tag] + " "
        if tag == "li":
            return "\n- "
        if tag in ("td", "th"):
            return " | "
        return "\n\n" if tag in _BLOCKS else "\n" if tag in _LINES else ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._title = False
        elif tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        if tag in _BLOCKS or tag in _HEADINGS:
            self._pieces.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._title:
            self.title += data
        elif not self._silent:
            self._pieces.append(self._preserved(data) if self._preformatted else self._flowing(data))

    @staticmethod
    def _flowing(data: str) -> str:
        return re.sub(r"\s+", " ", data)

    @staticmethod
    def _preserved(data: str) -> str:
        return "\n".join("\t" + line.replace("\t", "    ") for line in data.split("\n"))
