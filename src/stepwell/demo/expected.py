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
"""The first three are those that the demo asks; all five are tried by the tests."""


def marks_of(answers: Mapping[str, str], questions: Mapping[str, str]) -> list[bool]:
    """Whether each answer is right, for the customers whose question has a known answer.

    ``answers`` and ``questions`` are per customer. A customer with a question of its own has no mark.
    """
    known = {who: EXAMPLE[question] for who, question in questions.items() if question in EXAMPLE}
    return [all(part in answers.get(who, "") for part in parts) for who, parts in known.items()]
