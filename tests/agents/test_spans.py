"""Spans of sessions: every one is ended, and their tree is the tree of the agents, whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.agents import events
from stepwell.agents.crews.definition import Crew
from stepwell.agents.session import Session
from stepwell.agents.spans import Spans
from stepwell.agents.tools.base import Tool
from tests.agents.scripted import PATIENCE_S, Asked, Scripted, calls, crew, failure, session

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

CREW = """
[crew]
name = "tree"
[crew.limits]
{limits}
[roles.lead]
instructions = "You lead."
may_spawn = ["helper"]
tools = ["add"]
[roles.helper]
instructions = "You help."
may_spawn = ["helper"]
temperature = 0.5
"""
PLANNED = """
[crew]
name = "planned"
[roles.planner]
may_spawn = ["solver"]
[roles.solver]
"""


class Watched:
    """Spans that began and that ended, by an exporter in memory."""

    def __init__(self) -> None:
        self.began: list[Any] = []
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        watched = self

        class Processor(SimpleSpanProcessor):
            def on_start(self, span: Span, parent_context: Any = None) -> None:
                watched.began.append(span)

        self.provider.add_span_processor(Processor(self.exporter))

    def listen(self, running: Session) -> Spans:
        spans = Spans(self.provider.get_tracer("test"), running)
        running.tell.listeners.append(spans)
        return spans

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, operation: str) -> list[ReadableSpan]:
        return [one for one in self.ended if told(one)["gen_ai.operation.name"] == operation]


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def agent_of(span: ReadableSpan) -> str:
    return str(told(span)["gen_ai.agent.id"])


async def _add(arguments: Any) -> str:
    if arguments.get("a") == 0:
        raise ZeroDivisionError("no")
    return "3"


ADD = Tool("add", "Adds.", {"type": "object"}, _add)


def watch(server: Scripted, made: Crew, store: Path | str = ":memory:", ask: str = "Why?") -> Any:
    """One session with its spans: what they are, and the session afterwards."""
    seen = Watched()

    async def scene() -> Any:
        async with asyncio.timeout(PATIENCE_S), session(server, made, store, ADD) as running:
            heard: list[events.Event] = []
            running.tell.listeners.append(heard.append)
            spans = seen.listen(running)
            try:
                return running, heard, await running.run(ask)
            finally:
                spans.close()

    running, heard, result = asyncio.run(scene())
    return seen, running, heard, result


def require_whole(seen: Watched, running: Session) -> None:
    """All ended, one trace, agents under their parents, turns and calls under their agents."""
    assert Counter(id(one) for one in seen.began).total() == len(seen.ended)
    assert all(one.end_time is not None for one in seen.ended)
    by_id = {one.context.span_id: one for one in seen.ended if one.context}
    assert len({one.context.trace_id for one in seen.ended if one.context}) == 1
    for one in seen.ended:
        above = None if one.parent is None else by_id[one.parent.span_id]
        if told(one)["gen_ai.operation.name"] == "invoke_agent":
            parent = running.agents[agent_of(one)].row.parent
            assert parent == (None if above is None else agent_of(above))
        else:
            assert above is not None and agent_of(above) == agent_of(one)
        if above is not None:
            assert told(above)["gen_ai.operation.name"] == "invoke_agent"
            assert above.start_time <= one.start_time


def spawning(tree: dict[str, int], wait: bool) -> Any:
    """Agents that spawn as many children as ``tree`` says by their name, and wait for them or do not."""

    def model(asked: Asked) -> Any:
        children = tree.get(asked.agent, 0)
        if asked.turn == 1 and children:
            wanted = [("spawn_agent", {"role": "helper", "task": f"part {n}"}) for n in range(children)]
            return calls(*wanted, *([("wait_agent", {})] if wait else []))
        return "Done."

    return model


NAMES = ["lead", "helper-1", "helper-2", "helper-1.helper-1", "helper-2.helper-1"]


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)),
    st.booleans(),
    st.sampled_from(
        ["", "tokens = 40", "tokens = 90", "concurrent = 1", "agents = 2", "depth = 1", "budget_usd = 0.002"]
    ),
)
def test_every_span_ends_and_the_tree_is_that_of_the_agents(
    tree: dict[str, int], wait: bool, limits: str
) -> None:
    server = Scripted(spawning(tree, wait), cost="0.001")
    seen, running, heard, _ = watch(server, crew(CREW.format(limits=limits)))
    require_whole(seen, running)
    tasked = {event.agent for event in heard if isinstance(event, events.Assigned)}
    assert {agent_of(one) for one in seen.named("invoke_agent")} == tasked
    turns = Counter(event.agent for event in heard if isinstance(event, events.TurnBegan))
    assert Counter(agent_of(one) for one in seen.named("chat")) == turns


def test_what_a_span_says() -> None:
    server = Scripted(lambda asked: calls(("add", {"a": 1})) if asked.turn == 1 else "3.", cost="0.0001")
    seen, running, _, _ = watch(server, crew(CREW.format(limits="")))
    assert [one.name for one in seen.ended] == [
        "chat scripted",
        "execute_tool add",
        "chat scripted",
        "invoke_agent lead",
    ]
    chat, tool, _, agent = seen.ended
    common = {
        "gen_ai.provider.name": "stepwell",
        "gen_ai.conversation.id": running.id,
        "gen_ai.agent.name": "lead",
        "gen_ai.agent.id": "lead",
    }
    assert told(agent) == common | {"gen_ai.operation.name": "invoke_agent"}
    assert told(tool) == common | {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "add",
        "gen_ai.tool.type": "function",
    }
    assert told(chat) == common | {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.max_tokens": 256,
        "gen_ai.output.type": "text",
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "stepwell.usage.recomputed_tokens": 0,
        "stepwell.usage.cost_microusd": 100,
    }
    assert (chat.kind, tool.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL)
    assert running.id.startswith("crew-")


def test_the_names_are_those_of_the_semantic_conventions() -> None:
    attributes = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for name, value in vars(attributes).items() if name.isupper()} | {"error.type"}
    server = Scripted(lambda asked: calls(("add", {"a": 0})) if asked.turn == 1 else "3.", cost="0.0001")
    seen, _, _, _ = watch(server, crew(CREW.format(limits="")))
    used = {name for one in seen.ended for name in told(one)}
    assert {name for name in used if not name.startswith("stepwell.")} <= known
    operations = {one.value for one in attributes.GenAiOperationNameValues}
    assert {told(one)["gen_ai.operation.name"] for one in seen.ended} <= operations


def test_what_goes_wrong_stands_in_the_span() -> None:
    server = Scripted(lambda asked: calls(("add", {"a": 0})) if asked.turn == 1 else failure(400, "too_long"))
    seen, running, _, result = watch(server, crew(CREW.format(limits="")))
    require_whole(seen, running)
    assert result.status == "refused"
    wrong = {one.name: told(one).get("error.type") for one in seen.ended if not one.status.is_ok}
    assert wrong == {
        "execute_tool add": "tool_error",
        "chat scripted": "refused",
        "invoke_agent lead": "refused",
    }
    assert seen.ended[-1].status.status_code is StatusCode.ERROR


def test_agents_that_are_stopped_end_as_interrupted() -> None:
    def model(asked: Asked) -> Any:
        if asked.role == "helper":
            return "Late."
        if asked.turn == 1:
            return calls(("spawn_agent", {"role": "helper", "task": "x"}))
        return calls(("interrupt_agent", {"agent": "helper-1"})) if asked.turn == 2 else "Done."

    async def gate(asked: Asked) -> None:
        await (asyncio.Event().wait() if asked.role == "helper" else asyncio.sleep(0))

    seen, running, _, _ = watch(Scripted(model, gate=gate), crew(CREW.format(limits="")))
    require_whole(seen, running)
    helper = [one for one in seen.ended if agent_of(one) == "helper-1"]
    assert {told(one)["error.type"] for one in helper} == {"interrupted"}
    assert [one.name for one in helper] == ["chat scripted", "invoke_agent helper"]


def test_a_session_that_is_cancelled_leaves_nothing_open() -> None:
    seen = Watched()

    async def scene() -> None:
        asked = asyncio.Event()

        async def gate(one: Asked) -> None:
            asked.set()
            await asyncio.Event().wait()

        async with session(
            Scripted(lambda _: "x", gate=gate), crew(CREW.format(limits="")), ":memory:", ADD
        ) as running:
            spans = seen.listen(running)
            work = asyncio.create_task(running.run("Why?"))
            await asked.wait()
            work.cancel()
            await asyncio.wait({work})
            spans.close()
            require_whole(seen, running)

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))
    assert {told(one)["error.type"] for one in seen.ended} == {"stopped"}


def test_a_plan_is_carried_out_under_the_planner_and_goes_on_in_another_trace(tmp_path: Path) -> None:
    plan = '{"done": false, "steps": [{"id": "s1", "role": "solver", "task": "Add.", "needs": []}]}'

    def model(asked: Asked) -> Any:
        if asked.role == "planner":
            return plan if asked.turn == 1 else '{"done": true, "steps": []}'
        return "3."

    path = tmp_path / "session.db"
    broke = crew(PLANNED + "[crew.limits]\nbudget_usd = 0.001\n")
    seen, running, _, result = watch(Scripted(model, cost="0.001"), broke, path)
    assert result.status == "budget_reached"
    require_whole(seen, running)
    assert told(seen.ended[-1])["error.type"] == "budget_reached"
    again, resumed, _, result = watch(Scripted(model, cost="0.001"), crew(PLANNED), path, "")
    assert result.status == "completed"
    require_whole(again, resumed)
    roles = [one.name for one in again.named("invoke_agent")]
    assert roles.count("invoke_agent planner") == 1
    assert {"invoke_agent solver", "invoke_agent writer"} <= set(roles)
    assert {told(one)["gen_ai.conversation.id"] for one in (*seen.ended, *again.ended)} == {running.id}
    planner = next(one for one in seen.ended if one.name == "invoke_agent planner")
    assert "stepwell.planned" in [event.name for event in planner.events]
