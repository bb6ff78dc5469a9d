"""The self-contained HTML page: result, pictures, tables, answers, and how it was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources

from stepwell.demo.cost_picture import LEGEND, cost_data, draw_costs
from stepwell.demo.cost_table import cost_sentences, cost_table
from stepwell.demo.drawing import PictureScale
from stepwell.demo.figures import DemoFigures, RunFigures
from stepwell.demo.picture import common_scale, draw_run
from stepwell.demo.record import CheckedAnswer
from stepwell.demo.tables import TextTable, comparison_table, notes, service_tier_table

PLACES = (
    ("device", "on the device"),
    ("host", "in host memory"),
    ("disk", "on disk"),
    ("absent", "nowhere: not computed yet, or dropped"),
)


def render_page(figures: DemoFigures) -> str:
    """The whole page. Nothing in it is loaded from anywhere."""
    scale = common_scale(figures.runs)
    sections = [
        _head(figures),
        _headline(figures),
        _legend(),
        *_pictures(figures, scale),
        *_costs(figures, scale),
        *_tables(figures),
        _answers(figures),
        _method(figures),
    ]
    title = f"Stepwell demo: {figures.document.title}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + '\n</main>\n<div id="tip" role="status" hidden></div>\n'
        + f'<script type="application/json" id="lanes">{_lane_data(figures.runs)}</script>\n'
        + f'<script type="application/json" id="costs">{cost_data(figures.runs)}</script>\n'
        + f"<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("stepwell.demo").joinpath("assets", name).read_text(encoding="utf-8")


def _head(figures: DemoFigures) -> str:
    return (
        f'<header>\n<p class="kicker">Stepwell demo, {escape(figures.date[:10])}</p>\n'
        f"<h1>{escape(_capital(figures.result))}</h1>\n</header>"
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _headline(figures: DemoFigures) -> str:
    """Four numbers to remember."""
    first = figures.runs[0]
    other = figures.runs[1] if len(figures.runs) > 1 else None
    cells = [
        ("Whole job", f"{first.duration_s:.1f} s", other and f"{other.duration_s:.1f} s"),
        (
            "TTFT p50 when an agent returns",
            f"{first.total.return_ttft_p50_s:.2f} s",
            other and f"{other.total.return_ttft_p50_s:.2f} s",
        ),
        (
            "Recomputed tokens",
            f"{first.total.recomputed_tokens:,}",
            other and f"{other.total.recomputed_tokens:,}",
        ),
        ("Recompute tax", f"{first.total.recompute_tax:.1%}", other and f"{other.total.recompute_tax:.1%}"),
    ]
    made = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(ours)}"
        + (f"<small>without KV tiers {escape(theirs)}</small>" if theirs else "")
        + "</dd></div>"
        for name, ours, theirs in cells
    ]
    return f'<dl class="headline">{"".join(made)}</dl>'


def _legend() -> str:
    return (
        '<section><h2>Where each agent\'s KV lay</h2>\n<ul class="legend">' + _squares("kv", PLACES) + "<li>"
        '<svg width="34" height="12" aria-hidden="true"><rect class="ttft" y="5.4" width="18" height="1.2"/>'
        '<rect class="out" x="18" y="4" width="16" height="4"/></svg>a turn: waits for its first token, then '
        "writes</li></ul>\n"
        "<p>One lane per agent; its height is the length of the agent's context. The surface of the well is "
        "on top: the "
        "deeper KV lies, the lower and darker it is drawn. Point at a lane to read its figures. "
        '<svg width="0" height="0" aria-hidden="true"><defs><pattern id="hatch" width="5" height="5" '
        'patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="hatch-back" width="5" height="5"/><line '
        'class="hatch-line" x1="0" x2="0" y1="0" y2="5"/>'
        "</pattern></defs></svg></p></section>"
    )


def _squares(kind: str, keys: Sequence[tuple[str, str]]) -> str:
    """Entries of a legend: what is drawn in this colour."""
    return "".join(
        f'<li><svg width="22" height="12" aria-hidden="true"><rect class="{kind}-{key}" width="22" '
        f'height="12"/></svg>{text}</li>'
        for key, text in keys
    )


def _figure(kind: str, number: int, caption: str, label: str, svg: str) -> str:
    return (
        f'<figure data-{kind}="{number}"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(label)}">{svg}</div></figure>'
    )


def _pictures(figures: DemoFigures, scale: PictureScale) -> list[str]:
    made = []
    for number, run in enumerate(figures.runs):
        mark_s = figures.runs[0].duration_s if number else None
        svg = draw_run(run, figures.customers, scale, f"run-{number}", mark_s)
        made.append(_figure("run", number, f"{run.name}: {run.duration_s:.1f} s", run.name, svg))
    return made


def _costs(figures: DemoFigures, scale: PictureScale) -> list[str]:
    """The second picture, of every run that kept a ledger, and the table of the first one."""
    made = []
    for number, run in enumerate(figures.runs):
        if (books := run.ledger) is not None:
            svg = draw_costs(run, figures.customers, scale, f"cost-{number}")
            caption = f"{run.name}: the machine cost {books.bill_microusd:,} u$"
            made.append(_figure("cost", number, caption, f"{run.name}, costs", svg))
    if not made:
        return []
    run = figures.runs[0]
    table = cost_table(run, figures.customers)
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in cost_sentences(run))
    return [_cost_legend(), *made, *([_table(table)] if table is not None else []), said]


def _cost_legend() -> str:
    return (
        '<section><h2>What each agent cost</h2>\n<ul class="legend">' + _squares("cost", LEGEND) + "</ul>\n"
        "<p>The same lanes again; now the height of a lane is what its agent has cost so far, and the number "
        "beside its name what it came to, in u$ (millionths of a dollar). While an agent waits, its KV alone "
        "costs: as much on the device as if it worked, next to nothing in host memory and on disk. Above the "
        "lanes: the machine's bill, hatched what was idle or the loop's own work, and as a line what was "
        "charged.</p></section>"
    )


def _tables(figures: DemoFigures) -> list[str]:
    tables = [service_tier_table(run) for run in figures.runs]
    if len(figures.runs) == 2:
        tables.insert(0, comparison_table(figures.runs[0], figures.runs[1]))
    return [_table(table) for table in tables]


def _table(table: TextTable) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        ('<tr class="strong">' if number in table.strong else "<tr>")
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _answers(figures: DemoFigures) -> str:
    parts = []
    for customer in figures.customers:
        said = "".join(map(_answer, figures.runs[0].answers.get(customer.name.lower(), ())))
        name = f"{customer.name}, service tier {customer.service_tier}"
        parts.append(f"<article><h3>{escape(name)}</h3><dl>{said}</dl></article>")
    return f'<section><h2>The answers</h2><div class="answers">{"".join(parts)}</div></section>'


def _answer(answer: CheckedAnswer) -> str:
    mark = {True: " (right)", False: " (wrong)", None: ""}[answer.right]
    source = f"{answer.heading}: {answer.passage}" if answer.heading else answer.passage
    rests = f"<dd><small>rests on {escape(source)}</small></dd>" if answer.passage else ""
    return (
        f'<dt class="question">{escape(answer.question)}</dt>'
        f"<dd>{escape(answer.text or '(no answer)')}{mark}</dd>{rests}"
    )


def _method(figures: DemoFigures) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes(figures))
    return f"<section><h2>How this was measured</h2><ul>{items}</ul></section>"


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
