"""smolagents with one line more: what the server knows of its agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stepwell.integrations import session
from tests.integrations.scenes import Node, scripted_node
from tests.server.fakes import MODEL, call

smolagents = pytest.importorskip("smolagents")

tell = pytest.importorskip("stepwell.integrations.smolagents").tell

CODE, LAST_CODE = '<code>\nprint(depth(name="x"))\n</code>', "<code>\nfinal_answer(30)\n</code>"


def script(prompt: str) -> str:
    """The tasks tell who is asked: only the last one counts, because memories may be kept."""
    task = prompt.rpartition("New task:")[2]
    if "Write code" in task:
        return LAST_CODE if "found 30" in task else CODE
    if "Lead it" in task:
        return call("final_answer", answer="led") if "It has 30" in task else call("worker", task="Work it")
    if "Ask me" in task:
        return call("final_answer", answer="x") if "Chand" in task else call("user_input", question="What?")
    return call("final_answer", answer="It has 30") if "found 30" in task else call("depth", name="x")


class Depth(smolagents.Tool):  # type: ignore[misc]
    name = "depth"
    description = "How deep a well is."
    inputs = {"name": {"type": "string", "description": "Which."}}  # noqa: RUF012
    output_type = "string"
    during: Callable[[], object] = int

    def forward(self, name: str) -> str:
        self.during()
        return "found 30"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with scripted_node(script) as node:
        monkeypatch.setenv("OPENAI_BASE_URL", node.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield node


def made(name: str, kind: str = "ToolCallingAgent", **options: Any) -> Any:
    model = smolagents.OpenAIModel(MODEL, client_kwargs={"max_retries": 0}, extra_headers={"X-Mine": "kept"})
    options = {"tools": [], "description": "Works.", "verbosity_level": 0, "max_steps": 3, **options}
    return getattr(smolagents, kind)(model=model, name=name, **options)


def depth(during: Callable[[], object] = int) -> Any:
    tool = Depth()
    tool.during = during
    return tool


@pytest.mark.parametrize(("kind", "task"), [("ToolCallingAgent", "Work it"), ("CodeAgent", "Write code")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_waited_for_as_long_as_it_took(node: Node, kind: str, task: str, stream: bool) -> None:
    seen: list[Any] = []
    look = depth(lambda: seen.append(node.waits("worker", "tool", timed=True)))
    agent = made("worker", kind, tools=[look], stream_outputs=stream)
    teller = tell(agent)
    teller.expect("depth", 61_234)
    with session("run-42"):
        agent.run(task)
        node.waits("worker", "done")
        agent.run(task, reset=False)
    view = node.named("worker")
    assert (view.session, view.parent_agent, view.turns) == ("run-42", None, 4)
    assert seen[0].expected_us == 61_234_000
    assert 61_234_000 / 2 <= seen[1].expected_us < 61_234_000  # half of it is what it took


def test_an_agent_that_is_managed_is_a_child_and_begins_anew_each_time(node: Node) -> None:
    seen: list[Any] = []
    worker = made("worker", tools=[depth(lambda: seen.append(node.waits("lead", "child")))])
    lead = made("lead", managed_agents=[worker])
    tell(lead)
    assert lead.run("Lead it") == "led"
    assert lead.run("Lead it", reset=False) == "led"
    workers = [view for view in node.agents.values() if view.role == "worker"]
    above = node.named("lead")
    assert [(view.parent_agent, view.session) for view in workers] == [(above.agent, above.session)] * len(
        workers
    )
    assert {hint.after_agent for hint in seen} == {view.agent for view in workers}
    node.waits("lead", "done")


def test_who_asks_a_person_waits_for_one(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: str) -> str:
        node.waits("asker", "person")
        return "Chand Baori"

    monkeypatch.setattr("builtins.input", answer)
    agent = made("asker", tools=[smolagents.UserInputTool()])
    tell(agent)
    assert agent.run("Ask me") == "x"
    node.waits("asker", "done")


def test_every_run_from_scratch_is_a_session_and_a_talk_goes_on_in_one(node: Node) -> None:
    agent = made("worker", tools=[depth()])
    tell(agent, end="person")
    agent.run("Work it")
    agent.run("And again", reset=False)
    node.waits("worker", "person")
    agent.run("Work it")
    assert len({view.session for view in node.agents.values()}) == 2


def test_runs_at_once_do_not_mix(node: Node) -> None:
    def program(number: int) -> None:
        lead = made("lead", managed_agents=[made("worker", tools=[depth()])])
        tell(lead)
        with session(f"run-{number}"):
            lead.run("Lead it")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(program, range(4)))
    views = node.agents
    children = [view for view in views.values() if view.role == "worker"]
    assert sorted(view.session for view in children) == [f"run-{number}" for number in range(4)]
    assert all(views[str(view.parent_agent)].session == view.session for view in children)


def test_the_programs_own_model_stays_as_it_was(node: Node) -> None:
    agent = made("worker", tools=[depth()])
    model = agent.model
    tell(agent)
    agent.run("Work it")
    assert agent.model is not model
    assert model.kwargs == {"extra_headers": {"X-Mine": "kept"}}
