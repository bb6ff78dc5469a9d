"""The facts of a week: raw replies read into cells, and the cells that a review is written from.

Ids that begin with ``w.`` are derived for the week and have no date in them, so that templates name them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date, timedelta
from importlib.resources import files

from stepwell.review.checks import check, split_between
from stepwell.review.facts import Cell, Derivation, Facts, Place, Unit, missing
from stepwell.review.formulas import derive
from stepwell.review.sources.base import Reply, Source, SourceError, read
from stepwell.review.sources.bls import Bls
from stepwell.review.sources.documents import Documents
from stepwell.review.sources.edgar import Edgar
from stepwell.review.sources.fred import Fred
from stepwell.review.sources.nyfed import NewYorkFed
from stepwell.review.sources.prices import INDEXES, Cboe, Prices
from stepwell.review.sources.treasury import Cash, Curve
from stepwell.review.week import Week

SOURCES: tuple[Source, ...] = (
    *(Prices(), Cboe(), Fred(), Curve(), Cash(), NewYorkFed(), Bls(), Edgar(), Documents()),
)
CURVE = ("2Y", "10Y", "30Y")
RELEASES = ("payrolls", "cpi", "claims", "retail")
"""Releases of which a document may give ``evt.NAME.actual`` and, as expected, ``evt.NAME.consensus``."""
LOOK_BACK_DAYS = 10
"""How far back a level may lie that is compared with: over the longest run of holidays."""


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
    _derive(facts, week)
    facts.conflicts.extend(check(facts, week))
    return facts, refused


def _names(facts: Facts) -> None:
    data = (files("stepwell.review") / "names.json").read_bytes()
    sha256 = facts.keep("names.json", data)
    for name, languages in json.loads(data).items():
        for language, text in languages.items():
            place = Place(sha256, "json", f"/{name}/{language}")
            facts.add(Cell(f"name.{name}.{language}", Unit.NAME, text, source="names", place=place))


def _refuse_the_future(facts: Facts, week: Week) -> None:
    """What was not known by the end of the week's weekend is no fact of that week."""
    until = week.friday + timedelta(days=2)
    for name, cell in list(facts.cells.items()):
        if cell.known_since is not None and cell.known_since > until:
            facts.cells[name] = missing(
                name, cell.unit, "it was not known by the end of the week", cell.source
            )


def _derive(facts: Facts, week: Week) -> None:
    last, base = week.last(), week.base()
    for index in (*INDEXES, "VIX"):
        now, then = f"idx.{index}.close.{last}", f"idx.{index}.close.{base}"
        derive(facts, f"w.{index}.last", "same", now, unit=Unit.POINTS)
        derive(facts, f"w.{index}.base", "same", then, unit=Unit.POINTS)
        if pair := split_between(facts, index, week):
            why = f"{pair[1].id} is to {pair[0].id} as after a split"
            facts.add(missing(f"w.{index}.change", Unit.PERCENT, why))
            continue
        derive(facts, f"w.{index}.change", "change_percent", now, then, unit=Unit.PERCENT)
    _days(facts, week)
    _curve(facts, week)
    _cash(facts, week)
    _policy(facts, week)
    _labour(facts)
    derive(
        facts,
        "w.oracle.shift",
        "difference",
        "evt.oracle.sites.after",
        "evt.oracle.sites.before",
        unit=Unit.YEAR,
    )
    derive(
        facts, "w.oracle.drawdown", "change_percent", "evt.oracle.close", "evt.oracle.high", unit=Unit.PERCENT
    )
    for name in RELEASES:
        _surprise(facts, name)
    derive(facts, "w.bills.year", "yearly", "evt.fed.bills.month", unit=Unit.USD)


def _surprise(facts: Facts, name: str) -> None:
    """The figure less what was expected, where that was written down before the figure was out."""
    actual, expected = facts.get(f"evt.{name}.actual"), facts.get(f"evt.{name}.consensus")
    if actual is None or expected is None:
        return
    before, out = expected.known_since, actual.known_since
    if before is None or out is None or before >= out:
        why = "what was expected has no date before that of the release"
        facts.add(missing(f"w.{name}.surprise", actual.unit, why))
        return
    derive(facts, f"w.{name}.surprise", "surprise", actual.id, expected.id, unit=actual.unit)


def _days(facts: Facts, week: Week) -> None:
    for name, day in (("week.last", week.last()), ("week.base", week.base())):
        how = Derivation("session", 1, (f"idx.{INDEXES[0]}.close.{day}",))
        if facts.get(how.inputs[0]) is None:
            facts.add(missing(name, Unit.DATE, "there is no level of that day"))
        else:
            facts.add(
                Cell(name, Unit.DATE, day, observed=day, source="calendar of the exchange", derivation=how)
            )


def _curve(facts: Facts, week: Week) -> None:
    days = week.bond_days()
    last = days[-1] if days else week.friday
    base = _newest(facts, "curve.10Y.", before=week.monday)
    for tenor in CURVE:
        now = f"curve.{tenor}.{last}"
        derive(facts, f"w.curve.{tenor}.last", "same", now, unit=Unit.PERCENT)
        derive(facts, f"w.curve.{tenor}.base", "same", f"curve.{tenor}.{base}", unit=Unit.PERCENT)
        derive(
            facts, f"w.curve.{tenor}", "basis_points", now, f"curve.{tenor}.{base}", unit=Unit.BASIS_POINTS
        )
    derive(
        facts,
        "w.curve.2s10s",
        "basis_points",
        f"curve.10Y.{last}",
        f"curve.2Y.{last}",
        unit=Unit.BASIS_POINTS,
    )


def _cash(facts: Facts, week: Week) -> None:
    last = _newest(facts, "tga.close.", before=week.friday + timedelta(days=1))
    base = _newest(facts, "tga.close.", before=week.monday)
    derive(facts, "w.tga.last", "same", f"tga.close.{last}", unit=Unit.USD)
    derive(facts, "w.tga.change", "difference", f"tga.close.{last}", f"tga.close.{base}", unit=Unit.USD)


def _policy(facts: Facts, week: Week) -> None:
    last = _newest(facts, "fred.DFEDTARL.", before=week.friday + timedelta(days=1))
    base = _newest(facts, "fred.DFEDTARL.", before=week.monday)
    derive(facts, "w.target.low", "same", f"fred.DFEDTARL.{last}", unit=Unit.PERCENT)
    derive(facts, "w.target.high", "same", f"fred.DFEDTARU.{last}", unit=Unit.PERCENT)
    derive(
        *(facts, "w.target.change", "basis_points", f"fred.DFEDTARL.{last}", f"fred.DFEDTARL.{base}"),
        unit=Unit.BASIS_POINTS,
    )
    now = _newest(facts, "nyfed.soma.bills.", before=week.friday + timedelta(days=1))
    then = _newest(facts, "nyfed.soma.bills.", before=now or week.monday)
    derive(
        facts,
        "w.soma.bills",
        "difference",
        f"nyfed.soma.bills.{now}",
        f"nyfed.soma.bills.{then}",
        unit=Unit.USD,
    )


def _labour(facts: Facts) -> None:
    """The newest two months of one vintage: a change across vintages is no change of jobs."""
    months = sorted(day for day in _dates(facts, "fred.PAYEMS."))
    if len(months) > 1 and _follow(months[-2], months[-1]):
        pair = [f"fred.PAYEMS.{day}" for day in (months[-1], months[-2])]
        derive(facts, "w.jobs.change", "difference", *pair, unit=Unit.COUNT)
    else:
        facts.add(missing("w.jobs.change", Unit.COUNT, "two months in a row were not published"))
    newest = max(_dates(facts, "fred.UNRATE."), default=None)
    derive(facts, "w.unemployment", "same", f"fred.UNRATE.{newest}", unit=Unit.RATE)
    vintages = _vintages(facts)
    if months and len(vintages) > 1:
        pair = [f"fred.PAYEMS.{months[-1]}@{vintage}" for vintage in (vintages[-1], vintages[0])]
        derive(facts, "w.jobs.revision", "revision", *pair, unit=Unit.COUNT)


def _vintages(facts: Facts) -> list[str]:
    return sorted({cell.id.partition("@")[2] for cell in facts.under("fred.PAYEMS.") if "@" in cell.id})


def _follow(earlier: date, later: date) -> bool:
    return (earlier.year * 12 + earlier.month + 1) == later.year * 12 + later.month


def _dates(facts: Facts, prefix: str) -> list[date]:
    return [
        date.fromisoformat(cell.id.removeprefix(prefix)) for cell in facts.under(prefix) if "@" not in cell.id
    ]


def _newest(facts: Facts, prefix: str, before: date) -> date | None:
    since = before - timedelta(days=LOOK_BACK_DAYS + 1)
    return max((day for day in _dates(facts, prefix) if since < day < before), default=None)
