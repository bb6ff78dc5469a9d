"""What stands beside a week's facts: last week's report, what the crew cost, and what the signals say.

Each brings its own raw bytes, so that its figures are cells like all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from stepwell.review.blocks import document_of
from stepwell.review.crew import Spent
from stepwell.review.facts import Cell, CellPlace, Facts, Origin, Unit, Value
from stepwell.review.signals.log import Line
from stepwell.review.signals.record import tried
from stepwell.review.sources.prices import INDEXES
from stepwell.review.verifier import verify
from stepwell.review.week import Week

COSTS = (("turns", Unit.COUNT), ("tokens", Unit.COUNT), ("cost_microusd", Unit.MICROUSD))


def add_last_week(facts: Facts, page: bytes, week: Week) -> bool:
    """The changes that last week's report printed; false where it is another week's or does not hold."""
    if not verify(page).holds:
        return False
    trace = document_of(page).trace
    sha256 = facts.keep("last-week-trace.json", json.dumps(trace, sort_keys=True).encode())
    rows = {row["id"]: (number, row) for number, row in enumerate(trace["cells"])}
    ended = rows.get("week.last", (0, {}))[1].get("value", "")
    if not ended or Week.of(date.fromisoformat(ended)) != week.before():
        return False
    for name, unit in (("week.last", Unit.DATE), *((f"w.{index}.change", Unit.PERCENT) for index in INDEXES)):
        if name in rows and "value" in rows[name][1]:
            number, row = rows[name]
            value: Value = date.fromisoformat(ended) if unit is Unit.DATE else Decimal(row["value"])
            place = CellPlace(sha256, "json", f"/cells/{number}/value")
            day, origin = date.fromisoformat(ended), Origin(row["origin"])
            source = "last week's review"
            facts.add(Cell(f"last.{name}", unit, value, day, day, source, origin, place))
    return True


def add_costs(facts: Facts, spent: Sequence[Spent]) -> None:
    """What the ledger of the crew's server charged, per section and per role; nothing without a model."""
    if not spent:
        return
    totals: dict[str, dict[str, dict[str, int]]] = {"section": {}, "role": {}}
    for one in spent:
        result = one.result
        tokens = result.prompt_tokens + result.visible_tokens + result.intermediate_tokens
        figures = {"turns": result.turns, "tokens": tokens, "cost_microusd": result.cost_microusd or 0}
        for kind, name in (("section", one.section), ("role", one.role)):
            row = totals[kind].setdefault(name, dict.fromkeys(figures, 0))
            for what, figure in figures.items():
                row[what] += figure
    sha256 = facts.keep("costs.json", json.dumps(totals, sort_keys=True).encode())
    for kind, rows in totals.items():
        for name, row in rows.items():
            for what, unit in COSTS:
                place = CellPlace(sha256, "json", f"/{kind}/{name}/{what}")
                value = Decimal(row[what])
                facts.add(
                    Cell(f"cost.{kind}.{name}.{what}", unit, value, source="ledger of the crew", place=place)
                )


def add_signals(facts: Facts, lines: Sequence[Line], week: Week) -> None:
    """The newest head of the log, and what each rule said last by the end of the week."""
    _add_line(facts, "signals.head", lines[-1], {"hash": Unit.NAME})
    for fixed, rule in tried(list(lines)).items():
        said = [
            line
            for line in lines
            if line["kind"] == "signal"
            and line["rule"] == fixed
            and week.monday <= date.fromisoformat(line["session"]) <= week.friday
        ]
        if said:
            name = f"signals.{rule['name']}.{rule['instrument']}"
            _add_line(facts, name, rule, {"name": Unit.NAME, "instrument": Unit.NAME})
            _add_line(facts, name, said[-1], {"acts": Unit.DATE, "position": Unit.PERCENT})


def _add_line(facts: Facts, id: str, line: Mapping[str, Any], columns: Mapping[str, Unit]) -> None:
    sha256 = facts.keep(f"signals-{line['n']}.json", json.dumps(line, sort_keys=True).encode())
    day = date.fromisoformat(str(line["session"])) if "session" in line else None
    for column, unit in columns.items():
        text, path = str(line[column]), f"/{column}"
        value: Value = text
        if unit is Unit.DATE:
            value = date.fromisoformat(text)
        elif unit is Unit.PERCENT:
            value, path = Decimal(text) * 100, f"{path}*100"
        place = CellPlace(sha256, "json", path)
        name = id if column == "hash" else f"{id}.{column}"
        facts.add(Cell(name, unit, value, day, day, "log of signals", Origin.DATA, place))
