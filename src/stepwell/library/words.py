"""Words that carry meaning, for finding passages by them."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]{2,}")
_COMMON = frozenset(
    _WORD.findall(
        "the of and to in is are was were be been it its this that these those for on with as by at from "
        "or an what which who whom whose how why when where did does do has have had not can could would "
        "should there their they he she his her you your we our into than then so but if about over "
        "after before between all any each "
    )
)


def words(text: str) -> list[str]:
    """Lower-case words that carry meaning, plural endings cut so that "steps" finds "step"."""
    found = (word.lower() for word in _WORD.findall(text))
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found if word not in _COMMON
    ]
