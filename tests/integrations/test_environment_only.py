"""Programs that nothing is added to: what the environment can say, and what the server infers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.scenes import Node, scripted_node
from tests.server.fakes import MODEL, call

openai = pytest.importorskip("openai")

TOOLS: Any = [{"type": "function", "function": {"name": "depth", "parameters": {"type": "object"}}}]
SYSTEM = {"role": "system", "content": "You measure wells. " * 8}
FIRST = {"role": "user", "content": "How deep is Chand Baori? " * 8}


def program(*asked: list[Any], tools: Any = openai.NOT_GIVEN) -> None:
    """It reads OPENAI_BASE_URL and OPENAI_API_KEY and knows nothing of Stepwell."""
    with openai.OpenAI(max_retries=0) as api:
        for messages in asked:
            api.chat.completions.create(model=MODEL, messages=messages, tools=tools)


def seen(node: Node) -> list[tuple[str, str, int]]:
    return [(view.session, view.agent, view.turns) for view in node.agents.values()]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def test_headers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_node(lambda prompt: "30") as node:
        monkeypatch.setenv("OPENAI_BASE_URL", node.url)
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Session-ID: run-42\nX-Agent: planner")
        program([FIRST], [FIRST])
        assert seen(node) == [("run-42", "run-42/planner", 2)]


def test_the_base_url_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_node(lambda prompt: "30") as node:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{node.server.base_url}/s/run-42/a/planner/v1")
        program([FIRST], [FIRST])
        assert seen(node) == [("run-42", "run-42/planner", 2)]


def test_who_goes_on_from_its_last_prompt_is_inferred_to_be_the_same_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with scripted_node(lambda prompt: call("depth")) as node:
        monkeypatch.setenv("OPENAI_BASE_URL", node.url)
        answer = {"role": "assistant", "content": "About 30 metres."}
        again = {"role": "user", "content": "And how wide?"}
        program([SYSTEM, FIRST], [SYSTEM, FIRST, answer, again], tools=TOOLS)
        program([SYSTEM, {"role": "user", "content": "Something else. " * 8}], tools=TOOLS)
        views = list(node.agents.values())
    assert sorted(view.turns for view in views) == [1, 2]
    assert len({view.role for view in views}) == 1
    assert {(view.session, view.parent_agent, view.hint.wait.value) for view in views} == {("", None, "tool")}
