"""For the verifier: what is printed, read back into a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from stepwell.review.lexicon import REASONS

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HAN_DAYS = "一二三四五六日"
UP = ("rose", "increased", "slipped", "涨", "上行", "增加", "推迟")
DOWN = ("fell", "decreased", "moved up", "跌", "下行", "减少", "提前")
LEVEL = ("was unchanged", "stayed", "维持", "持平，变动")
DIRECTIONS = dict.fromkeys(UP, 1) | dict.fromkeys(DOWN, -1) | dict.fromkeys(LEVEL, 0)
MOVED = {
    "move": ("rose|increased|slipped|涨|上行|增加|推迟", "fell|decreased|moved up|跌|下行|减少|提前",
             "was unchanged|stayed|维持|持平"),
    "gained": ("gained|上涨", "lost|下跌", "was unchanged|持平"),
    "set": ("was raised|上调", "was cut|下调", "was left unchanged|维持不变"),
    "revised": ("were revised up|上修", "were revised down|下修", "were not revised|未作修正"),
    "spread": ("widened|扩大", "narrowed|收窄", "did not change|不变"),
    "led": ("was ahead|领先", "was behind|落后", "was level|持平"),
    "changed": ("up|上升", "down|下降", "unchanged|不变"),
    "dearer": ("rose|上涨", "fell|下跌", "were unchanged|持平"),
    "hired": ("grew|增加", "shrank|减少", "did not change|持平"),
}  # fmt: skip
"""Per form of a whole move what is said of one up, one down, and of none."""
PLACES = {
    "percent": 2, "rate": 1, "microusd": 6, "basis_points": 0, "percentage_points": 2, "points": 2,
    "total_points": 2, "year": 0,
}  # fmt: skip
SCALES = {
    " trillion": 12, " billion": 9, " million": 6, "万亿": 12, "亿": 8, "万": 4, "": 0,
}  # fmt: skip


def says(text: str, form: str, cell: str, row: Mapping[str, Any]) -> bool:
    if form in ("id", "source"):
        return bool(text == (cell if form == "id" else row["source"].split(", line")[0]))
    if form == "signed" or form in MOVED:
        return _moves(text, form, row)
    match form:
        case "bare" if row["unit"] == "percentage_points":
            return _moves(f"{text} percentage points", "signed", row)
        case "why":
            return _is_reason(text, row["missing"])
        case "speaker":
            return _is_speaker(text, row["speaker"])
        case "date" | "known" | "day" | "known_day" | "on" | "month":
            return _is_day(text, form, row)
        case "verb":
            value = printed(row)
            return DIRECTIONS[text] == (value > 0) - (value < 0)
        case "value" if row["unit"] == "date":
            return _day(text) == date.fromisoformat(row["value"])
        case "value" if row["unit"] == "name":
            return _is_name(text, row["value"])
        case "value":
            return _number(text, row["unit"]) == _asprinted(Decimal(row["value"]), row["unit"], text)
        case "magnitude":
            bare = not text.startswith(("-", "\u2212"))
            return bare and _number(text, row["unit"]) == _asprinted(
                abs(Decimal(row["value"])), row["unit"], text
            )
    return False


def _moves(text: str, form: str, row: Mapping[str, Any]) -> bool:
    """A direction with its size behind it, or that nothing moved."""
    value = printed(row)
    if form == "signed":
        return text.startswith("+") is (value > 0) and says(text.removeprefix("+"), "value", "", row)
    up, down, level = (words.split("|") for words in MOVED[form])
    if value == 0:
        return text in level
    verb = next((one for one in (up if value > 0 else down) if text.startswith(one)), None)
    if verb is None:
        return False
    size = text[len(verb) :].removesuffix("人" if form in ("revised", "hired") else "")
    if verb.isascii():
        lead = " " if row["unit"] in ("percent", "rate") else " by "
        if not size.startswith(lead):
            return False
        size = size[len(lead) :]
    return says(size, "magnitude", "", row)


def _is_name(text: str, name: str) -> bool:
    chinese = {day: "星期" + HAN_DAYS[number] for number, day in enumerate(DAYS)}
    chinese |= {"hawkish": "偏鹰派", "dovish": "偏鸽派", "neutral": "中性"}
    return text in (name, name[:1].upper() + name[1:], chinese.get(name))


def _is_reason(text: str, why: str) -> bool:
    chinese = why
    for english, translated in REASONS.items():
        chinese = chinese.replace(english, translated)
    return text in (why, chinese)


def _is_speaker(text: str, speaker: str) -> bool:
    known = {
        "Broadcom": "博通",
        "economists in a survey": "受访经济学家",
        "analysts": "分析师",
        "strategists": "策略师",
        "market pricing": "市场定价",
        "the text of that week": "该周的一篇文章",
    }
    return text in (speaker, speaker[:1].upper() + speaker[1:], known.get(speaker, speaker))


def printed(row: Mapping[str, Any]) -> Decimal:
    places = 0 if row["unit"] == "microusd" else PLACES.get(row["unit"], 0)
    return Decimal(row["value"]).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)


NEXT_SCALE = {4: 8, 6: 9, 8: 12, 9: 12}
"""The power of ten at which the next larger unit of the same language begins."""
NUMBER = re.compile(r"(\u2212?)(\$?)([0-9][0-9,]*)(\.[0-9]+)?")


def _parts(text: str) -> tuple[Decimal, int, str]:
    """A printed number: its value without the unit behind it, its decimals, and what stands behind it."""
    found = NUMBER.match(text)
    if found is None:
        raise ValueError("no number")
    sign, _, whole, behind = found.groups()
    if whole != f"{int(whole.replace(',', '')):,}" and whole != str(int(whole.replace(",", ""))):
        raise ValueError("digits are grouped in another way")
    value = Decimal(whole.replace(",", "") + (behind or ""))
    return (-value if sign else value), len(behind or ".") - 1, text[found.end() :]


def _scale(rest: str, unit: str, text: str) -> int:
    """The power of ten that the words behind a number stand for. Raises for any other word."""
    dollars = "$" in text[:2]
    if unit == "usd":
        if dollars == rest.endswith("美元"):
            raise ValueError("dollars are said once")
        return SCALES[rest.removesuffix("美元")]
    if unit == "count":
        return SCALES[rest]
    if unit == "microusd":
        if dollars == (rest == "美元"):
            raise ValueError("dollars are said once")
        return 6
    allowed = {
        "rate": ("%",),
        "percent": ("%",),
        "basis_points": (" basis points", " basis point", "个基点"),
        "percentage_points": (" percentage points", "个百分点"),
        "points": ("",),
        "total_points": ("",),
        "year": ("", "年"),
    }
    if rest not in allowed[unit] or dollars:
        raise ValueError("another unit")
    return 0


def _number(text: str, unit: str) -> Decimal:
    value, _, rest = _parts(text)
    return value.scaleb(_scale(rest, unit, text))


def _asprinted(value: Decimal, unit: str, text: str) -> Decimal:
    """The value rounded as the page has to round it; where it says how large a unit it is in, to two places
    of it.
    """
    _, decimals, rest = _parts(text)
    power = _scale(rest, unit, text)
    places = PLACES.get(unit)
    if places is None:
        if unit == "usd" and abs(value) >= Decimal(10) ** NEXT_SCALE.get(power, 99):
            raise ValueError("a larger unit is there")
        places = 2 if power else 0
    elif decimals != places:
        raise ValueError("another number of decimals")
    return value.scaleb(-power).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN).scaleb(power)


def _is_day(text: str, form: str, row: Mapping[str, Any]) -> bool:
    named = {"known": "known_since", "known_day": "known_since", "on": "value"}.get(form, "observed")
    day = date.fromisoformat(row[named])
    if form == "month":
        return text in (f"{MONTHS[day.month - 1]} {day.year}", f"{day.year}年{day.month}月")
    if form in ("date", "known"):
        return _day(text) == day
    return _is_short_day(text, day, form == "on")


def _is_short_day(text: str, day: date, weekday: bool) -> bool:
    """``December 12`` or ``12月12日``, with the weekday where that form has it."""
    english, chinese = f"{MONTHS[day.month - 1]} {day.day}", f"{day.month}月{day.day}日"
    if weekday:
        english = f"{DAYS[day.weekday()]}, {english}"
        chinese += "星期" + HAN_DAYS[day.weekday()]
    return text in (english, chinese)


def _day(text: str) -> date:
    """``Friday, December 12, 2025`` or ``2025年12月12日星期五``. Raises for another weekday."""
    if "年" in text:
        year, _, rest = text.partition("年")
        month, _, rest = rest.partition("月")
        number, _, weekday = rest.partition("日")
        day = date(int(year), int(month), int(number))
        right = weekday == "星期" + HAN_DAYS[day.weekday()]
    else:
        weekday, month_day, year = text.split(", ")
        month, _, number = month_day.partition(" ")
        day = date(int(year), MONTHS.index(month) + 1, int(number))
        right = weekday == DAYS[day.weekday()]
    if not right:
        raise ValueError("another weekday")
    return day
