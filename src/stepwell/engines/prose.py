"""Text for measurements, made from a seed: prose-like on purpose.

Random tokens would tokenise and detokenise unlike anything that a user sends.
"""

from __future__ import annotations

import random

_SUBJECTS = (
    "the harbour office", "a night watchman", "the valley council", "an old surveyor",
    "the water board", "a young clerk", "the river pilot", "the granary keeper", "a visiting engineer",
    "the market warden", "the bridge master", "a retired captain", "the school teacher",
    "the salt merchant", "a careful gardener", "the village doctor",
)  # fmt: skip
_VERBS = (
    "measured", "described", "repaired", "questioned", "recorded", "inspected", "remembered",
    "compared", "rebuilt", "counted", "reported", "ignored", "protected", "reopened", "explained",
    "planned",
)  # fmt: skip
_OBJECTS = (
    "the eastern sluice", "a broken gauge", "the winter stores", "every second lamp",
    "the northern wall", "a narrow channel", "the flood tables", "seven empty barges",
    "the stone steps", "a letter from the coast", "the copper pipes", "an unsigned map",
    "the lower cistern", "a bundle of receipts", "the harvest accounts", "the railway timetable",
)  # fmt: skip
_ENDINGS = (
    "before the rain began", "after a long dispute", "with unusual patience",
    "in the third week of spring", "although nobody had asked", "while the engines were silent",
    "for less than the agreed price", "and wrote the figures down", "until the lamps were lit",
    "as the contract required", "because the level had fallen", "without telling the others",
    "at the request of the mayor", "and found two errors", "just above the old mark",
    "under a clear sky",
)  # fmt: skip


def prose(rng: random.Random, words: int) -> str:
    """Exactly ``words`` words in sentences, the same for the same state of ``rng``."""
    made: list[str] = []
    while len(made) < words:
        sentence = f"{pick(rng, _SUBJECTS)} {pick(rng, _VERBS)} {pick(rng, _OBJECTS)} {pick(rng, _ENDINGS)}"
        # A figure here and there brings the text to about 1.3 tokens a word, like real reports.
        figure = f", {rng.random() * 90:.1f} metres" if rng.random() < 0.4 else ""
        made += f"{sentence.capitalize()}{figure}.".split()
    return " ".join(made[:words])


def pick(rng: random.Random, options: tuple[str, ...]) -> str:
    # random() is promised to be the same in every Python version; choice() is not.
    return options[int(rng.random() * len(options))]
