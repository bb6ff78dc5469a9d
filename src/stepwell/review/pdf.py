"""The report as a PDF, by reportlab: the same blocks, notes behind the text, a watermark on what is made up.

The same page gives the same bytes (``invariant``). English is set in Times, which every PDF viewer has;
Chinese in STSong-Light, a font that the viewer brings: it is named in the file and not embedded.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from stepwell.review.blocks import FigureShape, PageBlock, PageDocument, note_of

SCALE = 0.72
"""Points for each unit of a chart: its letters are as large as the text."""
CHINESE = "STSong-Light"
MARK = {"en": "MADE UP", "zh": "虚构数据"}
RISES = {"en": ("#1a7f4b", "#b3372f"), "zh": ("#b3372f", "#1a7f4b")}
"""Colours of what is above and below nothing."""
INK, SOFT = "#1c1c1a", "#6a6a64"
"""Of the curve at the end of the week, and before it."""
HAN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""What Times has not; a quotation from a document may have it."""
SIZES = {"h1": 20, "h2": 13, "made": 11, "figcaption": 8}


def pdf(document: PageDocument) -> bytes:
    """The whole report. Raises ``ModuleNotFoundError`` without the extra ``review``."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import SimpleDocTemplate

    if document.language == "zh" or any(HAN.search(block.text) for block in document.blocks):
        pdfmetrics.registerFont(UnicodeCIDFont(CHINESE))
    target = io.BytesIO()
    title = next((block.text for block in document.blocks if block.kind == "h1"), "")
    made = SimpleDocTemplate(target, title=title, author="stepwell review", invariant=1)

    def mark(canvas: Any, _: Any) -> None:
        if document.made:
            canvas.saveState()
            canvas.setFillGray(0.9)
            canvas.setFont(_font(document), 64)
            canvas.translate(300, 400)
            canvas.rotate(45)
            canvas.drawCentredString(0, 0, MARK[document.language])
            canvas.restoreState()

    made.build(list(_flow(document)), onFirstPage=mark, onLaterPages=mark)
    return target.getvalue()


def _font(document: PageDocument) -> str:
    return CHINESE if document.language == "zh" else "Times-Roman"


def _flow(document: PageDocument) -> Iterator[Any]:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph, Spacer

    def style(kind: str, text: str = "") -> Any:
        size = SIZES.get(kind, 10)
        chinese = document.language == "zh" or bool(HAN.search(text))
        wrap = "CJK" if chinese else None
        return ParagraphStyle(
            kind,
            fontName=CHINESE if chinese else _font(document),
            fontSize=size,
            leading=size * 1.35,
            spaceBefore=size * 0.5,
            leftIndent=12 if kind == "li" else 0,
            wordWrap=wrap,
            keepWithNext=int(kind == "h2"),
        )

    for block in document.blocks:
        if block.kind == "figure":
            yield _drawing(block, document)
        elif block.text.strip():
            yield Paragraph(_marked(block), style(block.kind, block.text))
    yield Spacer(1, 12)
    cells = document.cells
    for number, name in enumerate(document.notes, 1):
        yield Paragraph(f"{number}  {_clean(note_of(cells[name]))}", style("figcaption"))


def _marked(block: PageBlock) -> str:
    text = "".join(
        _clean(run.text) + (f'<super size="6">{run.note}</super>' if run.note else "") for run in block.runs
    )
    return f"\u2022 {text}" if block.kind == "li" else text


def _clean(text: str) -> str:
    """Times has no minus sign of its own."""
    return escape(text.replace("\u2212", "-").replace("\n", " "))


def _drawing(block: PageBlock, document: PageDocument) -> Any:
    from reportlab.graphics.shapes import Circle, Drawing, PolyLine, Rect, String
    from reportlab.lib.colors import HexColor, white

    width, height = (float(one) for one in block.box.split()[2:])
    scale = SCALE
    drawing = Drawing(width * scale, height * scale)
    up, down = (HexColor(one) for one in RISES[document.language])

    def place(shape: FigureShape, name: str) -> float:
        value = float(shape.at[name])
        return (height - value if name.endswith("y") else value) * scale

    for shape in block.shapes:
        colour = down if "down" in shape.at.get("class", "") else up
        if shape.tag == "rect":
            wide, high = float(shape.at["width"]) * scale, float(shape.at["height"]) * scale
            drawing.add(
                Rect(
                    place(shape, "x"),
                    place(shape, "y") - high,
                    wide,
                    high,
                    fillColor=colour,
                    strokeColor=None,
                )
            )
        elif shape.tag == "circle":
            before = shape.at.get("class") == "before"
            fill, line = (white, HexColor(SOFT)) if before else (HexColor(INK), None)
            drawing.add(Circle(place(shape, "cx"), place(shape, "cy"), 2.5, fillColor=fill, strokeColor=line))
        elif shape.tag == "polyline":
            pairs = [point.split(",") for point in shape.at["points"].split()]
            points = [one for x, y in pairs for one in (float(x) * scale, (height - float(y)) * scale)]
            dashes, ink = ([3, 3], SOFT) if shape.at.get("class") == "before" else (None, INK)
            drawing.add(PolyLine(points, strokeColor=HexColor(ink), strokeWidth=1, strokeDashArray=dashes))
        else:
            anchor = shape.at.get("text-anchor", "start")
            drawing.add(
                String(
                    place(shape, "x"),
                    place(shape, "y"),
                    shape.text.replace("\u2212", "-"),
                    fontName=_font(document),
                    fontSize=10,
                    textAnchor=anchor,
                )
            )
    return drawing
