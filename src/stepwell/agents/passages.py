"""What readers of ``stepwell run`` are given: passages of the documents, found as in the library (BM25)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.agents.pointing import with_sentences
from stepwell.agents.session import Reading
from stepwell.library.documents import Document, heading_of
from stepwell.library.passages import split_passages
from stepwell.library.search import count_words, search
from stepwell.library.sentences import nearest_sentences, weights_of

PASSAGES = 2
"""That a reader is given at once, of about 200 words each: they fit the context of a small model."""
MAX_READERS = 8
"""With the very same task; those after them begin at the best passages again."""
SENTENCES = 4
"""That a reader may point at: those of its passages that are nearest to the task."""
PASSAGE_CHARS = 600
"""Of the passage that is shown below an answer."""


def reader_of(documents: Sequence[Document], *, points: bool = False) -> Reading:
    """The passages nearest to a task, in the order of the text; readers with the very same task are given the
    next nearest in turn. Where no word is shared, the documents from their beginning.

    ``points``: below the passages stand the sentences that a reader may point at.
    """
    weights = weights_of([one for document in documents for one in split_passages(document.text)])
    counted = [count_words(document.text) for document in documents]
    leading = [(file, *span) for file, one in enumerate(counted) for span in one.spans[::2]]

    def read(task: str, number: int) -> str:
        found = search(counted, task, PASSAGES * MAX_READERS)
        places = [(one.file, one.start, one.end) for one in found] or leading[: PASSAGES * MAX_READERS]
        parts = [places[at : at + PASSAGES] for at in range(0, len(places), PASSAGES)]
        if not parts:
            return ""
        chosen = sorted(parts[number % len(parts)])
        shown = "\n\n".join(_shown(place) for place in chosen)
        if not points:
            return shown
        text = "\n\n".join(documents[file].text[start:end] for file, start, end in chosen)
        return with_sentences(shown, nearest_sentences(text, task, weights, SENTENCES))

    def _shown(place: tuple[int, int, int]) -> str:
        file, start, end = place
        passage = documents[file].text[start:end].strip()
        return passage if len(documents) == 1 else f"[{documents[file].name}]\n{passage}"

    return read


@dataclass(frozen=True, slots=True)
class RestingPassage:
    """Where a sentence stands."""

    document: str
    heading: str
    """The last one above it; empty where there is none."""
    text: str
    """Its paragraph on one line, or the part of it around the sentence."""

    @property
    def place(self) -> str:
        return f"{self.document}, {self.heading}" if self.heading else self.document


def rests_on(documents: Sequence[Document], answer: str) -> RestingPassage | None:
    """The passage that an answer is a sentence of; None for one that is worded in another way."""
    sentence = " ".join(answer.split())
    for document in documents if sentence else ():
        heading = ""
        for paragraph in document.text.split("\n\n"):
            lines = paragraph.strip().splitlines()
            heads = [head for line in lines if (head := heading_of(line.strip()))]
            heading = heads[-1] if heads else heading
            text = " ".join(" ".join(line for line in lines if not heading_of(line.strip())).split())
            if (at := text.find(sentence)) >= 0:
                return RestingPassage(document.name, heading, _around(text, at, at + len(sentence)))
    return None


def _around(text: str, start: int, end: int) -> str:
    """The text, or what stands around a part of a long one, cut between words."""
    if len(text) <= PASSAGE_CHARS:
        return text
    room = max(0, PASSAGE_CHARS - (end - start)) // 2
    low = text.rfind(" ", 0, max(0, start - room)) + 1
    high = text.find(" ", end + room)
    return f"{'... ' if low else ''}{text[low : high if high > 0 else None]}{' ...' if high > 0 else ''}"
