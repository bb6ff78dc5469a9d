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
)
SIGNS = frozenset("%‰$€£¥+±")


def is_numeral(character: str) -> bool:
    return unicodedata.category(character) in ("Nd", "Nl", "No") or character in HAN_NUMERALS


def untraced(text: str) -> Iterator[str]:
    """What says a number, a direction or a ranking in a text that has no cells in it."""
    yield from (one for one in text if is_numeral(one) or one in SIGNS)
    yield from (one for one in re.findall(r"[A-Za-z]+", text) if one.lower() in WORDS)
    yield from (one for one in HAN_WORDS if one in text)
