"""A crew over Stepwell's own server, on the null engine: what it says of its waits arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx2

from stepwell.agents import events
from stepwell.agents.client import Client, Patience
from stepwell.agents.crews.definition import Crew
from stepwell.agents.session import Session
from stepwell.agents.state import SessionFile
from stepwell.agents.tools.base import Tool
from stepwell.engines.null import NullConfig
from tests.agents.scripted import PATIENCE_S, crew, never_sleep, toolbox
from tests.agents.test_runtime import ALONE, LEAD, run
from tests.server.fakes import MODEL, FakeDriver, null_node, says, serving

NULL = NullConfig(model=MODEL)


def agent_at(url: str, name: str) -> dict[str, Any]:
    response = httpx2.get(f"{url}/v1/agents/run-1/{name}", trust_env=False)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def attempt(url: str, made: Crew, *tools: Tool) -> Any:
    """One session called run-1."""
    store = SessionFile(":memory:")
    async with asyncio.timeout(PATIENCE_S), Client(url, sleep=never_sleep, patience=Patience(5, 3)) as client:
        running = Session(made, client, store, toolbox(*tools), id="run-1")
        result = await running.run("Why?")
    store.close()
    return result


def test_the_wait_for_a_tool_stands_where_agents_are_listed() -> None:
    """While the tool runs, the server says for what its caller waits, and for how long."""
    seen: list[dict[str, Any]] = []
    made = crew(ALONE + 'tools = ["look"]\ncalls = "schema"\nmax_turns = 1\n')
    with null_node(replace(NULL, answer=b'{"action": "look", "arguments": {}}')) as server:

        async def look(arguments: Mapping[str, Any]) -> str:
            seen.append(await asyncio.to_thread(agent_at, server.base_url, "lead"))
            return "found"

        tool = Tool("look", "Look.", {"type": "object", "properties": {}}, look, expected_ms=61_234)
        result = run(attempt(server.base_url, made, tool))
    assert result.status == "turn_limit"
    assert [(one["declared"]["next"], one["declared"]["expected_ms"]) for one in seen] == [("tool", 61_234)]
    assert seen[0]["expected_at"] is not None


def test_every_agent_of_a_session_is_known_by_its_name_its_parent_and_its_end() -> None:
    async def scene(url: str) -> Any:
        store = SessionFile(":memory:")
        async with asyncio.timeout(PATIENCE_S), Client(url) as client:
            running = Session(crew(LEAD + "max_tokens = 4\n"), client, store, toolbox(), id="run-1")
            result = await running.run("Why?")
            running.spawn("helper", "Look.", parent="lead", key="by hand")
            await running.wait(["helper-1"])
            return result

    with null_node(NULL) as server:
        result = run(scene(server.base_url))
        lead, helper = (agent_at(server.base_url, name) for name in ("lead", "helper-1"))
    assert result.status == "completed"
    assert lead["declared"]["next"] == "done"
    assert (helper["parent_agent_id"], helper["role"], helper["session_id"]) == (
        "run-1/lead",
        "helper",
        "run-1",
    )


def test_a_child_that_answers_a_parent_is_declared_to_wait_for_it() -> None:
    with serving(driver := FakeDriver(says("fine"))) as server:

        async def scene() -> None:
            async with asyncio.timeout(PATIENCE_S), Client(server.base_url) as client:
                running = Session(crew(LEAD), client, SessionFile(":memory:"), toolbox(), id="run-1")
                await running.run("Why?")
                running.spawn("helper", "Look.", parent="lead", key="by hand")
                await running.wait(["helper-1"], waiting="lead")

        run(scene())
    said = {generation.caller.agent: generation.hint for generation in driver.submitted}
    assert (said["run-1/helper-1"].wait.value, said["run-1/helper-1"].after_agent) == ("agent", "run-1/lead")


def test_a_turn_is_found_in_the_cache_of_the_one_before() -> None:
    """Messages only grow, so that a second task of an agent computes no more than itself."""
    heard: list[events.TurnEnded] = []

    async def scene(url: str) -> None:
        text = '[roles.lead]\ninstructions = "You lead."\nmax_tokens = 8\nmay_spawn = ["helper"]\n'
        text += f'[roles.helper]\ninstructions = "{"You help. " * 40}"\nmax_tokens = 8\n'
        async with asyncio.timeout(PATIENCE_S), Client(url) as client:
            running = Session(crew(text), client, SessionFile(":memory:"), toolbox(), id="run-1")
            running.tell.listeners.append(
                lambda e: heard.append(e) if isinstance(e, events.TurnEnded) else None
            )
            await running.run("Why?")
            running.spawn("helper", "One.", parent="lead", key="one")
            await running.wait(["helper-1"])
            running.followup("helper-1", "Two.", key="two", by="lead")
            await running.wait(["helper-1"])

    with null_node(NULL) as server:
        run(scene(server.base_url))
    usage = heard[-1].usage
    assert heard[-1].number == 2
    assert usage.cached_tokens >= usage.prompt_tokens - 64 - 32  # a block, and the new question
    assert usage.recomputed_tokens == 0
