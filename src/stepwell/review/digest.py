"""The facts of a week: raw replies read into cells, those of the week derived, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from importlib.resources import files

from stepwell.review.checks import check
from stepwell.review.derived import derive_week
from stepwell.review.facts import Cell, CellPlace, Facts, Unit, missing
from stepwell.review.sources.base import Reply, Source, SourceError, read
from stepwell.review.sources.bls import Bls
from stepwell.review.sources.documents import Documents
from stepwell.review.sources.edgar import Edgar
from stepwell.review.sources.fred import Fred
from stepwell.review.sources.nyfed import NewYorkFed
from stepwell.review.sources.prices import Cboe, Parts, PriceFiles, Totals
from stepwell.review.sources.treasury import Curve, TreasuryCash
from stepwell.review.week import Week

SOURCES: tuple[Source, ...] = (
    *(PriceFiles(), Totals(), Parts(), Cboe(), Fred(), Curve(), TreasuryCash()),
    *(NewYorkFed(), Bls(), Edgar(), Documents()),
)


def source(name: str) -> Source:
    """The source by its name. Raises ``KeyError``."""
    return next(one for one in SOURCES if one.name == name)


def digest(week: Week, replies: Iterable[Reply]) -> tuple[Facts, list[str]]:
    """The week's facts, and a sentence for each reply that could not be used."""
    facts, refused = Facts(), []
    _names(facts)
    for reply in replies:
        before = facts.copy()
        try:
            read(source(reply.source), facts, reply)
        except SourceError as error:
            facts = before  # of a refused reply nothing stays, not even the rows before the fault
            refused.append(str(error))
    _refuse_the_future(facts, week)
    derive_week(facts, week)
    facts.conflicts.extend(check(facts, week))
    return facts, refused


def _names(facts: Facts) -> None:
    data = (files("stepwell.review") / "names.json").read_bytes()
    sha256 = facts.keep("names.json", data)
    for name, languages in json.loads(data).items():
        for language, text in languages.items():
            place = CellPlace(sha256, "json", f"/{name}/{language}")
            facts.add(Cell(f"name.{name}.{language}", Unit.NAME, text, source="names", place=place))


def _refuse_the_future(facts: Facts, week: Week) -> None:
    """What was not known by the end of the week's weekend is no fact of that week."""
    until = week.friday + timedelta(days=2)
    for name, cell in list(facts.cells.items()):
        if cell.known_since is not None and cell.known_since > until:
            facts.cells[name] = missing(
                name, cell.unit, "it was not known by the end of the week", cell.source
            )
