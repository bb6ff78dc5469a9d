"""LangGraph with two lines more: what the server knows of its agents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integrations.scenes import Node, scripted_node
from tests.server.fakes import MODEL, call

pytest.importorskip("langgraph")

from langchain_core.messages import SystemMessage
from langchain_core.tools import tool
from langgraph._internal._runnable import RunnableCallable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Send, interrupt

from stepwell.integrations.langgraph import ChatStepwell, Stepwell
from stepwell.policy.types import Wait


def script(prompt: str) -> str:
    if "You lead" in prompt:
        asks = call("ask", question="x") + call("ask", question="y")
        return "led" if "tool: It has 30." in prompt else asks
    if "You work" in prompt:
        return "It has 30." if "tool: 30" in prompt else call("depth", name="x")
    return "said"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with scripted_node(script) as node:
        monkeypatch.setenv("OPENAI_BASE_URL", node.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield node


def chat(tools: list[Any], **options: Any) -> Any:
    base_url = os.environ[
        "OPENAI_BASE_URL"
    ]  # LangChain keeps one HTTP client for all that do not name theirs
    model = ChatStepwell(model=MODEL, base_url=base_url, max_retries=0, **options)
    return model.bind_tools(tools) if tools else model


def depth(during: Callable[[], object] = int) -> Any:
    @tool
    def depth(name: str) -> str:
        """How deep a well is."""
        during()
        return "30"

    return depth


def loop(name: str, instructions: str, *tools: Any, **options: Any) -> Any:
    """A graph of one agent and its tools; sync and async."""
    model = chat(list(tools), **options)

    def call_model(state: MessagesState) -> Any:
        return {"messages": [model.invoke([SystemMessage(instructions), *state["messages"]])]}

    async def acall_model(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke([SystemMessage(instructions), *state["messages"]])]}

    made = StateGraph(MessagesState)
    made.add_node(name, RunnableCallable(call_model, acall_model))
    made.add_node("tools", ToolNode(list(tools), handle_tool_errors=False))
    made.add_edge(START, name)
    made.add_conditional_edges(name, tools_condition)
    made.add_edge("tools", name)
    return made


HOW_DEEP: Any = {"messages": [("user", "How deep?")]}


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


@pytest.mark.parametrize("responses_api", [False, True])
@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke"])
def test_a_thread_is_a_session_and_a_tool_is_waited_for(node: Node, way: str, responses_api: bool) -> None:
    seen: list[Any] = []
    stepwell = Stepwell()
    stepwell.teller.expect("depth", 61_234)
    look = depth(lambda: seen.append(node.waits("worker", "tool", timed=True)))
    graph = loop("worker", "You work", look, use_responses_api=responses_api)
    graph = graph.compile().with_config(callbacks=[stepwell])
    if way == "invoke":
        result = graph.invoke(HOW_DEEP, thread("run-42"))
    elif way == "stream":
        result = list(graph.stream(HOW_DEEP, thread("run-42"), stream_mode="values"))[-1]
    else:
        result = asyncio.run(graph.ainvoke(HOW_DEEP, thread("run-42")))
    assert result["messages"][-1].text == "It has 30."
    view = node.named("worker")
    assert (view.agent, view.session, view.parent_agent, view.turns) == ("run-42/worker", "run-42", None, 2)
    assert [hint.expected_us for hint in seen] == [61_234_000]
    node.waits("worker", "done")


def test_graphs_that_tools_run_are_children_and_begin_anew(node: Node) -> None:
    """Two calls at once of one tool are two agents."""
    seen: list[Any] = []
    reader = loop("agent", "You work", depth(lambda: seen.append(node.waits("lead", "child"))))
    reader = reader.compile(name="reader")

    @tool
    def ask(question: str) -> str:
        """Ask the reader."""
        return str(reader.invoke(HOW_DEEP)["messages"][-1].text)

    lead = loop("lead", "You lead", ask).compile().with_config(callbacks=[Stepwell()])
    assert lead.invoke(HOW_DEEP, thread("run-42"))["messages"][-1].text == "led"
    readers = [view for view in node.agents.values() if view.role == "reader"]
    assert [(view.parent_agent, view.session, view.turns) for view in readers] == [
        ("run-42/lead", "run-42", 2)
    ] * 2
    assert {hint.after_agent for hint in seen} <= {view.agent for view in readers}
    node.waits("lead", "done")


def test_a_graph_that_is_a_node_keeps_its_agents(node: Node) -> None:
    graph = StateGraph(MessagesState)
    boss = chat([])
    graph.add_node(
        "boss", lambda state: {"messages": [boss.invoke([SystemMessage("You talk"), *state["messages"]])]}
    )
    graph.add_node("research", loop("agent", "You work", depth()).compile(name="researcher"))
    graph.add_edge(START, "boss")
    graph.add_edge("boss", "research")
    made = graph.compile(checkpointer=InMemorySaver()).with_config(callbacks=[Stepwell()])
    for _ in range(2):
        made.invoke(HOW_DEEP, thread("run-42"))
    researcher = node.named("researcher")
    assert (researcher.parent_agent, researcher.session) == ("run-42/boss", "run-42")
    assert node.named("boss").turns == 2


def test_who_is_interrupted_waits_for_a_person(node: Node) -> None:
    @tool
    def depth(name: str) -> str:
        """How deep a well is."""
        return str(interrupt("How deep?"))

    graph = loop("worker", "You work", depth).compile(checkpointer=InMemorySaver())
    graph = graph.with_config(callbacks=[Stepwell()])
    graph.invoke(HOW_DEEP, thread("run-42"))
    node.waits("worker", "person")
    graph.invoke(Command(resume="30"), thread("run-42"))
    node.waits("worker", "done")
    assert node.named("worker").turns == 2


def test_where_a_person_talks_on_the_end_of_a_run_is_a_wait_for_that_person(node: Node) -> None:
    graph = loop("worker", "You work", depth()).compile().with_config(callbacks=[Stepwell(end="person")])
    graph.invoke(HOW_DEEP, thread("run-42"))
    assert node.waits("worker", "person").wait is Wait.PERSON


@pytest.mark.parametrize("threads", [True, False])
def test_runs_at_once_do_not_mix(node: Node, threads: bool) -> None:
    reader = loop("agent", "You work", depth()).compile(name="reader")

    @tool
    async def ask(question: str) -> str:
        """Ask the reader."""
        return str((await reader.ainvoke(HOW_DEEP))["messages"][-1].text)

    graph = loop("lead", "You lead", ask).compile().with_config(callbacks=[Stepwell()])

    async def scene() -> None:
        names = [f"run-{number}" if threads else "" for number in range(4)]
        await asyncio.gather(*(graph.ainvoke(HOW_DEEP, thread(name) if name else {}) for name in names))

    asyncio.run(scene())
    leads = {view.session: view.agent for view in node.agents.values() if view.role == "lead"}
    readers = [view for view in node.agents.values() if view.role == "reader"]
    assert (len(leads), len(readers)) == (4, 8)
    assert all(view.parent_agent == leads[view.session] for view in readers)


def test_one_node_many_times_at_once_is_many_agents(node: Node) -> None:
    model = chat([])
    graph = StateGraph(MessagesState)
    graph.add_node("talker", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_conditional_edges(START, lambda state: [Send("talker", state) for _ in range(3)], ["talker"])
    graph.compile().with_config(callbacks=[Stepwell()]).invoke(HOW_DEEP, thread("run-42"))
    assert [view.turns for view in node.agents.values()] == [1, 1, 1]


def test_without_the_callback_or_a_graph_nothing_is_said(node: Node) -> None:
    chat([]).invoke("How deep?")
    loop("worker", "You work", depth()).compile().invoke(HOW_DEEP)
    assert not [view for view in node.agents.values() if view.session]
