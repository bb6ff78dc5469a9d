"""The pressure workload: many agents, one shared document, a private role each, several turns.

Twelve agents share a document of 350 words and have a private role of 350 words; each takes four
turns of 16 tokens, four agents at a time. The text is made from a seed, so everybody who runs the
benchmark sends the same bytes. It is prose-like on purpose: random tokens would tokenise and
detokenise unlike anything a user sends.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

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
_QUESTIONS = (
    "What does the document say about the water level?",
    "Which figure would you check first, and why?",
    "Who should have been told, according to your instructions?",
    "Name one risk that the others have not mentioned.",
    "What would you write to the council today?",
    "Which part of the plan would you change?",
)


@dataclass(frozen=True, slots=True)
class Pressure:
    """The size of the workload. The defaults are the published ones."""

    agents: int = 12
    turns: int = 4
    clients: int = 4
    document_words: int = 350
    role_words: int = 350
    output_tokens: int = 16
    seed: int = 20261122
    share_prefix: bool = True
    """True: document first, then the role, so that agents share a prefix. False: the role first, so
    that no two agents share anything; the harder case for a policy that lives from sharing."""


def document(workload: Pressure) -> str:
    """The text every agent reads."""
    return "Document\n\n" + prose(random.Random(workload.seed), workload.document_words)


def role(workload: Pressure, agent: int) -> str:
    """The private instructions of one agent."""
    rng = random.Random(workload.seed + 1000 + agent)
    return f"Instructions for agent {agent + 1}\n\n" + prose(rng, workload.role_words)


def opening(workload: Pressure, agent: int) -> str:
    """What stands before the first question of an agent."""
    parts = [document(workload), role(workload, agent)]
    if not workload.share_prefix:
        parts.reverse()
    return "\n\n".join(parts)


def question(workload: Pressure, agent: int, turn: int) -> str:
    """What is appended at the start of a turn (0 is the first)."""
    rng = random.Random(workload.seed + 100_000 + agent * 100 + turn)
    return f"\n\nQuestion {turn + 1}: {_pick(rng, _QUESTIONS)}\nAnswer:"


def next_prompt(workload: Pressure, agent: int, turn: int, so_far: str) -> str:
    """The prompt of a turn; ``so_far`` is the last prompt with its answer (ignored at turn 0)."""
    before = so_far if turn else opening(workload, agent)
    return before + question(workload, agent, turn)


def agents_of(workload: Pressure, client: int) -> list[int]:
    """The agents that one client serves, one after the other, before it starts their next turn."""
    return list(range(client, workload.agents, workload.clients))


def unrelated(workload: Pressure) -> str:
    """Text that shares nothing with the workload: for warming up and for measuring bare prefill."""
    return "Unrelated\n\n" + prose(random.Random(workload.seed + 7), workload.document_words // 2)


def prose(rng: random.Random, words: int) -> str:
    """Exactly ``words`` words in sentences, the same for the same state of ``rng``."""
    made: list[str] = []
    while len(made) < words:
        sentence = (
            f"{_pick(rng, _SUBJECTS)} {_pick(rng, _VERBS)} {_pick(rng, _OBJECTS)} {_pick(rng, _ENDINGS)}"
        )
        # A figure here and there brings the text to about 1.3 tokens a word, like real reports.
        figure = f", {rng.random() * 90:.1f} metres" if rng.random() < 0.4 else ""
        made += f"{sentence.capitalize()}{figure}.".split()
    return " ".join(made[:words])


def _pick(rng: random.Random, options: tuple[str, ...]) -> str:
    # random() is promised to be the same in every Python version; choice() is not.
    return options[int(rng.random() * len(options))]
