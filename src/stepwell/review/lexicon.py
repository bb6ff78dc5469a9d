"""Words and signs that say a number, a direction or a ranking: none may stand outside a cell.

Data that the verifier and the crew share: the crew refuses early what the verifier would refuse in the end.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

HAN_NUMERALS = frozenset("〇零一二两三四五六七八九十百千万亿兆半倍几")
WORDS = frozenset(
    """
    one two three four five six seven eight nine ten eleven twelve dozen
    hundred thousand million billion trillion
    half third quarter twice double doubled triple tripled halved first second once
    rose fell gained lost climbed slid jumped dropped declined increased decreased advanced retreated slipped
    higher lower highest lowest best worst most least more less fewer above below
    record unchanged percent basis
    rise rises risen rising fall falls fallen falling gain gains gaining lose loses losing climbs sank sinks
    surge surged surges soar soared soars plunge plunged plunges tumble tumbled tumbles rally
    rallied drop drops decline declines increase increases decrease decreases grew grows shrank shrinks raised
    raises cut cuts
    stronger weaker worse better larger largest smaller smallest bigger biggest exceeded exceeds outperformed
    underperformed rebounded widened narrowed ahead behind
    """.split()  # noqa: SIM905
)
HAN_WORDS = (
    *(
        "涨",
        "跌",
        "上升",
        "下降",
        "上行",
        "下行",
        "增加",
        "减少",
        "翻倍",
        "新高",
        "新低",
        "最高",
        "最低",
        "首次",
    ),
    *("高于", "低于", "超过", "不足", "推迟", "提前", "持平"),
    *(
        "上调",
        "下调",
        "上修",
        "下修",
        "回落",
        "反弹",
        "攀升",
        "飙升",
        "走高",
        "走低",
        "扩大",
        "收窄",
        "领先",
        "落后",
        "创纪录",
        "最大",
        "最小",
    ),
)
REASONS = {
    "there is no such figure": "无此数据",
    " has no value for ": "未公布数值，日期为",
    "it was not known by the end of the week": "截至周末尚未公布",
    "there is no level of that day": "当日无点位",
    "two months in a row were not published": "缺少连续两个月的数据",
    "what was expected has no date before that of the release": "预期数据并非发布之前所记",
    "as after a split": "之比如同拆股",
    " is to ": "与",
    " divides by zero": "的除数为零",
}
"""Why a value is missing, in Chinese."""
SIGNS = frozenset("%‰$€£¥+±")


SPEECH = frozenset(
    """
    according said says say told reported reports report announced source sources
    analyst analysts expert experts
    economist economists trader traders investor investors
    because due amid driven fueled fuelled thanks reflecting reflects signalling suggests suggesting indicates
    likely unlikely expected expects expect forecast forecasts predicted predicts should must
    com www http https
    """.split()  # noqa: SIM905
)
"""Who is said to have said it, why it is said to have happened, and what is said to come."""


def is_numeral(character: str) -> bool:
    return unicodedata.category(character) in ("Nd", "Nl", "No") or character in HAN_NUMERALS


def untraced(text: str) -> Iterator[str]:
    """What says a number, a direction or a ranking in a text that has no cells in it."""
    yield from (one for one in text if is_numeral(one) or one in SIGNS)
    yield from (one for one in re.findall(r"[A-Za-z]+", text) if one.lower() in WORDS)
    yield from (one for one in HAN_WORDS if one in text)


def invented(text: str, given: str) -> Iterator[str]:
    """What a reworded sentence says that its facts do not: a name, a speaker, a cause, a forecast.

    ``given`` is the sentence as it was handed over: its own words are its own.
    """
    known = {one.lower() for one in re.findall(r"[A-Za-z]+", given)}
    bare = re.sub(r"\{[^}]{0,200}\}", "{}", text)
    for found in re.finditer(r"[A-Za-z]+", bare):
        one = found[0]
        begins = not bare[: found.start()].strip(" \"'(")
        if one.lower() not in known and (one.lower() in SPEECH or (one[0].isupper() and not begins)):
            yield one
