"""The pressure workload: many agents, one shared document, a private role each, several turns.

Twelve agents share a document of 350 words and have a private role of 350 words; each takes four
turns of 16 tokens, four agents at a time. The text is made from a seed, so that
every run of the benchmark sends the same bytes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from stepwell.engines.prose import pick, prose

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
    return f"\n\nQuestion {turn + 1}: {pick(rng, _QUESTIONS)}\nAnswer:"


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
