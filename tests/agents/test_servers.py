"""A model per role: turns, hints, end-tokens and budgets go to the server that has the role's model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.agents import events
from stepwell.agents.client import Client, Patience
from stepwell.agents.crews.definition import Crew
from stepwell.agents.penalty import Penalty
from stepwell.agents.planner import plan_flow, with_writer
from stepwell.agents.result import Result
from stepwell.agents.servers import ModelPlace, Servers
from stepwell.agents.session import Session
from stepwell.agents.state import SessionFile
from stepwell.errors import StepwellError
from tests.agents.scripted import PATIENCE_S, Asked, Crash, Mortal, Scripted, crew, never_sleep, toolbox

CREW = """
[crew]
name = "pair"
entry = "planner"
[crew.limits]
rounds = 1
[roles.planner]
model = "large"
may_spawn = ["solver"]
[roles.solver]
model = "small"
instructions = "You solve."
[roles.writer]
[roles.verifier]
"""
PLAN = json.dumps(
    {
        "done": False,
        "steps": [{"id": f"s{n}", "role": "solver", "task": f"Part {n}.", "needs": []} for n in (1, 2)],
    }
)


@dataclass
class Named(Scripted):
    """Has one model, and takes turns and questions for that one alone."""

    name: str = "one"
    ends: tuple[int, ...] = ()
    budgets: list[float] = field(default_factory=list)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.endswith("/models"):
            return httpx2.Response(200, json={"data": [{"id": self.name}]})
        if path.endswith(f"/models/{self.name}"):
            return httpx2.Response(200, json={"id": self.name, "end_token_ids": list(self.ends)})
        if "/models/" in path:
            error = {"message": "no such model", "code": "model_not_found"}
            return httpx2.Response(404, json={"error": error})
        if "/sessions/" in path and request.method == "POST":
            self.budgets.append(json.loads(request.content)["spend_control"]["limit"])
            return httpx2.Response(200, json={})
        if path.endswith("/chat/completions"):
            assert json.loads(request.content)["model"] == self.name
        return await super().handle_async_request(request)

    @property
    def roles(self) -> set[str]:
        return {asked.role for asked in self.asked}


def said(asked: Asked) -> str:
    if asked.role == "planner":
        return PLAN
    if asked.role == "verifier":
        return '{"ok": true, "score": 9, "reason": "fine"}'
    return f"{asked.agent} says {asked.body['model']}"


def large(**options: Any) -> Named:
    return Named(said, name="large-1b", **options)


def small(**options: Any) -> Named:
    return Named(said, name="small-100m", **options)


@asynccontextmanager
async def servers(*named: tuple[str, Named]) -> AsyncIterator[Servers]:
    """Servers by the name that crews have for their model."""
    async with AsyncExitStack() as stack:
        places = []
        for name, server in named:
            made = Client(
                f"http://{server.name}", transport=server, sleep=never_sleep, patience=Patience(5, 3)
            )
            places.append(ModelPlace(name, await stack.enter_async_context(made), server.name))
        yield Servers(places)


def answer(
    made: Crew,
    *named: tuple[str, Named],
    store: Callable[[], SessionFile] = lambda: SessionFile(":memory:"),
    ask: str = "Why?",
    heard: list[events.Event] | None = None,
) -> Result:
    async def run() -> Result:
        kept = store()
        try:
            async with asyncio.timeout(PATIENCE_S), servers(*named) as client:
                session = Session(with_writer(made), client, kept, toolbox(), flow=plan_flow)
                session.tell.listeners += [] if heard is None else [heard.append]
                return await session.run(ask)
        finally:
            kept.close()

    return asyncio.run(run())


def test_turns_and_costs_of_every_role_are_those_of_its_models_server() -> None:
    dear, cheap = large(cost="0.01"), small(cost="0.001")
    heard: list[events.Event] = []
    result = answer(crew(CREW), ("large", dear), ("small", cheap), heard=heard)
    assert result.answer == "writer-1 says large-1b"
    assert dear.roles == {"planner", "writer", "verifier"}
    assert cheap.roles == {"solver"}
    assert len(cheap.asked) == 2
    assert result.cost_microusd == len(dear.asked) * 10_000 + 2 * 1_000
    told = {event.model for event in heard if isinstance(event, events.TurnBegan)}
    assert told == {"large", "small"}


def test_hints_go_where_the_agents_kv_lies_and_name_nobody_of_another_server() -> None:
    """A writer that stays, on the small model, is called again by the planner of the large one."""
    stays = CREW.replace("[roles.writer]", '[roles.writer]\nmodel = "small"')
    dear, cheap = large(), small()
    answer(crew(stays), ("large", dear), ("small", cheap))
    with_turns = {asked.role: asked.body.get("agent_hint") for asked in [*dear.asked, *cheap.asked]}
    assert with_turns["verifier"] == {"next": "agent", "after_agent": "planner"}
    assert with_turns["writer"] == {"next": "agent"}
    assert ("writer-1", {"next": "done"}) in cheap.hints
    assert ("verifier-1", {"next": "done"}) in dear.hints
    assert not {agent for agent, _ in dear.hints} & {agent for agent, _ in cheap.hints}


def test_each_models_own_end_is_made_likelier() -> None:
    penalty = Penalty(1, 10**9, eos_bias=3.0, eos_bias_tokens=1)
    made = replace(crew(CREW), penalty=penalty)
    dear, cheap = large(ends=(2,)), small(ends=(7, 8))
    answer(made, ("large", dear), ("small", cheap))
    biased = [set(asked.body["logit_bias"]) for asked in cheap.asked if "logit_bias" in asked.body]
    assert biased
    assert all(one == {"7", "8"} for one in biased)
    assert all(set(asked.body["logit_bias"]) == {"2"} for asked in dear.asked if "logit_bias" in asked.body)


def test_what_is_left_of_a_budget_is_told_to_every_server_once() -> None:
    dear, cheap = large(cost="0.01"), small(cost="0.001")
    made = crew(CREW.replace("rounds = 1", "rounds = 1\nbudget_usd = 0.5"))
    answer(made, ("large", dear), ("small", cheap))
    assert (dear.budgets, cheap.budgets) == ([50.0], [50.0])


def test_a_spent_budget_counts_what_all_servers_took() -> None:
    dear, cheap = large(cost="0.01"), small(cost="0.01")
    made = crew(CREW.replace("rounds = 1", "rounds = 1\nbudget_usd = 0.03"))
    result = answer(made, ("large", dear), ("small", cheap))
    assert result.status == "budget_reached"
    assert (len(dear.asked), len(cheap.asked)) == (1, 2)


@pytest.mark.parametrize("commits", [3, 6, 9, 12])
def test_after_a_crash_every_agent_is_where_it_was(tmp_path: Path, commits: int) -> None:
    whole = answer(crew(CREW), ("large", large()), ("small", small()))
    path = tmp_path / "session.db"
    with pytest.raises(Crash):
        answer(crew(CREW), ("large", large()), ("small", small()), store=lambda: Mortal(path, commits))
    dear, cheap = large(), small()
    resumed = answer(crew(CREW), ("large", dear), ("small", cheap), store=lambda: SessionFile(path), ask="")
    assert (resumed.answer, resumed.turns) == (whole.answer, whole.turns)
    assert dear.roles <= {"planner", "writer", "verifier"}
    assert cheap.roles <= {"solver"}


def test_a_model_that_nobody_has_is_one_sentence() -> None:
    async def run() -> None:
        async with servers(("large", large()), ("tiny", small())) as client:
            client.place("small")

    with pytest.raises(StepwellError, match=r"^no server has the model 'small': there is large, tiny$"):
        asyncio.run(run())


def test_what_a_server_calls_a_model() -> None:
    async def run() -> None:
        async with servers(("large", large())) as client:
            (place,) = client.places
            assert await place.client.called("large") == "large-1b"  # its only one
            await place.client.require_model("large-1b")
            with pytest.raises(StepwellError, match="does not serve the model 'huge': no such model"):
                await place.client.require_model("huge")

    asyncio.run(run())


def test_a_server_with_several_models_has_to_know_the_one_that_is_meant() -> None:
    class Two(Named):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]})

    async def run() -> None:
        async with servers(("a", Two(said))) as client:
            assert await client.places[0].client.called("b") == "b"
            with pytest.raises(StepwellError, match="does not serve the model 'c': there is a, b"):
                await client.places[0].client.called("c")

    asyncio.run(run())
