"""The log as a page: every rule that was tried, every signal that was kept, and the head to compare with."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence

from stepwell.review.signals.log import Line
from stepwell.review.signals.record import tried

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 Georgia, serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { border-bottom: 1px solid #8886; padding: .2rem .5rem; text-align: left; }
code { font-size: .8rem; overflow-wrap: anywhere; }
div { overflow-x: auto; }
"""
NOTE = (
    "On paper only: nothing is bought or sold. A rule is fixed by its hash before it says anything, and acts "
    "one session later. What was written after that session closed is marked as late and counts for nothing."
)


def page(lines: Sequence[Line], scores: Sequence[Mapping[str, object]]) -> str:
    """HTML without a clock: the same log gives the same bytes."""
    body = "\n".join(_body(lines, scores))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Signals on paper</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _body(lines: Sequence[Line], scores: Sequence[Mapping[str, object]]) -> Iterator[str]:
    rules = tried(list(lines))
    yield f"<h1>Signals on paper</h1><p>{NOTE}</p>"
    yield f"<p>Lines: {len(lines)}. Newest head: <code>{html.escape(str(lines[-1]['hash']))}</code></p>"
    yield f"<h2>Rules that were tried: {len(rules)}</h2>"
    columns = ("name", "says", "instrument", "cost_basis_points", "recorded", "rule")
    yield _table(columns, list(rules.values()))
    if scores:
        yield "<h2>What they would have earned</h2>"
        yield _table(tuple(scores[0]), scores)
    yield "<h2>Signals</h2>"
    names = {rule: line["name"] for rule, line in rules.items()}
    rows = [
        {**line, "name": names.get(line["rule"], ""), "kept": "forward" if line["forward"] else "late"}
        for line in lines
        if line["kind"] == "signal"
    ]
    yield _table(("session", "name", "position", "acts", "recorded", "kept"), rows[::-1])


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(row.get(name, '')))}</td>" for name in columns) + "</tr>"
        for row in rows
    )
    return f"<div><table><tr>{head}</tr>\n{lines}</table></div>"
