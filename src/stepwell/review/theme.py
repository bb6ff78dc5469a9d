"""A theme in depth from a document of one's own: sentences of it, word for word, each a cell with its place.

Nothing is reworded, so that no figure of a document can become another one on the way. Which sentences stand
in the review is chosen by how much of the document's own vocabulary they carry (Luhn, "The automatic creation
of literature abstracts", 1958), or by the crew's analyst from those.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.library.confined import extract_confined
from stepwell.library.documents import DEFAULT_LIMITS
from stepwell.library.passages import split_passages
from stepwell.library.sentences import nearness, sentences_of, weights_of
from stepwell.library.words import words
from stepwell.review.facts import Cell, CellPlace, Facts, Origin, Unit

QUOTES = 6
"""Sentences that a theme has in the review."""
CANDIDATES = 12
"""That the analyst chooses from."""
FEWEST_WORDS = 6
TOPIC_WORDS = 12
_HAN_END = re.compile(r"(?<=[。！？])")


@dataclass(frozen=True, slots=True)
class Theme:
    """A document as a theme. ``sentences`` are in its order, ``ranked`` numbers of them, the best first."""

    title: str
    file: str
    sha256: str
    sentences: Sequence[str]
    ranked: Sequence[int]

    @property
    def candidates(self) -> list[int]:
        """The best, in the order of the document."""
        return sorted(self.ranked[:CANDIDATES])


def read_theme(path: Path) -> Theme:
    """A PDF, Markdown, HTML or text file. Raises ``BadInput``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"--theme {path} cannot be read: {error.strerror}") from error
    document = extract_confined(data, path.name, DEFAULT_LIMITS)
    pieces = [piece.strip() for one in sentences_of(document.text) for piece in _HAN_END.split(one)]
    found = [one for one in dict.fromkeys(pieces) if len(words(one)) >= FEWEST_WORDS]
    if not found:
        raise BadInput(
            f"--theme {path} has no sentence of {FEWEST_WORDS} words or more: nothing can be quoted"
        )
    common = Counter(word for one in found for word in set(words(one)))
    topic = " ".join([document.title, *(word for word, _ in common.most_common(TOPIC_WORDS))])
    weights = weights_of(split_passages(document.text))
    order = sorted(range(len(found)), key=lambda number: (-nearness(found[number], topic, weights), number))
    return Theme(document.title, path.name, hashlib.sha256(data).hexdigest(), found, order)


def add_theme(facts: Facts, theme: Theme, chosen: Sequence[int]) -> None:
    """The chosen sentences as cells of the document, in its order."""
    kept = {
        "title": theme.title,
        "file": theme.file,
        "sha256": theme.sha256,
        "sentences": [theme.sentences[number] for number in sorted(chosen)],
    }
    raw = facts.keep("theme.json", json.dumps(kept, ensure_ascii=False).encode())

    def cell(name: str, value: str, path: str) -> None:
        place = CellPlace(raw, "json", path)
        facts.add(Cell(name, Unit.NAME, value, None, None, theme.file, Origin.DOCUMENT, place))

    for name in ("title", "file", "sha256"):
        cell(f"theme.{name}", str(kept[name]), f"/{name}")
    for number, text in enumerate(kept["sentences"]):
        cell(f"theme.quote.{number + 1}", text, f"/sentences/{number}")
