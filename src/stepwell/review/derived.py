"""The cells that a review is written from, out of those that were read.

Ids that begin with ``w.`` are derived for the week and have no date in them, so that templates name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

from stepwell.review.checks import split_between
from stepwell.review.facts import Cell, Derivation, Facts, OwnText, Unit, missing
from stepwell.review.formulas import derive
from stepwell.review.sources.edgar import FORMS
from stepwell.review.sources.fred import RELEASES as DATED
from stepwell.review.sources.prices import INDEXES
from stepwell.review.week import Week

CURVE = ("2Y", "10Y", "30Y")
RELEASES = ("payrolls", "cpi", "claims", "retail")
"""Releases of which a document may give ``evt.NAME.actual`` and, as expected, ``evt.NAME.consensus``."""
LOOK_BACK_DAYS = 10
"""How far back a level may lie that is compared with: over the longest run of holidays."""
AHEAD_DAYS = 7
NAMED_PARTS = 4
"""Of an index, in a sentence: those that moved it most."""
GAPS = (("DJI", "SPX"), ("SOX", "SPX"))
"""Indexes that are compared with another one."""


def derive_week(facts: Facts, week: Week) -> None:
    """Every cell that a sentence, a chart or a check of the week may name."""
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
    for index in INDEXES:
        ends = [f"tri.{index}.close.{day}" for day in (last, base)]
        if all(map(facts.get, ends)):
            derive(facts, f"w.{index}.total", "change_percent", *ends)
        _contributions(facts, index, f"parts.{index}.{base}.{last}.")
    for index, other in GAPS:
        if all(facts.get(f"w.{one}.change") for one in (index, other)):
            changes = [f"w.{one}.change" for one in (index, other)]
            derive(facts, f"w.{index}.gap", "points_of_percent", *changes)
    _days(facts, week)
    _curve(facts, week)
    _cash(facts, week)
    _money(facts, week)
    _policy(facts, week)
    _labour(facts, week)
    _calendar(facts, week)
    _filings(facts, week)
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


def _contributions(facts: Facts, index: str, prefix: str) -> None:
    """How much of an index's change each part made, and what all of them leave: in percentage points."""
    parts = [cell.id.removesuffix(".weight") for cell in facts.under(prefix) if cell.id.endswith(".weight")]
    if not parts or facts.get(f"w.{index}.change") is None:
        return
    made = []
    for number, part in enumerate(parts):
        one = f"w.{index}.part.{number}"
        derive(facts, f"{one}.change", "change_percent", f"{part}.last", f"{part}.base")
        made.append(derive(facts, one, "contribution_points", f"{part}.weight", f"{one}.change"))
    if any(cell.missing for cell in made):
        return
    derive(facts, f"w.{index}.points", "same", f"w.{index}.change", unit=Unit.PERCENTAGE_POINTS)
    derive(facts, f"w.{index}.residual", "residual", f"w.{index}.points", *(cell.id for cell in made))
    order = sorted(range(len(made)), key=lambda number: (-abs(made[number].number), number))
    named, others = sorted(order[:NAMED_PARTS]), sorted(order[NAMED_PARTS:])
    rest = f"w.{index}.others" if others else ""
    if rest:
        derive(facts, rest, "sum", *(made[number].id for number in others))
    facts.texts.append(_parts_text(index, [(f"name.{parts[at]}", made[at].id) for at in named], rest))


def _parts_text(index: str, named: Sequence[tuple[str, str]], rest: str) -> OwnText:
    english = ", ".join(f"{{{name}}} {{{made}:bare}}" for name, made in named)
    chinese = "，".join(f"{{{name}}}{{{made}:signed}}" for name, made in named)
    others = (f", the other parts {{{rest}:bare}}", f"，其余部分{{{rest}:signed}}") if rest else ("", "")
    residual, whole = f"w.{index}.residual", f"{{name.{index}}}"
    return OwnText(
        f"parts.{index}",
        "indexes",
        tuple(made for _, made in named),
        f"In percentage points, the change of {whole} comes from {english}{others[0]}; "
        f"the weights leave {{{residual}:bare}} unexplained.",
        f"{whole}变动的构成：{chinese}{others[1]}；按权重未能解释的部分为{{{residual}:signed}}。",
    )


def _days(facts: Facts, week: Week) -> None:
    """The last session and the one before the week, as days of which some index has a level."""
    for name, day in (("week.last", week.last()), ("week.base", week.base())):
        levels = [one for index in INDEXES if facts.get(one := f"idx.{index}.close.{day}")]
        if not levels:
            facts.add(missing(name, Unit.DATE, "there is no level of that day"))
            continue
        how = Derivation("session", 1, (levels[0],))
        facts.add(Cell(name, Unit.DATE, day, observed=day, source="calendar of the exchange", derivation=how))


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
    for name, day in (("", last), (".base", base)):
        derive(facts, f"w.curve.2s10s{name}", "basis_points", f"curve.10Y.{day}", f"curve.2Y.{day}")
    derive(facts, "w.curve.2s10s.change", "difference", "w.curve.2s10s", "w.curve.2s10s.base")


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


def _money(facts: Facts, week: Week) -> None:
    """Overnight rates, and what the desk lent and took in on its last day of the week."""
    for name, prefixes in (("sofr", ("nyfed.sofr.", "fred.SOFR.")), ("effr", ("nyfed.effr.",))):
        for prefix in prefixes:
            if (last := _newest(facts, prefix, before=week.friday + timedelta(days=1))) is not None:
                derive(facts, f"w.{name}", "same", f"{prefix}{last}")
                break
    for kind in ("repo", "rrp"):
        prefix = f"nyfed.{kind}."
        if (last := _newest(facts, prefix, before=week.friday + timedelta(days=1))) is not None:
            derive(facts, f"w.{kind}", "sum", *(cell.id for cell in facts.under(f"{prefix}{last}.")))


def _labour(facts: Facts, week: Week) -> None:
    """The newest two months of one vintage: a change across vintages is no change of jobs."""
    months = sorted(set(_dates(facts, "fred.PAYEMS.")))
    if len(months) > 1 and _follow(months[-2], months[-1]):
        pair = [f"fred.PAYEMS.{day}" for day in (months[-1], months[-2])]
        derive(facts, "w.jobs.change", "difference", *pair, unit=Unit.COUNT)
    else:
        facts.add(missing("w.jobs.change", Unit.COUNT, "two months in a row were not published"))
    newest = max(_dates(facts, "fred.UNRATE."), default=None)
    derive(facts, "w.unemployment", "same", f"fred.UNRATE.{newest}", unit=Unit.RATE)
    _revisions(facts, week)
    cpi = {day: f"bls.cpi.{day}" for day in _dates(facts, "bls.cpi.")}
    last = max((day for day in cpi if day.replace(year=day.year - 1) in cpi), default=None)
    if last is not None:  # unadjusted, as the headline is
        pair = [cpi[last], cpi[last.replace(year=last.year - 1)]]
        derive(facts, "w.cpi.year", "change_percent", *pair, unit=Unit.RATE)


def _revisions(facts: Facts, week: Week) -> None:
    """Of payrolls: by how much the week changed a month, and how far one is from its first print."""
    prints = _prints(facts)
    before, end = week.before().friday, week.friday
    revised = {month: (_as_of(known, before), _as_of(known, end)) for month, known in prints.items()}
    both = [month for month, (then, now) in revised.items() if then and now]
    if both:
        then, now = revised[max(both)]
        derive(facts, "w.jobs.revision", "revision", str(now), str(then), unit=Unit.COUNT)
    twice = [month for month, known in prints.items() if len(known) > 1 and _is_first(facts, known)]
    if twice:
        known = prints[max(twice)]
        first, now = known[min(known)], str(_as_of(known, end))
        derive(facts, "w.jobs.first", "same", first)
        derive(facts, "w.jobs.since_first", "revision", now, first, unit=Unit.COUNT)


def _prints(facts: Facts) -> dict[date, dict[date, str]]:
    """Per month the ids of its published levels by the day since which each was known."""
    found: dict[date, dict[date, str]] = {}
    for cell in facts.under("fred.PAYEMS."):
        month, _, vintage = cell.id.removeprefix("fred.PAYEMS.").partition("@")
        if vintage:
            found.setdefault(date.fromisoformat(month), {})[date.fromisoformat(vintage)] = cell.id
    return found


def _as_of(known: dict[date, str], day: date) -> str | None:
    newest = max((one for one in known if one <= day), default=None)
    return None if newest is None else known[newest]


def _is_first(facts: Facts, known: dict[date, str]) -> bool:
    """Whether the vintages are the days of prints, and not the days for which a reply was asked."""
    return all(facts[name].known_since == day for day, name in known.items())


def _calendar(facts: Facts, week: Week) -> None:
    """The day of each release in the week ahead."""
    since, until = week.friday + timedelta(days=1), week.friday + timedelta(days=AHEAD_DAYS)
    for name in DATED:
        days = [day for day in _dates(facts, f"cal.{name}.") if since <= day <= until]
        if days:
            _named(facts, f"w.cal.{name}", facts[f"cal.{name}.{min(days)}"])


def _filings(facts: Facts, week: Week) -> None:
    """A sentence for each report that a company filed in the week."""
    for cell in list(facts.under("edgar.")):
        _, company, form, accession = cell.id.split(".", 3)
        if form in FORMS and cell.observed is not None and week.monday <= cell.observed <= week.friday:
            name, filed = f"{{name.{company}}}", f"{{form.{company}.{accession}}}"
            english = f"{name} filed form {filed} with the SEC on {{{cell.id}:on}}."
            chinese = f"{name}于{{{cell.id}:on}}向美国证交会提交{filed}报告。"
            one = f"filing.{company}.{accession}"
            facts.texts.append(OwnText(one, "events", (cell.id,), english, chinese))


def _named(facts: Facts, id: str, cell: Cell) -> None:
    """The same day under a name that a template can say."""
    how = Derivation("same", 1, (cell.id,))
    facts.add(replace(cell, id=id, place=None, derivation=how))


def _follow(earlier: date, later: date) -> bool:
    return (earlier.year * 12 + earlier.month + 1) == later.year * 12 + later.month


def _dates(facts: Facts, prefix: str) -> list[date]:
    return [
        date.fromisoformat(cell.id.removeprefix(prefix)[:10])
        for cell in facts.under(prefix)
        if "@" not in cell.id
    ]


def _newest(facts: Facts, prefix: str, before: date) -> date | None:
    since = before - timedelta(days=LOOK_BACK_DAYS + 1)
    return max((day for day in _dates(facts, prefix) if since < day < before), default=None)
