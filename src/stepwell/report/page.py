"""One HTML page without anything from outside: it can be mailed and opened years later."""

from __future__ import annotations

import html
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from stepwell import __version__

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #8885;
text-align:left}.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}
.answer{font-size:1.15rem;font-weight:600}.note{color:#555}"""

FIGURE = re.compile(r"[-+\u2212]?[$€]?[-\u2212]?\d(?!\d{3}-)")
"""How a number begins; ``2026-11-29`` is none."""


def _figures(column: Sequence[str]) -> bool:
    """Whether a column stands to the right: its cells are numbers, with their signs and units."""
    return any(column) and all(not cell or cell == "-" or FIGURE.match(cell) for cell in column)


@dataclass(slots=True)
class Page:
    """Parts are added in the order in which they are read."""

    title: str
    answer: str
    """The result in one sentence; it stands at the top."""
    parts: list[str] = field(default_factory=list)
    style: str = ""
    """CSS of its own pictures."""
    blocks: list[tuple[str, Any]] = field(default_factory=list)
    """The same without HTML: ``heading`` and ``text`` with a text, ``table`` with rows, its head first."""

    def heading(self, text: str) -> None:
        self.blocks.append(("heading", text))
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self.blocks.append(("text", text))
        self.parts.append(f'<p class="note">{html.escape(text)}</p>')

    def chart(self, svg: str) -> None:
        self.parts.append(svg)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.blocks.append(("table", [head, *rows]))
        texts = [[str(cell) for cell in row] for row in rows]
        sides = [' class="n"' if _figures(column) else "" for column in zip_longest(*texts, fillvalue="")]

        def line(tag: str, cells: Sequence[str]) -> str:
            pairs = zip_longest(cells, sides[: len(cells)], fillvalue="")
            return "".join(f"<{tag}{side}>{html.escape(cell)}</{tag}>" for cell, side in pairs)

        body = "".join(f"<tr>{line('td', row)}</tr>" for row in texts)
        self.parts.append(f"<table><thead><tr>{line('th', head)}</tr></thead>{body}</table>")

    def inputs(self, values: Mapping[str, object], seed: int | None = None) -> None:
        """What this page was computed from, and with which versions."""
        self.heading("Inputs")
        self.table(("input", "value"), list(values.items()))
        drawn = "" if seed is None else f"; seed {seed}"
        self.text(f"stepwell {__version__}, Python {platform.python_version()}{drawn}")

    def html(self) -> str:
        title = html.escape(self.title)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
            f"<style>{_STYLE}{self.style}</style></head><body><h1>{title}</h1>"
            f'<p class="answer">{html.escape(self.answer)}</p>' + "\n".join(self.parts) + "</body></html>\n"
        )

    def write(self, path: Path) -> None:
        path.write_text(self.html(), encoding="utf-8")
