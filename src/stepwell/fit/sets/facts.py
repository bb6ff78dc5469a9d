"""The set ``facts``: questions on one passage of a document; the other passages tell the like of others."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from stepwell.fit.sets.subjects import SUBJECTS, Draw, Subject
from stepwell.fit.tasks import Item, TaskSet

SEED = 20261122
DOCUMENTS = 50
PASSAGES = (6, 7)

Facts = dict[str, str]
"""The fields of one passage, and ``name``."""


def facts_set(seed: int = SEED) -> TaskSet:
    """Fifty documents with six questions each, one on every field, each about another passage."""
    items: list[Item] = []
    for document in range(DOCUMENTS):
        subject = SUBJECTS[document % len(SUBJECTS)]
        rng = Random(f"{seed}-{document}")
        told = _told(subject, rng)
        # Wordings take turns within each half, and the halves take turns within a subject.
        wording = subject.passages[document // len(SUBJECTS) // 2 % len(subject.passages)]
        passages = tuple(wording.format(**facts) for facts in told)
        items += _questions(subject, told, passages, len(items), rng)
    return TaskSet("facts", crew="documents", single="reader", grader="words", items=tuple(items))


def _told(subject: Subject, rng: Random) -> list[Facts]:
    """Facts for each passage. No two names begin alike, no two values end in the same word."""
    taken: set[str] = set()
    beginnings: set[str] = set()
    told = []
    for _ in range(rng.randint(*PASSAGES)):
        name = _another(
            subject.draw_name, rng, lambda name: name.split()[-1] in taken or name[:2] in beginnings
        )
        beginnings.add(name[:2])
        facts = {"name": name}
        taken.add(name.split()[-1])
        for field_name, field in subject.fields.items():
            fact = facts[field_name] = _another(field.draw, rng, lambda value: value.split()[-1] in taken)
            taken.add(fact.split()[-1])
        told.append(facts)
    return told


def _another(draw: Draw, rng: Random, is_taken: Callable[[str], bool]) -> str:
    while is_taken(value := draw(rng)):
        pass
    return value


def _questions(
    subject: Subject, told: list[Facts], passages: tuple[str, ...], before: int, rng: Random
) -> list[Item]:
    asked = rng.sample(told, len(subject.fields))
    return [
        Item(
            f"facts-{before + turn:03d}-{subject.kind}_{name}",
            ask=rng.choice(field.questions).format(name=facts["name"]),
            answer=facts[name],
            passages=passages,
            wrong=tuple(other[name] for other in told if other is not facts),
        )
        for turn, ((name, field), facts) in enumerate(zip(subject.fields.items(), asked, strict=True))
    ]
