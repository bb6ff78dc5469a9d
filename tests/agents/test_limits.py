"""Every limit ends in one clear outcome, and what is paused goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.agents import events
from stepwell.agents.crews.definition import Crew
from tests.agents.scripted import Asked, Scripted, answer, calls, crew, failure, session
from tests.agents.test_runtime import ALONE, LEAD, run, spawns

ENDLESS = """
[crew.limits]
depth = 2
agents = 10
concurrent = 4
turns_per_agent = 5
[roles.lead]
instructions = "You spawn."
may_spawn = ["lead"]
"""


def limited(text: str, **limits: Any) -> Crew:
    made = crew(text)
    return replace(made, limits=replace(made.limits, **limits))


def told(server: Scripted, agent: str = "lead") -> str:
    """The tool answers that an agent read, in one text."""
    last = [one for one in server.asked if one.agent == agent][-1]
    return "\n".join(str(m["content"]) for m in last.body["messages"] if m["role"] == "tool")


def test_a_crew_that_spawns_for_ever_is_bounded_in_depth_number_and_turns() -> None:
    heard: list[events.Event] = []
    model = lambda asked: calls(*[("spawn_agent", {"role": "lead", "task": "more"})] * 3)  # noqa: E731
    result = run(answer(Scripted(model), crew(ENDLESS), tell=events.Stream([heard.append])))
    assert (result.status, result.answer) == ("turn_limit", "")
    assert result.sentence == "lead has had its 5 turns and no answer"
    assert result.agents <= 1 + 10
    spawned = [event.agent for event in heard if isinstance(event, events.Spawned)]
    assert max(name.count(".") for name in spawned) <= 1  # lead-1.lead-1 stands at depth 2
    assert result.turns <= 11 * 5


def test_more_children_than_may_be_at_work_are_refused_with_a_sentence() -> None:
    server = Scripted(spawns(5))
    run(answer(server, limited(LEAD, concurrent=2)))
    assert server.most_at_once <= 3
    assert told(server).count("2 sub-agents are at work, the most there may be: wait for one first") == 3


def test_depth_is_refused_with_a_sentence() -> None:
    server = Scripted(spawns(1))
    run(answer(server, limited(LEAD, depth=0)))
    assert "agents may stand at most 0 deep: do this task yourself" in told(server)


def test_the_number_of_agents_is_refused_with_a_sentence() -> None:
    server = Scripted(spawns(3))
    run(answer(server, limited(LEAD, agents=2)))
    assert told(server).count("this session has made its 2 sub-agents") == 1


def test_tokens_end_the_session_before_the_next_turn() -> None:
    server = Scripted(spawns(2))
    result = run(answer(server, limited(LEAD, tokens=20)))
    assert (result.status, result.turns) == ("token_limit", 1)
    assert result.sentence == "the session has used its 20 tokens"


def test_a_session_out_of_time_stops_its_requests() -> None:
    async def gate(asked: Asked) -> None:
        await asyncio.Event().wait()

    server = Scripted(lambda asked: "never", gate=gate)
    result = run(answer(server, limited(ALONE, seconds=0.2)))
    assert (result.status, server.at_once, len(server.asked)) == ("time_limit", 0, 1)


async def one_run(server: Scripted, made: Crew, path: Path, ask: str) -> Any:
    async with session(server, made, path) as running:
        return await running.run(ask)


def test_a_budget_is_kept_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    """The answer is the one that a run without a budget gives, and no turn is paid for twice."""
    server = Scripted(spawns(3), cost="0.001")
    path = tmp_path / "session.db"
    first = run(one_run(server, limited(LEAD, budget_microusd=2_000), path, "Why?"))
    assert first.status == "budget_reached"
    assert 2_000 <= first.cost_microusd <= 2_000 + 6_000  # what was under way goes on to its end
    assert "resume it with a larger budget" in first.sentence
    assert ("lead", {"next": "person"}) in server.hints
    second = run(one_run(server, limited(LEAD, budget_microusd=1_000_000), path, ""))
    free = Scripted(spawns(3), cost="0.001")
    whole = run(answer(free, crew(LEAD)))
    assert (second.status, second.answer) == ("completed", whole.answer)
    assert second.cost_microusd == whole.cost_microusd == 6_000
    assert len(server.asked) == len(free.asked)


def test_a_turn_under_way_when_the_budget_ends_is_kept(tmp_path: Path) -> None:
    """It is paid for: the session that goes on does not ask it again."""
    first_is_back, second_asks = asyncio.Event(), asyncio.Event()

    async def gate(asked: Asked) -> None:
        if asked.agent == "helper-2":
            second_asks.set()
            await first_is_back.wait()
        if asked.agent == "helper-1":
            await second_asks.wait()

    def hear(event: events.Event) -> None:
        if isinstance(event, events.TurnEnded) and event.agent == "helper-1":
            asyncio.get_running_loop().call_later(0.05, first_is_back.set)  # well after the pause

    async def scene(server: Scripted, budget_microusd: int, ask: str) -> Any:
        made = limited(LEAD, budget_microusd=budget_microusd)
        async with session(server, made, tmp_path / "s.db", tell=events.Stream([hear])) as running:
            return await running.run(ask)

    server = Scripted(two_and_one_more, cost="0.001", gate=gate)
    paused = run(scene(server, 3_000, "Why?"))
    assert (paused.status, paused.cost_microusd, server.at_once) == ("budget_reached", 4_000, 0)
    again = Scripted(two_and_one_more, cost="0.001")
    assert run(scene(again, 1_000_000, "")).status == "completed"
    assert sorted(one.agent for one in again.asked) == ["helper-1", "lead"]


def two_and_one_more(asked: Asked) -> Any:
    """As ``spawns(2)``, but the first helper has a second turn to go."""
    if asked.agent == "helper-1" and asked.turn == 1:
        return calls(("nothing", {}))
    return spawns(2)(asked)


@pytest.mark.parametrize("code", ["session_budget_exceeded", "insufficient_quota"])
def test_a_budget_of_the_server_pauses_and_is_not_asked_again(tmp_path: Path, code: str) -> None:
    spent = failure(429, code, "The budget is spent.", x_should_retry="false")
    broke = Scripted(lambda asked: spent if asked.turn == 2 else spawns(1)(asked))
    path = tmp_path / "session.db"
    first = run(one_run(broke, crew(LEAD), path, "Why?"))
    assert first.status == "budget_reached"
    assert "The budget is spent." in first.sentence
    assert sum(1 for one in broke.asked if one.turn == 2 and one.role == "lead") == 1
    second = run(one_run(Scripted(spawns(1)), crew(LEAD), path, ""))
    assert (second.status, second.answer) == ("completed", "helper-1 (completed): I am helper-1")


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    gone = Scripted(
        lambda asked: failure(503, "server_overloaded") if asked.role == "helper" else spawns(1)(asked)
    )
    path = tmp_path / "session.db"
    first = run(one_run(gone, crew(LEAD), path, "Why?"))
    assert first.status == "server_unreachable"
    assert sum(1 for one in gone.asked if one.role == "helper") == 3  # patience of these tests
    second = run(one_run(Scripted(spawns(1)), crew(LEAD), path, ""))
    assert (second.status, second.turns) == ("completed", 4)


def test_a_turn_that_the_server_refuses_ends_that_agent_only() -> None:
    refused = failure(400, "context_length_exceeded", "Too long.")
    server = Scripted(lambda asked: refused if asked.agent == "helper-1" else spawns(2)(asked))
    result = run(answer(server, crew(LEAD)))
    assert result.status == "completed"
    assert (
        "helper-1 (refused): the server refused the turn of helper-1: Too long. (HTTP 400)" in result.answer
    )
    assert "helper-2 (completed)" in result.answer
