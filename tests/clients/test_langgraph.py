"""LangGraph with ChatOpenAI: a graph of two nodes, a tool loop, and streaming."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.server.fakes import MODEL, FakeDriver, call, serving

pytest.importorskip("langgraph")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


def chat(base_url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=base_url + "/v1", api_key="none", max_retries=0, **options)


@tool
def depth(name: str) -> str:
    """How deep a well is."""
    return "30 metres"


def script(prompt: str, generation: Any) -> list[str]:
    if "You plan" in prompt:
        return ["Ask for the depth."]
    return ["It is 30 metres deep."] if "tool: 30 metres" in prompt else [call("depth", name="Chand Baori")]


@pytest.mark.parametrize("responses_api", [False, True])
def test_a_graph_with_two_agents_and_a_tool(responses_api: bool) -> None:
    driver = FakeDriver(script)
    with serving(driver) as server:
        planner = chat(
            server.base_url, default_headers={"X-Session-ID": "plan"}, use_responses_api=responses_api
        )
        worker = chat(
            server.base_url,
            default_headers={"X-Session-ID": "work", "X-Parent-Session-ID": "plan"},
            use_responses_api=responses_api,
        ).bind_tools([depth])

        def plan(state: MessagesState) -> dict[str, Any]:
            return {"messages": [planner.invoke([SystemMessage("You plan."), *state["messages"]])]}

        def work(state: MessagesState) -> dict[str, Any]:
            # The worker's own history: templates end every assistant turn.
            return {"messages": [worker.invoke([SystemMessage("You work."), *state["messages"]])]}

        graph = StateGraph(MessagesState)
        graph.add_node("plan", plan)
        graph.add_node("work", work)
        graph.add_node("tools", ToolNode([depth]))
        graph.add_edge(START, "plan")
        graph.add_edge("plan", "work")
        graph.add_conditional_edges("work", tools_condition, {"tools": "tools", END: END})
        graph.add_edge("tools", "work")
        result = graph.compile().invoke({"messages": [HumanMessage("How deep is Chand Baori?")]})
    assert result["messages"][-1].text == "It is 30 metres deep."
    assert [(g.caller.agent, g.caller.parent_agent) for g in driver.submitted] == [
        ("plan", None),
        ("work", "plan"),
        ("work", "plan"),
    ]


def test_streaming_and_usage() -> None:
    with serving(FakeDriver(lambda prompt, generation: ["one ", "two"], cached=(8, 0, 0))) as server:
        model = chat(server.base_url, stream_usage=True)
        pieces = list(model.stream("count"))
    whole: AIMessage = sum(pieces[1:], pieces[0])  # type: ignore[arg-type, assignment]
    assert whole.text == "one two"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_token_details"]["cache_read"] == 8


class Well(BaseModel):
    """A well."""

    name: str
    steps: int


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(method: Any) -> None:
    def script(prompt: str, generation: Any) -> list[str]:
        well = '{"name": "Rani ki Vav", "steps": 7}'
        return [well if method == "json_schema" else f'{{"name": "Well", "arguments": {well}}}']

    with serving(FakeDriver(script)) as server:
        model = chat(server.base_url).with_structured_output(Well, method=method)
        assert model.invoke("A well, please.") == Well(name="Rani ki Vav", steps=7)
