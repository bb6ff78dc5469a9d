"""The report as one HTML file: text whose every number is a marked cell, charts, trace and raw bytes
inside.

A ``<data>`` element carries the cell and its form; so do bars of charts. The trace and the raw replies lie
in the page as JSON, so that ``stepwell review verify PAGE`` needs nothing else. The page has no clock and
no chance in it: the same facts and choices give the same bytes.
"""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from stepwell.review.charts import bars, curve
from stepwell.review.derived import CURVE
from stepwell.review.facts import Cell, Conflict, Facts, Origin, as_json
from stepwell.review.outline import (
    SECTIONS,
    TITLES,
    Handle,
    Piece,
    attributed,
    lookup,
    must_say,
    pieces_of,
    unsaid,
)
from stepwell.review.sources.prices import INDEXES
from stepwell.review.wording import Language, word
from stepwell.review.writer import Draft

SCHEMA = 1
WORDS: dict[str, dict[Language, str]] = {
    "title": {"en": "Weekly market review", "zh": "每周市场回顾"},
    "week": {
        "en": "Week that ended on {week.last}; changes are from the close of {week.base}.",
        "zh": "截至{week.last}当周；变动以{week.base}收盘为基准。",
    },
    "chart": {"en": "Change over the week", "zh": "本周变动"},
    "chart_yields": {"en": "Treasury yields, change over the week", "zh": "美国国债收益率本周变动"},
    "chart_curve": {
        "en": "Treasury yields by maturity: hollow before the week, filled at its end",
        "zh": "各期限美国国债收益率：空心为周前，实心为周末",
    },
    "unfit": {"en": "What does not fit", "zh": "数据与说法不符之处"},
    "nothing": {"en": "Nothing was found that does not fit.", "zh": "未发现不符之处。"},
    "missing": {"en": "What is missing", "zh": "缺失的数据"},
    "whole": {"en": "Nothing that was looked for is missing.", "zh": "没有缺失的数据。"},
    "sources": {"en": "Sources and method", "zh": "来源与方法"},
    "made": {
        "en": "Sample: levels and replies in this review are made up.",
        "zh": "样例：本文中的点位与数据为虚构。",
    },
    "mark": {"en": "made up", "zh": "虚构数据"},
    "beside": {"en": "Beside last week", "zh": "与上周对照"},
    "costs": {"en": "What the crew cost", "zh": "写作成本"},
    "turns": {"en": "turns", "zh": "轮次"},
    "tokens": {"en": "tokens", "zh": "词元"},
    "cost": {"en": "cost", "zh": "费用"},
    "signals": {"en": "Signals on paper", "zh": "模拟信号"},
    "paper": {
        "en": "Rules that were fixed before they said anything; nothing is bought or sold.",
        "zh": "规则事先固定，仅作记录，不构成交易。",
    },
    "signal": {
        "en": "The rule {$R.name} holds {$R.position} of {$R.instrument} from the close of {$R.acts}.",
        "zh": "规则{$R.name}自{$R.acts}收盘起持有{$R.instrument}的{$R.position}。",
    },
    "head": {"en": "Newest head of the log: {signals.head}", "zh": "日志最新摘要：{signals.head}"},
    "quoted": {
        "en": "{theme.title}: sentences of {theme.file}, word for word. They are the document's: "
        "nothing in them was checked against the data of the week.",
        "zh": "{theme.title}：以下为{theme.file}原文摘录，内容由该文件负责，未与本周数据核对。",
    },
    "hash": {"en": "Fingerprint of the file: {theme.sha256}", "zh": "文件指纹：{theme.sha256}"},
    "empty": {"en": "No data.", "zh": "无数据。"},
    "trace": {
        "en": "Point at a number to see where it is from. Claims are printed as what a source said.",
        "zh": "将光标移到数字上可查看其来源。他人说法均注明出处。",
    },
}
ROLES: dict[str, dict[Language, str]] = {
    "planner": {"en": "Planner (sections)", "zh": "策划（章节）"},
    "analyst": {"en": "Analyst (orders)", "zh": "分析员（排序）"},
    "stylist": {"en": "Stylist (forms)", "zh": "文体员（句式）"},
    "editor": {"en": "Editor (words)", "zh": "编辑（措辞）"},
    "critic": {"en": "Critic (sends back)", "zh": "审稿（退改）"},
}
CONFLICTS: dict[str, dict[Language, str]] = {
    "weekday": {"en": "{1:speaker:start} calls {0} a {1}.", "zh": "{1:speaker}把{0}说成{1}。"},
    "product": {
        "en": "{0} a month for a year is {1}; the text says {2}.",
        "zh": "每月{0}，全年为{1}；文中称{2}。",
    },
    "product_agrees": {
        "en": "{0} a month comes to {1} a year, as the text says.",
        "zh": "每月{0}，全年为{1}，与文中所说相符。",
    },
    "start": {
        "en": "Purchases are said to begin on {0}; yet bills for {1} were bought on {1:date}.",
        "zh": "文中称购买自{0}开始；而{1:date}已购买{1}国库券。",
    },
    "claim": {
        "en": "{0:speaker:start} says that payrolls {0:revised}; in what was published that "
        "week they {1:revised}.",
        "zh": "{0:speaker}称非农就业{0:revised}；而本周公布的数据中，非农就业{1:revised}。",
    },
    "sum": {
        "en": "The balance that closed {0:date} at {0} opened the next day at {1}.",
        "zh": "{0:date}收盘余额为{0}，次日开盘为{1}。",
    },
    "split": {
        "en": "From {0:date} to {1:date} a close went from {0} to {1}, as at a split: no change is printed.",
        "zh": "{0:date}至{1:date}收盘由{0}变为{1}，与拆股相同，故不给出变动。",
    },
    "release": {
        "en": "A release is dated {0}, a day on which no statistics come out.",
        "zh": "有数据标注于{0}发布，而该日不发布统计数据。",
    },
    "vintage": {
        "en": "{0} is said to be known since {0:known}, a day on which no statistics come out.",
        "zh": "{0}标注于{0:known}发布，而该日不发布统计数据。",
    },
    "sources": {
        "en": "For {0:date} there is {0} ({0:source}) and {1} ({1:source}).",
        "zh": "{0:date}的数据不符：{0}（{0:source}）与{1}（{1:source}）。",
    },
    "units": {
        "en": "For {0:date} rows of the same fact have different units: {0} and {1}.",
        "zh": "{0:date}同类数据的单位不同：{0}与{1}。",
    },
}


@dataclass(slots=True)
class ReviewPage:
    """One language's report on its way into HTML and Markdown."""

    facts: Facts
    draft: Draft
    language: Language
    seen: list[str] = field(default_factory=list)
    """Cells that were printed, in order."""

    def html(self) -> str:
        body = "\n".join(self._body())
        style = (files("stepwell.review") / "page.css").read_text("utf-8")
        script = (files("stepwell.review") / "page.js").read_text("utf-8")
        return (
            f'<!doctype html>\n<html lang="{self.language}">\n<head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{self._word('title')}</title>\n<style>\n{style}</style></head>\n"
            f"<body>\n<main>\n{body}\n</main>\n"
            f'<script type="application/json" id="trace">{_safe(self.trace())}</script>\n'
            f'<script type="application/json" id="raw">{_safe(packed(self.facts))}</script>\n'
            f"<script>\n{script}</script>\n</body></html>\n"
        )

    def trace(self) -> Mapping[str, object]:
        """Every cell that the page shows, and those they rest on."""
        return {
            "schema": SCHEMA,
            "language": self.language,
            "must": must_say(self.draft.said()),
            "conflicts": [{"kind": one.kind, "cells": list(one.cells)} for one in self.facts.conflicts],
            "cells": [as_json(cell) for cell in closure(self.facts, self.seen)],
        }

    def _body(self) -> Iterable[str]:
        yield f"<header><h1>{self._word('title')}</h1>"
        if self._made():
            yield f'<p class="made">{self._word("made")}</p>'
        if self.facts.get("week.last") and self.facts.get("week.base"):
            yield f"<p>{self.marked(pieces_of(self._word('week')))}</p>"
        yield "</header>"
        yield from self._charts()
        for section in self.draft.sections or SECTIONS:
            yield f"<section><h2>{TITLES[section][self.language]}</h2>"
            paragraph = self._section(section)
            yield f"<p>{paragraph}</p></section>" if paragraph else f"<p>{self._word('empty')}</p></section>"
        yield from self._theme()
        yield from self._last_week()
        yield from self._signals()
        yield from self._unfit()
        yield from self._missing()
        yield from self._costs()
        yield from self._sources()

    def _made(self) -> bool:
        return any(cell.origin is Origin.MADE for cell in self.facts.cells.values())

    def _section(self, section: str) -> str:
        space = " " if self.language == "en" else ""
        return space.join(self.marked(pieces) for pieces in self.draft.pieces(section, self.language))

    def marked(self, pieces: Sequence[Piece]) -> str:
        return "".join(html.escape(piece) if isinstance(piece, str) else self.mark(piece) for piece in pieces)

    def mark(self, handle: Handle, tag: str = "data") -> str:
        cell = lookup(self.facts, handle.cell, self.language)
        self.seen.append(cell.id)
        text = word(cell, handle.form, self.language)
        if handle.starts:
            text = text[:1].upper() + text[1:]
        marked = f'class="{cell.origin.value}" data-cell="{html.escape(cell.id)}" data-form="{handle.form}"'
        return f"<{tag} {marked}>{html.escape(text)}</{tag}>"

    def _charts(self) -> Iterable[str]:
        """Bars of the week's changes, and the curve on its last day and before."""
        changes = [f"w.{index}.change" for index in INDEXES]
        yield from self._figure("chart", bars(self.facts, changes, self.mark))
        yield from self._figure("chart_yields", bars(self.facts, [f"w.curve.{x}" for x in CURVE], self.mark))
        self.seen.extend(one for x in CURVE if self.facts.get(one := f"w.curve.{x}.base"))
        yield from self._figure("chart_curve", curve(self.facts, CURVE, self.mark))

    def _figure(self, caption: str, lines: Sequence[str]) -> Iterable[str]:
        if lines:
            said = self._word(caption) + (f" · {self._word('mark')}" if self._made() else "")
            yield "<figure>" + "\n".join(lines) + f"<figcaption>{said}</figcaption></figure>"

    def _theme(self) -> Iterable[str]:
        if self.facts.get("theme.title") is None:
            return
        yield f"<section><h2>{TITLES['theme'][self.language]}</h2>"
        yield f"<p>{self.marked(pieces_of(self._word('quoted')))}</p><ul>"
        for cell in self.facts.under("theme.quote."):
            yield f"<li>{self.mark(Handle(cell.id))}</li>"
        yield f'</ul><p class="sources">{self.marked(pieces_of(self._word("hash")))}</p></section>'

    def _last_week(self) -> Iterable[str]:
        names = [index for index in INDEXES if self.facts.get(f"last.w.{index}.change")]
        if not names:
            return
        yield f'<section><h2>{self._word("beside")}</h2><div class="wide"><table>'
        this, last = (self.mark(Handle(name)) for name in ("week.last", "last.week.last"))
        yield f"<tr><th></th><th>{this}</th><th>{last}</th></tr>"
        for index in names:
            figures = [f"w.{index}.change", f"last.w.{index}.change"]
            yield self._row(self.mark(Handle(f"name.{index}", starts=True)), figures, "signed")
        yield "</table></div></section>"

    def _costs(self) -> Iterable[str]:
        """Of the crew, by role and by section, from the ledger of its server."""
        found = [cell.id.rpartition(".")[0] for cell in self.facts.under("cost.")]
        if not found:
            return
        heads = "".join(f"<th>{self._word(name)}</th>" for name in ("turns", "tokens", "cost"))
        yield f'<section class="sources"><h2>{self._word("costs")}</h2><div class="wide"><table>'
        yield f"<tr><th></th>{heads}</tr>"
        for one in dict.fromkeys(found):
            kind, name = one.split(".")[1:]
            title = (TITLES if kind == "section" else ROLES)[name][self.language]
            yield self._row(title, [f"{one}.{what}" for what in ("turns", "tokens", "cost_microusd")])
        yield "</table></div></section>"

    def _row(self, title: str, cells: Sequence[str], form: str = "value") -> str:
        figures = "".join(
            f"<td>{self.mark(Handle(cell, form)) if self.facts.get(cell) else '–'}</td>" for cell in cells
        )
        return f"<tr><td>{title}</td>{figures}</tr>"

    def _signals(self) -> Iterable[str]:
        if self.facts.get("signals.head") is None:
            return
        yield f"<section><h2>{self._word('signals')}</h2><p>{self._word('paper')}</p><ul>"
        for cell in self.facts.under("signals."):
            if cell.id.endswith(".position"):
                said = self._word("signal").replace("$R", cell.id.removesuffix(".position"))
                yield f"<li>{self.marked(pieces_of(said))}</li>"
        yield f"<li>{self.marked(pieces_of(self._word('head')))}</li></ul></section>"

    def _unfit(self) -> Iterable[str]:
        yield f'<section class="unfit"><h2>{self._word("unfit")}</h2>'
        if not self.facts.conflicts:
            yield f"<p>{self._word('nothing')}</p></section>"
            return
        items = "".join(f"<li>{self._conflict(one)}</li>" for one in self.facts.conflicts)
        yield f"<ul>{items}</ul></section>"

    def _conflict(self, conflict: Conflict) -> str:
        pieces = [
            piece
            if isinstance(piece, str)
            else Handle(conflict.cells[int(piece.cell)], piece.form, piece.starts)
            for piece in pieces_of(CONFLICTS[conflict.kind][self.language])
        ]
        return self.marked(attributed(self.facts, pieces, self.language))

    def _missing(self) -> Iterable[str]:
        yield f'<section class="missing"><h2>{self._word("missing")}</h2>'
        absent = unsaid(self.facts)
        if not absent:
            yield f"<p>{self._word('whole')}</p></section>"
            return
        items = "".join(
            f"<li>{self.mark(Handle(cell.id, 'id'), 'code')} ({self.mark(Handle(cell.id, 'why'))})</li>"
            for cell in absent
        )
        yield f"<ul>{items}</ul></section>"

    def _sources(self) -> Iterable[str]:
        yield f'<section class="sources"><h2>{self._word("sources")}</h2><p>{self._word("trace")}</p><ul>'
        titles: dict[str, str] = {}
        for cell in closure(self.facts, self.seen):
            if cell.place is not None and cell.source and not cell.id.startswith("name."):
                titles.setdefault(cell.source.partition(", line")[0], cell.id)
        for name in titles.values():
            yield f"<li>{self.mark(Handle(name, 'source'))}</li>"
        yield "</ul></section>"

    def _word(self, name: str) -> str:
        return WORDS[name][self.language]


def closure(facts: Facts, ids: Iterable[str]) -> list[Cell]:
    """The cells, those they are derived from, and those of the conflicts, each once, in a fixed order."""
    wanted = [*ids, *(one for conflict in facts.conflicts for one in conflict.cells)]
    found: dict[str, Cell] = {}
    while wanted:
        name = wanted.pop()
        if name in found or name not in facts.cells:
            continue
        cell = found[name] = facts.cells[name]
        wanted.extend(cell.derivation.inputs if cell.derivation else ())
    return [found[name] for name in sorted(found)]


def packed(facts: Facts) -> Mapping[str, object]:
    """Raw replies by their SHA-256: deflated and in base64."""
    return {
        sha256: {
            "name": facts.names[sha256],
            "data": base64.b64encode(zlib.compress(data, 9)).decode("ascii"),
        }
        for sha256, data in sorted(facts.raw.items())
    }


def _safe(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c")
