"""A finished page as blocks of text and figures: what Markdown and PDF are made of.

Both are made from the HTML that the verifier has read, so that they cannot say anything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

TEXT = frozenset({"h1", "h2", "p", "li", "figcaption", "tr"})
LONG = 80
"""Characters of a value that a note repeats no more: a sentence stands in the text above."""
SHAPES = frozenset({"rect", "circle", "polyline"})


@dataclass(frozen=True, slots=True)
class TextRun:
    """Text, and the cell that it prints, if any; ``note`` is the number of its footnote."""

    text: str
    cell: str = ""
    note: int = 0


@dataclass(slots=True)
class FigureShape:
    """A part of a figure: its element and attributes, and the text in it."""

    tag: str
    at: Mapping[str, str]
    text: str = ""


@dataclass(slots=True)
class PageBlock:
    """``kind``: the element; ``made``: the note that figures are made up; ``figure`` has shapes."""

    kind: str
    runs: list[TextRun] = field(default_factory=list)
    shapes: list[FigureShape] = field(default_factory=list)
    box: str = ""

    @property
    def text(self) -> str:
        return "".join(run.text for run in self.runs)


@dataclass(slots=True)
class PageDocument:
    """A page's blocks, and the cells that its footnotes stand for, in their order."""

    language: str
    blocks: list[PageBlock]
    notes: list[str]
    trace: Mapping[str, Any]

    @property
    def cells(self) -> Mapping[str, Mapping[str, Any]]:
        return {row["id"]: row for row in self.trace["cells"]}

    @property
    def made(self) -> bool:
        return any(block.kind == "made" for block in self.blocks)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[PageBlock] = []
        self.notes: list[str] = []
        self.language = ""
        self.trace = ""
        self._block: PageBlock | None = None
        self._figure: PageBlock | None = None
        self._shape: FigureShape | None = None
        self._cell = ""
        self._form = ""
        self._in_trace = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.language = given.get("lang", "")
        elif tag == "script":
            self._in_trace = given.get("id") == "trace"
        elif tag == "svg" and self._figure is not None:
            self._figure.box = given.get("viewbox", "")
        elif tag == "figure":
            self._figure = PageBlock("figure")
            self.blocks.append(self._figure)
        elif tag in SHAPES or tag == "text":
            self._shape = FigureShape(tag, given)
            if self._figure is not None:
                self._figure.shapes.append(self._shape)
        elif tag in TEXT:
            self._block = PageBlock("made" if given.get("class") == "made" else tag)
            self.blocks.append(self._block)
        if tag in ("td", "th") and self._block is not None and self._block.runs:
            self._block.runs.append(TextRun(" | "))
        if "data-cell" in given and tag not in SHAPES:
            self._cell, self._form = given["data-cell"], given.get("data-form", "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("data", "tspan", "code"):
            self._cell = self._form = ""
        elif tag in TEXT:
            self._block = None
        elif tag == "figure":
            self._figure = None
        elif tag == "text":
            self._shape = None
        elif tag == "script":
            self._in_trace = False

    def handle_data(self, data: str) -> None:
        if self._in_trace:
            self.trace += data
        elif self._block is not None:
            self._block.runs.append(TextRun(data, self._cell, self._note()))
        elif self._shape is not None and self._shape.tag == "text":
            self._shape.text += data

    def _note(self) -> int:
        """Names, speakers and directions need no footnote: their figures have one."""
        if (
            not self._cell
            or self._cell.startswith("name.")
            or self._form in ("id", "source", "why", "speaker", "verb")
        ):
            return 0
        if self._cell not in self.notes:
            self.notes.append(self._cell)
        return self.notes.index(self._cell) + 1


def document_of(page: bytes) -> PageDocument:
    """The blocks of a page that ``Page.html`` wrote."""
    reader = _Reader()
    reader.feed(page.decode())
    reader.close()
    return PageDocument(reader.language, reader.blocks, reader.notes, json.loads(reader.trace))


def note_of(row: Mapping[str, Any]) -> str:
    """Where a cell is from, in one line."""
    parts = [str(row["id"])]
    if len(str(row.get("value", "x" * LONG))) < LONG:
        parts[0] += f" = {row['value']}"
    if how := row.get("derivation"):
        parts.append(f"{how['formula']} v{how['version']} of {', '.join(how['inputs'])}")
    for name, words in (("source", ""), ("observed", "observed "), ("known_since", "known since "),
                        ("speaker", "said by "), ("missing", "missing: ")):  # fmt: skip
        if row.get(name):
            parts.append(words + str(row[name]))
    if row.get("origin") == "made":
        parts.append("made up")
    return "; ".join(parts)


def rows_of(figure: PageBlock) -> Sequence[str]:
    """What a figure says, as text: its labels in order."""
    return [shape.text for shape in figure.shapes if shape.tag == "text" and shape.text.strip()]
