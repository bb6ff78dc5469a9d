"""OpenAI's Agents SDK with one line more: what the server knows of its agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from stepwell.integrations import session
from stepwell.policy.types import Wait
from tests.integrations.scenes import Node, scripted_node
from tests.server.fakes import MODEL, call

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")

StepwellTracing = pytest.importorskip("stepwell.integrations.openai_agents").StepwellTracing

MODELS = ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"]


def script(prompt: str) -> str:
    if "You plan" in prompt:
        return call("transfer_to_worker")
    if "You work" in prompt:
        return "It has 30." if "tool: 30" in prompt else call("depth", name="x")
    if "You lead" in prompt:
        return "led" if "tool: read" in prompt else call("ask_reader", input="x")
    if "You read" in prompt:
        return "read" if "tool: 30" in prompt else call("depth", name="x")
    return "dug" if "tool: 7" in prompt else call("dig")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with scripted_node(script) as node:
        monkeypatch.setenv("OPENAI_BASE_URL", node.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        # The SDK reads OPENAI_AGENTS_DISABLE_TRACING once in a process, and tests of other clients set it.
        agents.set_tracing_disabled(False)
        yield node
    agents.set_trace_processors([])


def tracing(**options: Any) -> Any:
    """The one line."""
    agents.set_trace_processors([processor := StepwellTracing(**options)])
    return processor


def play(scene: Callable[[Callable[..., Any]], Awaitable[None]]) -> None:
    """One program; its agents are made by ``make(name, instructions, ...)``."""

    async def program() -> None:
        async with openai.AsyncOpenAI(max_retries=0) as api:
            await scene(partial(made, api))

    asyncio.run(program())


def made(api: Any, name: str, instructions: str, kind: str = MODELS[0], **options: Any) -> Any:
    model = getattr(agents, kind)(MODEL, api)
    return agents.Agent(name=name, instructions=instructions, model=model, **options)


def ask(first: Any, **config: Any) -> Any:
    return agents.Runner.run(first, "How deep?", run_config=agents.RunConfig(**config))


def tool(during: Callable[[], object]) -> Any:
    """``depth``: does ``during`` while it runs."""

    def depth(name: str) -> str:
        during()
        return "30"

    return agents.function_tool(depth, failure_error_function=None)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_handoff_and_a_tool(node: Node, kind: str, stream: bool) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append((node.waits("worker", "tool", timed=True), node.waits("planner", "child")))

    async def scene(make: Callable[..., Any]) -> None:
        worker = make("worker", "You work", kind, tools=[tool(look)])
        planner = make("planner", "You plan", kind, handoffs=[worker])
        if not stream:
            assert (await ask(planner, group_id="run-42")).final_output == "It has 30."
            return
        config = agents.RunConfig(group_id="run-42")
        streamed = agents.Runner.run_streamed(planner, "How deep?", run_config=config)
        async for _ in streamed.stream_events():
            pass

    tracing().teller.expect("depth", 61_234)
    play(scene)
    worker, planner = node.named("worker"), node.named("planner")
    assert (worker.agent, worker.parent_agent, worker.session) == (
        "run-42/worker",
        "run-42/planner",
        "run-42",
    )
    assert (planner.agent, planner.parent_agent) == ("run-42/planner", None)
    assert (seen[0][0].expected_us, seen[0][1].after_agent) == (61_234_000, "run-42/worker")
    node.waits("worker", "done")
    node.waits("planner", "done")


def test_an_agent_as_a_tool_is_a_child_and_begins_anew_each_time(node: Node) -> None:
    waits: list[Any] = []

    async def scene(make: Callable[..., Any]) -> None:
        reader = make("reader", "You read", tools=[tool(lambda: waits.append(node.waits("lead", "child")))])
        lead = make("lead", "You lead", tools=[reader.as_tool("ask_reader", "Reads.")])
        for _ in range(2):
            assert (await ask(lead, group_id="run-42")).final_output == "led"

    tracing()
    play(scene)
    readers = [view for view in node.agents.values() if view.role == "reader"]
    assert [view.parent_agent for view in readers] == ["run-42/lead"] * 2
    assert {view.session for view in readers} == {"run-42"}
    assert {hint.after_agent for hint in waits} == {view.agent for view in readers}
    assert (waits[0].expected_us, waits[1].expected_us is None) == (None, False)  # learned from the first
    assert node.named("lead").turns == 4


def test_what_a_tool_took_before_is_expected_of_it(node: Node) -> None:
    seen: list[Any] = []

    async def scene(make: Callable[..., Any]) -> None:
        look = partial(node.waits, "worker", "tool", timed=True)
        worker = make("worker", "You work", tools=[tool(lambda: seen.append(look()))])
        await ask(worker, group_id="a")
        await ask(worker, group_id="a")

    tracing().teller.expect("depth", 61_234)
    play(scene)
    assert seen[0].expected_us == 61_234_000
    assert 61_234_000 / 2 <= seen[1].expected_us < 61_234_000


def test_who_asks_a_person_waits_for_one_and_goes_on_as_the_same_agent(node: Node) -> None:
    @agents.function_tool(needs_approval=True)
    def dig() -> str:
        return "7"

    async def scene(make: Callable[..., Any]) -> None:
        digger = make("digger", "You dig", tools=[dig])
        asked = await agents.Runner.run(digger, "Dig.")
        await asyncio.to_thread(node.waits, "digger", "person")
        state = asked.to_state()
        state.approve(asked.interruptions[0])
        assert (await agents.Runner.run(digger, state)).final_output == "dug"

    tracing()
    play(scene)
    node.waits("digger", "done")
    assert node.named("digger").turns == 2


def test_where_a_person_talks_on_the_end_of_a_run_is_a_wait_for_that_person(node: Node) -> None:
    async def scene(make: Callable[..., Any]) -> None:
        await ask(make("worker", "You work", tools=[tool(int)]))

    tracing(end="person")
    play(scene)
    assert node.waits("worker", "person").wait is Wait.PERSON


def test_runs_at_once_do_not_mix(node: Node) -> None:
    async def scene(make: Callable[..., Any]) -> None:
        worker = make("worker", "You work", tools=[tool(int)])
        planner = make("planner", "You plan", handoffs=[worker])
        await asyncio.gather(*(ask(planner, group_id=f"run-{number}") for number in range(8)))

    tracing()
    play(scene)
    assert {view.agent: view.parent_agent for view in node.agents.values()} == {
        f"run-{number}/{name}": parent and f"run-{number}/{parent}"
        for number in range(8)
        for name, parent in (("planner", None), ("worker", "planner"))
    }


def test_one_agent_twice_at_once_in_one_session_is_two(node: Node) -> None:
    async def scene(make: Callable[..., Any]) -> None:
        worker = make("worker", "You work", tools=[tool(int)])
        with session("both"):
            await asyncio.gather(*(ask(worker) for _ in range(2)))
        with agents.trace("one"):
            await asyncio.gather(*(ask(worker) for _ in range(2)))

    tracing()
    play(scene)
    assert len(node.agents) == 4
    assert [view.session for view in node.agents.values()].count("both") == 2
    assert {view.turns for view in node.agents.values()} == {2}


def test_nothing_is_said_where_tracing_is_off(node: Node) -> None:
    async def scene(make: Callable[..., Any]) -> None:
        worker = make("worker", "You work", tools=[tool(int)])
        await ask(worker)
        await ask(worker, tracing_disabled=True)

    tracing()
    play(scene)
    assert node.named("worker").turns == 2
