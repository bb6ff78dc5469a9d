"""The pressure workload is the same for everybody, and has the shape that was published."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stepwell.bench.workload import (
    Pressure,
    agents_of,
    document,
    next_prompt,
    opening,
    question,
    role,
    unrelated,
)

FULL = Pressure()


def test_the_text_is_the_same_in_every_process() -> None:
    """If this digest changes, figures of different versions cannot be compared any more."""
    prompts = "".join(next_prompt(FULL, agent, 0, "") for agent in range(FULL.agents))
    digest = hashlib.sha256(prompts.encode()).hexdigest()
    assert digest == "e1d02a795f17de26a4181298e490c11041be464b41aaa445a5862e215133f175"


def test_sizes_are_those_that_were_published() -> None:
    assert (FULL.agents, FULL.turns, FULL.clients, FULL.output_tokens) == (12, 4, 4, 16)
    assert len(document(FULL).split()) == 350 + 1
    assert len(role(FULL, 0).split()) == 350 + len(["Instructions", "for", "agent", "1"])


def test_agents_share_the_document_and_nothing_of_the_role() -> None:
    first, second = opening(FULL, 0), opening(FULL, 1)
    shared = len(document(FULL))
    assert first[:shared] == second[:shared]
    assert len({role(FULL, agent) for agent in range(FULL.agents)}) == FULL.agents


def test_private_first_leaves_nothing_to_share() -> None:
    turned = replace(FULL, share_prefix=False)
    openings = [opening(turned, agent) for agent in range(turned.agents)]
    assert len({text[: len("Instructions for agent 12")] for text in openings}) == turned.agents
    assert all(text.endswith(document(turned)) for text in openings)


def test_every_turn_extends_the_one_before() -> None:
    prompt = next_prompt(FULL, 2, 0, "")
    assert prompt == opening(FULL, 2) + question(FULL, 2, 0)
    so_far = prompt + " It rose."
    assert next_prompt(FULL, 2, 1, so_far) == so_far + question(FULL, 2, 1)


def test_the_warm_up_shares_no_beginning_with_the_workload() -> None:
    assert unrelated(FULL)[:5] != opening(FULL, 0)[:5]


@given(agents=st.integers(1, 40), clients=st.integers(1, 40))
def test_every_agent_has_exactly_one_client(agents: int, clients: int) -> None:
    workload = Pressure(agents=agents, clients=clients)
    served = [agent for client in range(clients) for agent in agents_of(workload, client)]
    assert sorted(served) == list(range(agents))
