"""A judge of a week's text that knows neither how it was written nor by whom: numbers, directions, dates.

It is lenient: a number is right if any figure of the week prints like it, whatever it is said of; a direction
is judged only where a clause names one thing that moved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

from stepwell.review.facts import Facts, Unit
from stepwell.review.outline import SECTIONS, sayable, unsaid
from stepwell.review.wording import printed as printed_value

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NAMES = re.compile(r"S&P 500|Russell 2000|2s10s|\b8-K\b|\b10-[QK]\b|\b(?:two|2|10|30)-year", re.IGNORECASE)
ISO = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
LONG = re.compile(rf"(?:({'|'.join(DAYS)}), )?({'|'.join(MONTHS)}) (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})")
SHORT = re.compile(
    rf"(?:({'|'.join(DAYS)}), )?({'|'.join(MONTHS)}) (\d{{1,2}})(?:st|nd|rd|th)?\b(?!,? \d{{4}})"
)
MONTH_YEAR = re.compile(rf"({'|'.join(MONTHS)}) (\d{{4}})")
NUMBER = re.compile(
    r"\$?(\d[\d,]*(?:\.\d+)?)\s*(trillion|billion|million|thousand|%|percent)?", re.IGNORECASE
)
SCALES = {"trillion": 12, "billion": 9, "million": 6, "thousand": 3}
UP = re.compile(r"\b(rose|gained|climbed|increased|advanced|rallied|jumped|up|higher|grew|risen)\b", re.I)
DOWN = re.compile(r"\b(fell|lost|slid|declined|decreased|dropped|retreated|down|lower|fallen)\b", re.I)
UNMOVED = ("unchanged", "not revised", "did not change")
MOVED = {
    "w.IXIC.change": r"\bNasdaq\b",
    "w.SPX.change": r"S&P 500",
    "w.DJI.change": r"Dow Jones",
    "w.RUT.change": r"Russell 2000",
    "w.SOX.change": r"Semiconductor",
    "w.curve.2Y": r"\b(?:two|2)-year",
    "w.curve.10Y": r"\b10-year",
    "w.curve.30Y": r"\b30-year",
}


@dataclass(slots=True)
class Judged:
    """What is in a text. ``must``: facts that have to be said; ``said``: those that are."""

    numbers: int = 0
    wrong_numbers: int = 0
    directions: int = 0
    wrong_directions: int = 0
    dates: int = 0
    wrong_dates: int = 0
    must: int = 0
    said: int = 0

    def add(self, other: Judged) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def must_of(facts: Facts) -> list[str]:
    """What a review of these facts has to say: of every sentence that can be said, its facts."""
    found = (cell for section in SECTIONS for one in sayable(facts, section) for cell in one.must)
    return list(dict.fromkeys(found))


def judge(text: str, facts: Facts) -> Judged:
    """A text in English."""
    judged = Judged()
    rest = _dates(text, facts, judged)
    rest = NAMES.sub(" ", rest)
    values = _values(facts)
    printed = [(found[1], (found[2] or "").lower()) for found in NUMBER.finditer(rest)]
    for digits, scale in printed:
        judged.numbers += 1
        judged.wrong_numbers += not any(_prints(value, digits, scale) for value in values)
    _directions(text, facts, judged)
    wanted = must_of(facts)
    judged.must = len(wanted)
    judged.said = sum(_is_said(facts, name, text, printed) for name in wanted)
    return judged


def _is_said(facts: Facts, name: str, text: str, printed: Sequence[tuple[str, str]]) -> bool:
    value = facts[name].value
    if isinstance(value, Decimal):
        if facts[name].unit is Unit.YEAR:
            return str(value) in text
        return any(_prints(abs(value), digits, scale) for digits, scale in printed) or (
            printed_value(facts[name]) == 0 and any(one in text for one in UNMOVED)
        )
    return True


def _values(facts: Facts) -> list[Decimal]:
    absent = {cell.id for cell in unsaid(facts)}
    return [
        abs(cell.value)
        for cell in facts.cells.values()
        if isinstance(cell.value, Decimal) and cell.id not in absent
    ]


def _prints(value: Decimal, digits: str, scale: str) -> bool:
    """Whether the value, rounded or cut to as many decimals, is the printed one."""
    shown = Decimal(digits.replace(",", ""))
    size = value.scaleb(-SCALES.get(scale, 0))
    places = Decimal(1).scaleb(-len(digits.partition(".")[2]))
    return shown in (size.quantize(places, rounding=way) for way in (ROUND_HALF_UP, ROUND_DOWN)) or (
        abs(size - shown) <= places / 2
    )


def _dates(text: str, facts: Facts, judged: Judged) -> str:
    """Count dates, and give the text without them."""
    known = {cell.observed for cell in facts.cells.values()} | {
        cell.value for cell in facts.cells.values() if isinstance(cell.value, date)
    }
    known |= {cell.known_since for cell in facts.cells.values()}
    months = {(day.year, day.month) for day in known if day is not None}

    def dated(year: str, month: int, day: str, weekday: str | None) -> str:
        judged.dates += 1
        try:
            found = date(int(year), month, int(day))
        except ValueError:
            judged.wrong_dates += 1
            return " "
        right = found in known and (weekday is None or DAYS[found.weekday()] == weekday)
        judged.wrong_dates += not right
        return " "

    def short(found: re.Match[str]) -> str:
        judged.dates += 1
        days = [
            day
            for day in known
            if day and (day.month, day.day) == (MONTHS.index(found[2]) + 1, int(found[3]))
        ]
        right = any(found[1] is None or DAYS[day.weekday()] == found[1] for day in days)
        judged.wrong_dates += not right
        return " "

    def month_of(found: re.Match[str]) -> str:
        judged.dates += 1
        judged.wrong_dates += (int(found[2]), MONTHS.index(found[1]) + 1) not in months
        return " "

    rest = ISO.sub(lambda found: dated(found[1], int(found[2]), found[3], None), text)
    rest = LONG.sub(lambda found: dated(found[4], MONTHS.index(found[2]) + 1, found[3], found[1]), rest)
    return SHORT.sub(short, MONTH_YEAR.sub(month_of, rest))


def _directions(text: str, facts: Facts, judged: Judged) -> None:
    for clause in re.split(r"[.;\n](?:\s|$)|, while |, and the ", text):
        named = [cell for cell, pattern in MOVED.items() if re.search(pattern, clause)]
        up, down = bool(UP.search(clause)), bool(DOWN.search(clause))
        cell = facts.get(named[0]) if len(named) == 1 else None
        if cell is None or up is down:
            continue
        judged.directions += 1
        judged.wrong_directions += (cell.number > 0) is not up
