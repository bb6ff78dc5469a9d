"""A crew, a task set and a model by script, so that what every role is worth is known beforehand."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from stepwell.agents.client import Client, Patience
from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import parse_crew
from stepwell.agents.servers import ModelPlace
from stepwell.fit.evaluate import Evaluator
from stepwell.fit.memo import Memo, Remembering
from stepwell.fit.tasks import Item, TaskSet
from tests.agents.scripted import Asked, Message, Scripted, never_sleep

CREW = """
[crew]
name = "quiz"
drop = ["writer"]
[crew.limits]
rounds = 1
[roles.planner]
may_spawn = ["scout", "critic", "solver"]
[roles.scout]
instructions = "You know secrets."
[roles.critic]
[roles.solver]
samples = {samples}
[profiles.flash]
drop = ["planner"]
[profiles.flash.penalty]
token_price_usd_per_million = 2.0
answer_value_usd = 0.0005
"""
STEPS = (
    {"id": "s1", "role": "scout", "task": "Find the secret.", "needs": []},
    {"id": "s2", "role": "critic", "task": "Look for faults.", "needs": []},
    {"id": "s3", "role": "solver", "task": "Say the number.", "needs": ["s1", "s2"]},
)
USD_PER_TOKEN = 0.000001
Solver = Callable[[int, int, bool], str]
"""Place of the item in its half, sample from 1, whether the scout's secret was told: what the solver says.

What is right is written as ``RIGHT``.
"""
RIGHT = "[number]"


def crew(samples: int = 1, text: str = CREW) -> Crew:
    return parse_crew(text.replace("{samples}", str(samples)))


def answer_of(item: int) -> int:
    return 1_000 + 7 * item


def quiz(count: int = 40) -> TaskSet:
    items = [Item(f"quiz-{n:03}", f"Question {n}: which number?", str(answer_of(n))) for n in range(count)]
    return TaskSet("quiz", "quiz", "solver", "number", tuple(items))


def item_of(asked: Asked) -> int:
    said = " ".join(str(message["content"]) for message in asked.body["messages"])
    return int(re.findall(r"Question (\d+):", said)[0])


def said_by(solver: Solver) -> Callable[[Asked], str]:
    """A planner and a critic by rote, a scout that tells the answer as a secret, and this solver."""

    def model(asked: Asked) -> str:
        item = item_of(asked)
        if asked.role == "planner":
            return plan(asked)
        if asked.role == "scout":
            return f"The secret of this one is {answer_of(item)} indeed."
        if asked.role == "critic":
            return "No fault found."
        sample = int(asked.agent.rpartition("-")[2]) if "-" in asked.agent else 1
        return solver(item // 2, sample, "secret" in asked.last).replace(RIGHT, str(answer_of(item)))

    return model


def plan(asked: Asked) -> str:
    """One step for each of the workers that there are."""
    known = json.dumps(asked.body["response_format"])
    steps = [dict(step) for step in STEPS if f'"{step["role"]}"' in known]
    ids = {step["id"] for step in steps}
    for step in steps:
        step["needs"] = [need for need in step["needs"] if need in ids]
    return json.dumps({"done": False, "steps": steps})


def always(at: int, sample: int, told: bool) -> str:
    """Right where the secret is known, and on every fourth question anyway."""
    return f"It is {RIGHT}." if told or at % 4 == 0 else "I do not know."


@dataclass
class Counted(Scripted):
    """Answers have as many tokens as words, are cut where the request says, and cost what their tokens do."""

    name: str = "scripted"
    costs: bool = True
    factor: float = 1.0
    """Of its prices."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/models"):
            return httpx2.Response(200, json={"data": [{"id": self.name, "created": len(self.asked)}]})
        return await super().handle_async_request(request)

    def _answer(self, said: str | Message | httpx2.Response, body: dict[str, Any]) -> httpx2.Response:
        assert isinstance(said, str)
        words = said.split(" ")
        kept = words[: body["max_tokens"]]
        prompt = sum(len(str(message["content"]).split()) for message in body["messages"])
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": len(kept)}
        if self.costs:
            usage["cost"] = round((prompt + 4 * len(kept)) * USD_PER_TOKEN * self.factor, 9)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": " ".join(kept)},
            "finish_reason": "stop" if len(kept) == len(words) else "length",
        }
        return httpx2.Response(200, json={"choices": [choice], "usage": usage})


@asynccontextmanager
async def evaluator(
    tmp_path: Path,
    *servers: Counted,
    made: Crew | None = None,
    tasks: TaskSet | None = None,
    memo: Memo | None = None,
    **options: Any,
) -> AsyncIterator[Evaluator]:
    """An evaluator over scripted servers; with several each has its model's name."""
    places = []
    clients = [
        Client(
            f"http://{server.name}",
            transport=Remembering(memo, server),
            sleep=never_sleep,
            patience=Patience(5, 3),
        )
        for server in servers
    ]
    for server, client in zip(servers, clients, strict=True):
        await client.__aenter__()
        places.append(ModelPlace(server.name, client, server.name))
    try:
        yield Evaluator(made or crew(), tasks or quiz(), places, tmp_path, **options)
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)
