"""Questions about the example document, and what a right answer to each has in it."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLE: Mapping[str, tuple[str, ...]] = {
    "Who ordered the queen's stepwell at Patan, and in memory of whom?": ("Queen Udayamati", "Bhima I"),
    "What held the walls of the trench apart?": ("Each frame holds the two walls apart",),
    "Which parasite did British officers find in the water of stepwells?": ("guinea worm",),
    "Which river flooded the queen's stepwell and filled it with silt?": ("Saraswati",),
    "How many entrances does a vijaya have?": ("vijaya* has four",),
}
"""Each customer begins with one of the first three; the other two follow."""
GENERAL = (
    "What is the most important point of this document?",
    "What does this document say about its subject's history?",
    "What does this document recommend?",
)
"""Asked of any other document, where the person has no question, and after the person's own."""


def is_right(question: str, answer: str) -> bool | None:
    """Whether an answer is right; None for a question without a known answer."""
    parts = EXAMPLE.get(question)
    return None if parts is None else all(part in answer for part in parts)
