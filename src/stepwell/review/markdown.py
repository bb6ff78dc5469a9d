"""The report as Markdown: the same text, with a footnote for every figure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from stepwell.review.blocks import PageBlock, PageDocument, note_of, rows_of

HEADS = {"h1": "# ", "h2": "## ", "made": "> **", "figcaption": "*"}
TAILS = {"made": "**", "figcaption": "*"}


def markdown(document: PageDocument) -> str:
    """The whole report."""
    cells = document.cells
    parts = list(_parts(document))
    notes = [f"[^{number}]: {_plain(note_of(cells[name]))}" for number, name in enumerate(document.notes, 1)]
    return "\n\n".join(parts) + "\n\n" + "\n".join(notes) + "\n"


def _parts(document: PageDocument) -> Iterator[str]:
    items: list[str] = []
    for block in document.blocks:
        if items and block.kind not in ("li", "tr"):
            yield "\n".join(items)
            items = []
        if block.kind == "li":
            items.append("- " + _text(block))
        elif block.kind == "figure":
            yield "\n".join(f"- {_plain(row)}" for row in _pairs(rows_of(block)))
        elif block.kind == "tr":
            items.append("- " + _text(block))
        else:
            yield HEADS.get(block.kind, "") + _text(block) + TAILS.get(block.kind, "")
    if items:
        yield "\n".join(items)


def _pairs(rows: Sequence[str]) -> Iterator[str]:
    """Names with the figures beside them."""
    for number in range(0, len(rows), 2):
        yield ": ".join(rows[number : number + 2])


def _text(block: PageBlock) -> str:
    return "".join(_plain(run.text) + (f"[^{run.note}]" if run.note else "") for run in block.runs)


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", re.sub(r"\s+", " ", text))
