"""pydantic-ai with one argument more: what the server knows of its agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepwell.integrations import session
from tests.integrations.scenes import Node, scripted_node
from tests.server.fakes import MODEL, call

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from stepwell.integrations.pydantic_ai import Stepwell
from stepwell.policy.types import Wait

MODELS = [OpenAIChatModel, OpenAIResponsesModel]


def script(prompt: str) -> str:
    if "You lead" in prompt:
        return "led" if "tool: It has 30." in prompt else call("ask", name="x")
    if "You work" in prompt:
        return "It has 30." if "tool: 30" in prompt else call("depth", name="x")
    return "dug" if "tool: 7" in prompt else call("dig")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with scripted_node(script) as node:
        monkeypatch.setenv("OPENAI_BASE_URL", node.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield node


def made(
    name: str, instructions: str, stepwell: Stepwell, kind: Any = OpenAIChatModel, **options: Any
) -> Any:
    model = kind(MODEL, provider=OpenAIProvider())
    return Agent(model, name=name, instructions=instructions, capabilities=[stepwell], **options)


def worker(stepwell: Stepwell, during: Callable[[], object] = int, **options: Any) -> Any:
    agent = made("worker", "You work", stepwell, **options)

    @agent.tool_plain
    def depth(name: str) -> int:
        during()
        return 30

    return agent


def play(scene: Any, *agents: Any) -> None:
    async def program() -> None:
        for agent in agents:
            await agent.__aenter__()
        try:
            await scene()
        finally:
            for agent in agents:
                await agent.__aexit__(None, None, None)

    asyncio.run(program())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_is_a_session_and_a_tool_is_waited_for(node: Node, kind: Any, stream: bool) -> None:
    seen: list[Any] = []
    stepwell = Stepwell()
    stepwell.teller.expect("depth", 61_234)
    agent = worker(
        stepwell,
        lambda: seen.append(node.waits("worker", "tool", timed=True)),
        kind=kind,
        model_settings={"extra_headers": {"X-Mine": "kept"}},
    )

    async def scene() -> None:
        if not stream:
            assert (await agent.run("How deep?", conversation_id="run-42")).output == "It has 30."
            return
        async with agent.run_stream("How deep?", conversation_id="run-42") as result:
            assert await result.get_output() == "It has 30."

    play(scene, agent)
    view = node.named("worker")
    assert (view.agent, view.parent_agent, view.session) == ("run-42/worker", None, "run-42")
    assert [hint.expected_us for hint in seen] == [61_234_000]
    node.waits("worker", "done")


def test_an_agent_that_a_tool_runs_is_a_child(node: Node) -> None:
    seen: list[Any] = []
    stepwell = Stepwell()
    child = worker(stepwell, lambda: seen.append(node.waits("lead", "child")))
    lead = made("lead", "You lead", stepwell)

    @lead.tool_plain
    async def ask(name: str) -> str:
        return str((await child.run(name)).output)

    async def scene() -> None:
        assert (await lead.run("How deep?", conversation_id="run-42")).output == "led"
        assert (await lead.run("How deep?", conversation_id="run-42")).output == "led"

    play(scene, lead, child)
    workers = [view for view in node.agents.values() if view.role == "worker"]
    assert [(view.parent_agent, view.session, view.turns) for view in workers] == [
        ("run-42/lead", "run-42", 2)
    ] * 2
    assert {hint.after_agent for hint in seen} == {view.agent for view in workers}
    assert seen[1].expected_us is not None  # as long as the first took
    assert node.named("lead").turns == 4


def test_who_asks_a_person_waits_for_one(node: Node) -> None:
    agent = made("digger", "You dig", Stepwell(), output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def dig() -> int:
        return 7

    async def scene() -> None:
        asked = await agent.run("Dig.")
        await asyncio.to_thread(node.waits, "digger", "person")
        results = DeferredToolResults(approvals={asked.output.approvals[0].tool_call_id: True})
        again = await agent.run(message_history=asked.all_messages(), deferred_tool_results=results)
        assert again.output == "dug"

    play(scene, agent)
    node.waits("digger", "done")
    assert node.named("digger").turns == 2


def test_where_a_person_talks_on_the_end_of_a_run_is_a_wait_for_that_person(node: Node) -> None:
    agent = worker(Stepwell(end="person"))

    async def scene() -> None:
        first = await agent.run("How deep?")
        await agent.run("And now?", message_history=first.all_messages())

    play(scene, agent)
    assert node.waits("worker", "person").wait is Wait.PERSON


def test_runs_at_once_do_not_mix(node: Node) -> None:
    stepwell = Stepwell()
    child, lead = worker(stepwell), made("lead", "You lead", stepwell)

    @lead.tool_plain
    async def ask(name: str) -> str:
        return str((await child.run(name)).output)

    async def scene() -> None:
        await asyncio.gather(*(lead.run("How deep?", conversation_id=f"run-{number}") for number in range(8)))

    play(scene, lead, child)
    children = {view.session: view.parent_agent for view in node.agents.values() if view.role == "worker"}
    assert children == {f"run-{number}": f"run-{number}/lead" for number in range(8)}


def test_runs_in_a_session_that_the_program_names(node: Node) -> None:
    agent = worker(Stepwell())

    async def scene() -> None:
        with session("both"):
            await asyncio.gather(agent.run("How deep?"), agent.run("How deep?"))
        await agent.run("How deep?", conversation_id="alone")

    play(scene, agent)
    assert sorted(view.session for view in node.agents.values()) == ["alone", "both", "both"]
