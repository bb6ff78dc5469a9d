"""A report page as a PDF, by reportlab: title, result, headings, text and tables; charts stay in the HTML.

The same page gives the same bytes (``invariant``). Text that Times cannot set is set in STSong-Light, a font
that PDF viewers bring.
"""

from __future__ import annotations

import io
import re
from typing import Any
from xml.sax.saxutils import escape

from stepwell.errors import MissingExtra
from stepwell.report.page import Page

BEYOND = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
SONG = "STSong-Light"
SIZES = {"title": 18, "answer": 12, "heading": 13, "text": 9, "cell": 8}


def pdf(page: Page) -> bytes:
    """The whole page. Raises ``MissingExtra``."""
    try:
        from reportlab.lib.pagesizes import A4
        from reportlab.pdfbase import pdfmetrics
        from reportlab.pdfbase.cidfonts import UnicodeCIDFont
        from reportlab.platypus import SimpleDocTemplate, Spacer
    except ImportError as error:
        raise MissingExtra("A PDF", "review") from error
    pdfmetrics.registerFont(UnicodeCIDFont(SONG))
    target = io.BytesIO()
    made = SimpleDocTemplate(target, pagesize=A4, title=page.title, author="stepwell", invariant=1)
    flow: list[Any] = [_paragraph("title", page.title), _paragraph("answer", page.answer), Spacer(1, 8)]
    for kind, content in page.blocks:
        flow.append(_table(content) if kind == "table" else _paragraph(kind, str(content)))
    made.build(flow)
    return target.getvalue()


def _paragraph(kind: str, text: str) -> Any:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    size, beyond = SIZES[kind], bool(BEYOND.search(text))
    bold = kind in ("title", "heading", "answer")
    font = SONG if beyond else "Times-Bold" if bold else "Times-Roman"
    wrap = "CJK" if beyond else None
    space = size * 0.6 if bold else 0
    style = ParagraphStyle(
        kind,
        fontName=font,
        fontSize=size,
        leading=size * 1.3,
        wordWrap=wrap,
        spaceBefore=space,
        spaceAfter=space,
    )
    return Paragraph(escape(text), style)


def _table(rows: Any) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.platypus import Table, TableStyle

    cells = [[_paragraph("cell", str(cell)) for cell in row] for row in rows]
    shown = Table(cells, repeatRows=1)
    shown.setStyle(TableStyle([("LINEBELOW", (0, 0), (-1, -1), 0.4, HexColor("#cccccc"))]))
    return shown
