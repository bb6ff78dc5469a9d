"""LangGraph: one agent and its tool.

    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python guide_langgraph.py gemma3

The argument is the name of a model (see /v1/models).
"""

from __future__ import annotations

import sys
from typing import Any

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from stepwell.integrations.langgraph import ChatStepwell, Stepwell


@tool
def depth(well: str) -> str:
    """How deep a stepwell is."""
    return "about 30 metres"


model = ChatStepwell(model=sys.argv[1]).bind_tools([depth])


def guide(state: MessagesState) -> dict[str, Any]:
    return {"messages": [model.invoke([("system", "You show visitors around."), *state["messages"]])]}


graph = StateGraph(MessagesState)
graph.add_node("guide", guide)
graph.add_node("tools", ToolNode([depth]))
graph.add_edge(START, "guide")
graph.add_conditional_edges("guide", tools_condition)
graph.add_edge("tools", "guide")
program = graph.compile().with_config(callbacks=[Stepwell()])
question = {"messages": [("user", "How deep is Chand Baori?")]}
print(program.invoke(question, {"configurable": {"thread_id": "visit-1"}})["messages"][-1].text)
