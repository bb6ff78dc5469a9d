"""The self-contained HTML page: result, pictures, tables, answers, and how it was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources

from stepwell.demo.cost_table import cost_sentences, cost_table
from stepwell.demo.figures import DemoFigures, RunFigures
from stepwell.demo.picture import common_scale, draw_run
from stepwell.demo.tables import TextTable, comparison_table, notes, service_tier_table
from stepwell.report.page import Page

PLACES = (
    ("device", "on the device"),
    ("host", "in host memory"),
    ("disk", "on disk"),
    ("absent", "nowhere: not computed yet, or dropped"),
)
LANES = (
    "One lane per agent; its height is the length of the agent's context. The surface of the well is on top: "
    "the deeper KV lies, the lower and darker it is drawn. Point at a lane to read its figures."
)
MARKS = {True: " (right)", False: " (wrong)", None: ""}


def render_page(figures: DemoFigures) -> str:
    """The whole page. Nothing in it is loaded from anywhere."""
    page = Page(
        f"Stepwell demo, {figures.date[:10]}: {figures.document.title}",
        figures.result[:1].upper() + figures.result[1:],
        style=_asset("page.css"),
    )
    runs = figures.runs
    if len(runs) == 2:
        _add(page, comparison_table(*runs))
    page.heading("Where each agent's KV lay")
    page.chart(_legend())
    page.text(LANES)
    scale = common_scale(runs)
    for number, run in enumerate(runs):
        svg = draw_run(run, figures.customers, scale, f"run-{number}", runs[0].duration_s if number else None)
        page.chart(_figure(number, run, svg))
    for run in runs:
        _add(page, service_tier_table(run))
    if (costs := cost_table(runs[0], figures.customers)) is not None:
        _add(page, costs)
        for sentence in cost_sentences(runs[0]):
            page.text(sentence)
    _answers(page, figures)
    page.heading("How this was measured")
    for note in notes(figures):
        page.text(note)
    page.chart(
        f'<div id="tip" role="status" hidden></div>\n<script type="application/json" id="lanes">'
        f"{_lane_data(runs)}</script>\n<script>\n{_asset('page.js')}</script>"
    )
    return page.html()


def _asset(name: str) -> str:
    return resources.files("stepwell.demo").joinpath("assets", name).read_text(encoding="utf-8")


def _add(page: Page, table: TextTable) -> None:
    page.heading(table.title)
    page.table(table.columns, table.rows)


def _answers(page: Page, figures: DemoFigures) -> None:
    rows = []
    for customer in figures.customers:
        for answer in figures.runs[0].answers.get(customer.name.lower(), ()):
            source = f"{answer.heading}: {answer.passage}" if answer.heading else answer.passage
            said = f"{answer.text or '(no answer)'}{MARKS[answer.right]}"
            rows.append((f"{customer.name} ({customer.service_tier})", answer.question, said, source))
    page.heading("The answers")
    page.table(("customer", "question", "answer", "rests on"), rows)


def _figure(number: int, run: RunFigures, svg: str) -> str:
    return (
        f'<figure data-run="{number}"><figcaption>{escape(run.name)}: {run.duration_s:.1f} s</figcaption>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(run.name)}">{svg}</div></figure>'
    )


def _legend() -> str:
    """What is drawn in which colour; the hatching of what lies nowhere is defined here as well."""
    entries = "".join(
        f'<li><svg width="22" height="12" aria-hidden="true"><rect class="kv-{kind}" width="22" height="12"/>'
        f"</svg>{text}</li>"
        for kind, text in PLACES
    )
    return (
        f'<ul class="legend">{entries}<li><svg width="34" height="12" aria-hidden="true">'
        '<rect class="ttft" y="5.4" width="18" height="1.2"/>'
        '<rect class="out" x="18" y="4" width="16" height="4"/>'
        "</svg>a turn: waits for its first token, then writes</li></ul>"
        '<svg width="0" height="0" aria-hidden="true"><defs><pattern id="hatch" width="5" height="5" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatch-back" width="5" height="5"/>'
        '<line class="hatch-line" x1="0" x2="0" y1="0" y2="5"/></pattern></defs></svg>'
    )


def _lane_data(runs: Sequence[RunFigures]) -> str:
    """The lanes for the pointer, small. No ``<`` at all: it could end the script element."""
    data = [
        {
            agent: [[p.t_s, p.state, p.tokens, p.device, p.host, p.disk] for p in points]
            for agent, points in run.lanes.items()
        }
        for run in runs
    ]
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
