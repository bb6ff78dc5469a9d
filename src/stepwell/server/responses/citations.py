"""Where an answer repeats what was found for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

RUN_WORDS = 4
"""So many words in a row are a citation."""
_WORD = re.compile(r"\w+")


def citations(text: str, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where an answer repeats what was found: for each file the first place, at the end of ``RUN_WORDS`` or
    more words in a row (all words of a shorter answer) that stand in one of its passages. In the order of
    the text."""
    spans = [(match.group().casefold(), match.end()) for match in _WORD.finditer(text)]
    size = min(RUN_WORDS, len(spans))
    if not size:
        return []
    answer = [word for word, _ in spans]
    found: list[dict[str, Any]] = []
    cited: set[str] = set()
    for result in (result for call in calls for result in call["results"]):
        words = [match.group().casefold() for match in _WORD.finditer(result["text"])]
        runs = {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
        first = next(
            (at for at in range(len(answer) - size + 1) if tuple(answer[at : at + size]) in runs), None
        )
        if first is None or result["file_id"] in cited:
            continue
        last = first
        while tuple(answer[last + 1 : last + 1 + size]) in runs:
            last += 1
        cited.add(result["file_id"])
        found.append(
            {
                "type": "file_citation",
                "file_id": result["file_id"],
                "filename": result["filename"],
                "index": spans[last + size - 1][1],
            }
        )
    return sorted(found, key=lambda one: one["index"])
