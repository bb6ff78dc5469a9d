"""Reads a finished report and believes nothing: not the writer, not the renderer, not the trace.

It shares no code with what wrote the page. From the page alone it takes the raw bytes, reads every cell out
of them again, computes every derived one again, reads every printed number back into a value, and looks at
all text between the marked cells for numerals, directions and rankings, of which there must be none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from html.parser import HTMLParser
from typing import Any

from stepwell.errors import BadInput
from stepwell.review.lexicon import is_numeral, untraced
from stepwell.review.measure import DRAWN, check_charts
from stepwell.review.readback import DAYS, says
from stepwell.review.recompute import recompute

MAX_PAGE_BYTES = 64 * 1024 * 1024
MAX_FAULTS = 50
VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "rect", "circle", "polyline"})
HIDDEN = frozenset({"script", "style"})
BLOCKS = frozenset({"p", "li", "tr", "section", "figure", "header"})
ENDS = re.compile(r"(?:^|\s|[a-z)]{2})\.(?:\s|$)|[。！？]")
"""Where a sentence ends in the text between marks."""
UNSPOKEN = frozenset({"speaker", "id", "source", "why"})
"""Forms that say nothing of a value."""


@dataclass(slots=True)
class Verification:
    """What was looked at, and what is wrong."""

    marks: int = 0
    cells: int = 0
    numerals: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.faults

    def fault(self, text: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)


@dataclass(slots=True)
class Mark:
    """A marked cell on the page."""

    cell: str
    form: str
    attributes: Mapping[str, str]
    text: str = ""


class _Page(HTMLParser):
    """The visible text, apart from the marks, and the two scripts with data."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.marks: list[Mark] = []
        self.plain: list[str] = []
        self.data: dict[str, str] = {}
        self.language = ""
        self.figures = 0
        self.lines: list[str] = []
        self.statements: list[list[Mark]] = [[]]
        """The marks of each sentence: a paragraph has several, an item of a list may have one."""
        self._open: list[tuple[str, Mark | None, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.language = given.get("lang", "")
        self.figures += tag == "figure"
        if tag == "polyline":
            self.lines.append(given.get("points", ""))
        for shown in ("title", "alt", "aria-label", "placeholder"):
            if shown in given:
                self.plain.append(given[shown])
        mark = Mark(given["data-cell"], given.get("data-form", ""), given) if "data-cell" in given else None
        if tag in BLOCKS:
            self.statements.append([])
        if mark is not None:
            self.marks.append(mark)
            self.statements[-1].append(mark)
        if tag not in VOID:
            self._open.append((tag, mark, given.get("id", "") if tag == "script" else ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        for number in range(len(self._open) - 1, -1, -1):
            if self._open[number][0] == tag:
                del self._open[number:]
                return

    def handle_data(self, data: str) -> None:
        for tag, mark, script in reversed(self._open):
            if tag in HIDDEN:
                if script:
                    self.data[script] = self.data.get(script, "") + data
                return
            if mark is not None:
                mark.text += data
                return
        self.plain.append(data)
        if ENDS.search(data):
            self.statements.append([])


def verify(page: bytes) -> Verification:
    """Everything that is wrong with a page. Raises ``BadInput`` for what is no page of a review at all."""
    parsed, trace, raw = _open(page)
    verdict = Verification()
    cells = {str(row.get("id")): row for row in trace["cells"]}
    data = _raw(raw, verdict)
    read: dict[str, Any] = {}
    for name in cells:
        recompute(name, cells, data, read, verdict.fault, ())
    verdict.cells = len(cells)
    for mark in parsed.marks:
        _check_mark(mark, cells, verdict)
    verdict.marks = len(parsed.marks)
    _check_plain(parsed.plain, verdict)
    _check_speakers(parsed.statements, cells, verdict)
    _check_made(parsed, cells, verdict)
    check_charts(parsed.marks, parsed.lines, cells, verdict.fault)
    _check_must(trace, parsed.marks, verdict)
    _check_conflicts(trace.get("conflicts", ()), cells, verdict)
    return verdict


def _open(page: bytes) -> tuple[_Page, Mapping[str, Any], Mapping[str, Any]]:
    if len(page) > MAX_PAGE_BYTES:
        raise BadInput(f"the page has {len(page)} bytes, more than {MAX_PAGE_BYTES}")
    try:
        text = page.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("the page is not UTF-8, so it is no review that stepwell wrote") from error
    parsed = _Page()
    parsed.feed(text)
    parsed.close()
    try:
        trace, raw = json.loads(parsed.data["trace"]), json.loads(parsed.data["raw"])
        if not isinstance(trace["cells"], list) or not isinstance(raw, dict):
            raise TypeError("no list of cells")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise BadInput(
            "the page has no trace in it, or a damaged one: it is no review, or was changed"
        ) from error
    return parsed, trace, raw


def _raw(raw: Mapping[str, Any], verdict: Verification) -> dict[str, bytes]:
    data: dict[str, bytes] = {}
    for sha256, row in raw.items():
        try:
            unpack = zlib.decompressobj()
            found = unpack.decompress(base64.b64decode(row["data"], validate=True), MAX_PAGE_BYTES)
        except (ValueError, KeyError, TypeError, zlib.error):
            verdict.fault(f"raw reply {sha256[:12]}: damaged")
            continue
        if hashlib.sha256(found).hexdigest() != sha256:
            verdict.fault(f"raw reply {sha256[:12]}: its bytes have another SHA-256")
            continue
        data[sha256] = found
    return data


def _check_mark(mark: Mark, cells: Mapping[str, Any], verdict: Verification) -> None:
    row = cells.get(mark.cell)
    if row is None:
        verdict.fault(f"{mark.text!r} is marked as {mark.cell}, which is not in the trace")
        return
    verdict.numerals += sum(is_numeral(one) for one in mark.text)
    try:
        if mark.form not in DRAWN and not says(mark.text, mark.form, mark.cell, row):
            verdict.fault(f"{mark.text!r} is not what {mark.cell} says ({row.get('value')}, {mark.form})")
    except (ValueError, KeyError, InvalidOperation, IndexError):
        verdict.fault(f"{mark.text!r} cannot be read as {mark.cell} ({mark.form})")


def _check_plain(plain: Sequence[str], verdict: Verification) -> None:
    """Between the marks there is no numeral, no direction, no ranking."""
    for text in plain:
        for fault in untraced(text):
            verdict.fault(f"{fault!r} in {text.strip()[:60]!r} belongs to no cell")


def _check_speakers(
    statements: Sequence[Sequence[Mark]], cells: Mapping[str, Any], verdict: Verification
) -> None:
    """Whatever is a claim, or rests on one, names its speaker in the same sentence."""
    for marks in statements:
        said = [(mark, cells[mark.cell].get("speaker", "")) for mark in marks if mark.cell in cells]
        named = {speaker for mark, speaker in said if mark.form == "speaker"}
        for mark, speaker in said:
            if speaker and speaker not in named and mark.form not in UNSPOKEN:
                verdict.fault(f"{mark.cell} is what {speaker} said, and {mark.text!r} does not say so")


def _check_made(page: _Page, cells: Mapping[str, Any], verdict: Verification) -> None:
    """Made-up figures are said to be, on the page, on every chart and in every mark."""
    for mark in page.marks:
        origin = cells.get(mark.cell, {}).get("origin")
        if "class" in mark.attributes and mark.form not in DRAWN and mark.attributes["class"] != origin:
            verdict.fault(f"{mark.cell} is marked as {mark.attributes['class']}, and is {origin}")
    said = sum("made up" in text or "虚构" in text for text in page.plain)
    wanted = 1 + page.figures if any(row.get("origin") == "made" for row in cells.values()) else 0
    if said < wanted:
        verdict.fault(f"{wanted - said} places do not say that figures are made up")


def _check_must(trace: Mapping[str, Any], marks: Sequence[Mark], verdict: Verification) -> None:
    shown = {mark.cell for mark in marks}
    for name in trace.get("must", ()):
        if name not in shown:
            verdict.fault(f"{name} has to be said and is not")


def _check_conflicts(
    conflicts: Sequence[Mapping[str, Any]], cells: Mapping[str, Any], verdict: Verification
) -> None:
    """A contradiction that the page prints is one."""
    for row in conflicts:
        try:
            given = [cells[one] for one in row["cells"]]
            if not _contradicts(row["kind"], given):
                verdict.fault(f"{', '.join(row['cells'])} are said not to fit ({row['kind']}), and do")
        except (KeyError, ValueError, TypeError, IndexError):
            verdict.fault("a contradiction that cannot be checked again")


def _contradicts(kind: str, cells: Sequence[Mapping[str, Any]]) -> bool:
    values = [cell["value"] for cell in cells]
    match kind:
        case "weekday":
            return bool(DAYS[date.fromisoformat(values[0]).weekday()] != values[1])
        case "product":
            return Decimal(values[1]) != Decimal(values[2])
        case "product_agrees":
            return Decimal(values[1]) == Decimal(values[2])
        case "start":
            return bool(cells[1]["observed"] < values[0])
        case "claim" | "sum":
            return Decimal(values[0]) != Decimal(values[1])
        case "split":
            before, after = Decimal(values[0]), Decimal(values[1])
            return max(before, after) / min(before, after) >= Decimal("1.38")
        case "release":
            return date.fromisoformat(values[0]).weekday() >= 5
        case "vintage":
            return date.fromisoformat(str(cells[0]["known_since"])).weekday() >= 5
        case "sources":
            return bool(values[0] != values[1])
        case "units":
            return bool(cells[0]["unit"] != cells[1]["unit"])
    return False
