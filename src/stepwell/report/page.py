"""One HTML page without anything from outside: it can be mailed and opened years later."""

from __future__ import annotations

import html
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell import __version__

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd}
td{text-align:right}td:first-child,th{text-align:left}svg{max-width:100%;height:auto}
.answer{font-size:1.15rem;font-weight:600}.note{color:#555}"""


@dataclass(slots=True)
class Page:
    """Parts are added in the order in which they are read."""

    title: str
    answer: str
    """The result in one sentence; it stands at the top."""
    parts: list[str] = field(default_factory=list)
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
        self.parts.append(
            "<table><thead><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr></thead>"
        )
        for row in rows:
            cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
            self.parts.append(f"<tr>{cells}</tr>")
        self.parts.append("</table>")

    def inputs(self, values: Mapping[str, object], seed: int | None = None) -> None:
        """What this page was computed from, and with which versions."""
        self.heading("Inputs")
        self.table(("input", "value"), list(values.items()))
        drawn = "" if seed is None else f"; seed {seed}"
        self.text(f"stepwell {__version__}, Python {platform.python_version()}{drawn}")

    def html(self) -> str:
        title = html.escape(self.title)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
            f'<p class="answer">{html.escape(self.answer)}</p>' + "\n".join(self.parts) + "</body></html>\n"
        )

    def write(self, path: Path) -> None:
        path.write_text(self.html(), encoding="utf-8")
