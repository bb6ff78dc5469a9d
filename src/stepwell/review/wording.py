"""How a cell reads in English and in Chinese. The only place where a number becomes text, and it rounds once.

A direction is never written by a template or a model: ``verb`` takes it from the value as it is printed, so
that what rounds to nothing is "unchanged". Half to even.
"""

from __future__ import annotations

from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from stepwell.review.facts import Cell, Unit
from stepwell.review.lexicon import REASONS

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
MINUS = "\u2212"
DECIMALS = {
    Unit.PERCENT: 2,
    Unit.RATE: 1,
    Unit.MICROUSD: 0,
    Unit.BASIS_POINTS: 0,
    Unit.PERCENTAGE_POINTS: 2,
    Unit.POINTS: 2,
    Unit.TOTAL_POINTS: 2,
    Unit.YEAR: 0,
}
"""Digits behind the point; dollars and people are printed in the largest fitting unit, with up to two."""
SCALES: dict[Language, tuple[tuple[Decimal, str], ...]] = {
    "en": ((Decimal(10) ** 12, " trillion"), (Decimal(10) ** 9, " billion"), (Decimal(10) ** 6, " million")),
    "zh": ((Decimal(10) ** 12, "万亿"), (Decimal(10) ** 8, "亿"), (Decimal(10) ** 4, "万")),
}
VERBS: dict[Language, dict[str, tuple[str, str, str]]] = {
    "en": {
        "price": ("rose", "fell", "was unchanged"),
        "yield": ("rose", "fell", "was unchanged"),
        "amount": ("increased", "decreased", "was unchanged"),
        "year": ("slipped", "moved up", "stayed"),
    },
    "zh": {
        "price": ("涨", "跌", "持平，变动"),
        "yield": ("上行", "下行", "持平，变动"),
        "amount": ("增加", "减少", "持平，变动"),
        "year": ("推迟", "提前", "维持"),
    },
}
"""Up, down, unchanged."""
MOVES: dict[str, dict[Language, tuple[str, str, str]]] = {
    "gained": {"en": ("gained", "lost", "was unchanged"), "zh": ("上涨", "下跌", "持平")},
    "set": {
        "en": ("was raised", "was cut", "was left unchanged"),
        "zh": ("上调", "下调", "维持不变"),
    },
    "revised": {
        "en": ("were revised up", "were revised down", "were not revised"),
        "zh": ("上修", "下修", "未作修正"),
    },
    "spread": {
        "en": ("widened", "narrowed", "did not change"),
        "zh": ("扩大", "收窄", "不变"),
    },
    "led": {"en": ("was ahead", "was behind", "was level"), "zh": ("领先", "落后", "持平")},
    "changed": {"en": ("up", "down", "unchanged"), "zh": ("上升", "下降", "不变")},
    "dearer": {"en": ("rose", "fell", "were unchanged"), "zh": ("上涨", "下跌", "持平")},
    "hired": {"en": ("grew", "shrank", "did not change"), "zh": ("增加", "减少", "持平")},
}
"""Forms of a whole move beside ``move``: direction and size as one, so that nothing is unchanged by 0."""
SHARES = frozenset({Unit.PERCENT, Unit.RATE})
"""Units that follow a verb as they are: it "fell 2%", and "by 4 basis points"."""
PEOPLE = frozenset({"revised", "hired"})
KIND = {
    Unit.PERCENT: "price",
    Unit.POINTS: "price",
    Unit.TOTAL_POINTS: "price",
    Unit.BASIS_POINTS: "yield",
    Unit.PERCENTAGE_POINTS: "yield",
    Unit.YEAR: "year",
}
FULL: dict[Language, str] = {"en": "EEEE, MMMM d, y", "zh": "y年M月d日EEEE"}
SHORT: dict[Language, str] = {"en": "MMMM d", "zh": "M月d日"}
"""Of a day in the year of the week, which the head of the page says."""
LOCALES: dict[Language, str] = {"en": "en_US", "zh": "zh_CN"}
NAMES: dict[str, str] = {"hawkish": "偏鹰派", "dovish": "偏鸽派", "neutral": "中性"}
"""Words that a table may have as a value, in Chinese."""
SPEAKERS: dict[str, str] = {
    "Broadcom": "博通",
    "economists in a survey": "受访经济学家",
    "analysts": "分析师",
    "strategists": "策略师",
    "market pricing": "市场定价",
    "the text of that week": "该周的一篇文章",
}
"""Speakers of the sample in Chinese; any other one is printed as it is written."""
WEEKDAYS = {
    "Monday": "星期一",
    "Tuesday": "星期二",
    "Wednesday": "星期三",
    "Thursday": "星期四",
    "Friday": "星期五",
    "Saturday": "星期六",
    "Sunday": "星期日",
}


def word(cell: Cell, form: str, language: Language) -> str:
    """A cell in one of the forms of ``sentences.toml``. Raises ``ValueError`` for a form it has not."""
    if form in ("move", "signed", *MOVES):
        return _move(cell, form, language)
    match form:
        case "bare" if cell.unit is Unit.PERCENTAGE_POINTS:
            return _move(cell, "signed", "en").partition(" ")[0]
        case "value":
            return _value(cell, language)
        case "magnitude":
            return _number(abs(cell.number), cell.unit, language)
        case "verb":
            return _verb(cell, language)
        case "date" | "known" | "day" | "known_day" | "month" | "on":
            return _day_of(cell, form, language)
        case "speaker" if cell.speaker:
            return cell.speaker if language == "en" else SPEAKERS.get(cell.speaker, cell.speaker)
        case "id":
            return cell.id
        case "why" if cell.missing:
            return cell.missing if language == "en" else reason_in_chinese(cell.missing)
        case "source" if cell.source:
            return cell.source.partition(", line")[0]
    raise ValueError(f"{cell.id} has no form {form}")


DAYS: dict[str, tuple[str, dict[Language, str]]] = {
    "date": ("observed", FULL),
    "known": ("known_since", FULL),
    "day": ("observed", SHORT),
    "known_day": ("known_since", SHORT),
    "month": ("observed", {"en": "MMMM y", "zh": "y年M月"}),
    "on": ("value", {"en": "EEEE, MMMM d", "zh": "M月d日EEEE"}),
}
"""Forms of a day: whose, and how it is written."""


def _day_of(cell: Cell, form: str, language: Language) -> str:
    name, patterns = DAYS[form]
    day = getattr(cell, name)
    if not isinstance(day, date):
        raise ValueError(f"{cell.id} has no form {form}")
    return _formatted(day, patterns[language], language)


def reason_in_chinese(text: str) -> str:
    """Why a value is missing; ids and names of sources stay."""
    for english, chinese in REASONS.items():
        text = text.replace(english, chinese)
    return text


def printed(cell: Cell) -> Decimal:
    """The value as it is rounded for print, in its own unit."""
    return _rounded(cell.number, DECIMALS.get(cell.unit, 0))


def _value(cell: Cell, language: Language) -> str:
    if isinstance(cell.value, date):
        return _date(cell.value, language)
    if isinstance(cell.value, str):
        return (WEEKDAYS | NAMES).get(cell.value, cell.value) if language == "zh" else cell.value
    sign = MINUS if printed(cell) < 0 else ""
    return sign + _number(abs(cell.number), cell.unit, language)


def _number(value: Decimal, unit: Unit, language: Language) -> str:
    if unit is Unit.YEAR:
        return f"{value:.0f}" + ("年" if language == "zh" else "")
    if unit is Unit.MICROUSD:
        dollars = f"{value.scaleb(-6):,.6f}"
        return f"${dollars}" if language == "en" else f"{dollars}美元"
    if unit in (Unit.USD, Unit.COUNT):
        return _amount(value, unit, language)
    text = _grouped(_rounded(value, DECIMALS[unit]), DECIMALS[unit], language)
    if unit in (Unit.PERCENT, Unit.RATE):
        return text + "%"
    if unit is Unit.BASIS_POINTS:
        return text + {"en": " basis point" + ("" if text == "1" else "s"), "zh": "个基点"}[language]
    if unit is Unit.PERCENTAGE_POINTS:
        return text + {"en": " percentage points", "zh": "个百分点"}[language]
    return text


def _amount(value: Decimal, unit: Unit, language: Language) -> str:
    """In the largest unit of the language that fits; rounded from the value itself."""
    scale, name = next(((size, name) for size, name in SCALES[language] if value >= size), (Decimal(1), ""))
    if unit is Unit.COUNT and language == "en":
        scale, name = Decimal(1), ""
    rounded = _rounded(value / scale, 2 if name else 0)
    digits = _grouped(rounded, 2 if name else 0, language)
    text = digits.rstrip("0").rstrip(".") if "." in digits else digits
    if unit is Unit.USD:
        return f"${text}{name}" if language == "en" else f"{text}{name}美元"
    return text + name


def _verb(cell: Cell, language: Language) -> str:
    up, down, unchanged = VERBS[language][KIND.get(cell.unit, "amount")]
    value = printed(cell)
    return unchanged if value == 0 else up if value > 0 else down


def _move(cell: Cell, form: str, language: Language) -> str:
    """``fell by 4 basis points``, ``上行4个基点``; one word for nothing. ``signed``: ``+4``."""
    if form == "signed":
        return ("+" if printed(cell) > 0 else "") + _value(cell, language)
    verbs = MOVES[form] if form in MOVES else {x: VERBS[x][KIND.get(cell.unit, "amount")] for x in LANGUAGES}
    up, down, level = verbs[language]
    value = printed(cell)
    if value == 0:
        return level.partition("，")[0]
    size = _number(abs(cell.number), cell.unit, language)
    if language == "zh":
        return (up if value > 0 else down) + size + ("人" if form in PEOPLE else "")
    return f"{up if value > 0 else down} {'' if cell.unit in SHARES else 'by '}{size}"


def _date(day: date, language: Language) -> str:
    return _formatted(day, FULL[language], language)


def _formatted(day: date, pattern: str, language: Language) -> str:
    from babel.dates import format_date

    return format_date(day, pattern, locale=LOCALES[language])


def _grouped(value: Decimal, places: int, language: Language) -> str:
    """Chinese groups no thousands: it has 万 and 亿."""
    return f"{value:,.{places}f}" if language == "en" else f"{value:.{places}f}"


def _rounded(value: Decimal, places: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
