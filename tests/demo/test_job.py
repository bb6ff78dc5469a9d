"""The job and its rehearsal: who is asked what, what is held, and how much room that gets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents import events
from stepwell.agents.client import Client
from stepwell.agents.crews.files import find_crew
from stepwell.agents.passages import reader_of
from stepwell.demo.board import RunBoard
from stepwell.demo.command import Options, customers_for
from stepwell.demo.job import DemoJob, converse
from stepwell.demo.plan import TextCounter, capacity_for, distinct, full, rehearse, without_tiers
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.errors import BadInput, StepwellError
from stepwell.library.documents import Document

DOCUMENT = Document(
    "well.md", "markdown", "# The well\n\nThe queen paid for the well. It is deep.\n\n# Use\n\nPeople drink."
)
CREW = ("planner", "reader-1", "reader-2", "reader-3", "verifier-1")


def job(quick: bool = True) -> DemoJob:
    customers = customers_for(Options(questions=("Who paid for the well?",), quick=quick), is_example=False)
    return DemoJob(find_crew("documents"), DOCUMENT, reader_of([DOCUMENT], points=True), customers)


def counter() -> TextCounter:
    return TextCounter(NullText(NullEngine(NullConfig()).info))


class Server:
    """Answers with values of the schema, and notes every request."""

    def __init__(self, status: int = 200) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.hints: list[tuple[str, str]] = []
        self.status = status

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content or b"{}")
        if not request.url.path.endswith("/chat/completions"):
            self.hints.append((request.headers.get("x-agent-id", ""), str(body.get("next"))))
            return httpx2.Response(200, json={})
        self.asked.append((request.headers["x-agent-id"], body))
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": {"message": "not for you"}})
        said = json.dumps(full(body["response_format"]["json_schema"]["schema"], 0))
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "prompt_tokens_details": {
                "cached_tokens": 60,
                "cached_tokens_by_kv_tier": {"device": 10, "host": 20, "disk": 30},
                "recomputed_tokens": 7,
            },
        }
        return httpx2.Response(200, json={"choices": [choice], "usage": usage})


def session(server: Server) -> tuple[RunBoard, list[float]]:
    board, read = RunBoard(), []

    async def sleep(seconds: float) -> None:
        read.append(seconds)

    async def run() -> None:
        async with Client("http://test", transport=httpx2.MockTransport(server)) as client:
            await converse(job(), job().customers[0], client, "any", board, sleep)

    asyncio.run(run())
    return board, read


def test_the_same_agents_answer_every_question_and_wait_for_the_person_between() -> None:
    server = Server()
    board, read = session(server)
    assert sorted(agent for agent, _ in server.asked) == sorted(2 * CREW)
    assert {status.agent for status in board.statuses.values()} == {f"almond/{name}" for name in CREW}
    assert board.answers["almond"][0].text == "The queen paid for the well."
    assert board.answers["almond"][0].heading == "The well"
    assert len(read) == 1
    assert ("reader-1", "person") in server.hints
    assert ("reader-1", "done") in server.hints
    assert server.hints.index(("reader-1", "person")) < server.hints.index(("reader-1", "done"))
    assert all(status.doing == "done" and not status.busy for status in board.statuses.values())


def test_each_turn_extends_the_agents_own_conversation_unchanged() -> None:
    """Otherwise its KV would not be found again."""
    server = Server()
    session(server)
    for name in CREW:
        prompts = [body["messages"] for agent, body in server.asked if agent == name]
        assert len(prompts) == 2
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(prompts))


def test_turns_are_recorded_from_usage() -> None:
    board, _ = session(Server())
    turn = board.turns[0]
    assert (turn.agent, turn.number, turn.task) == ("almond/planner", 1, "plans")
    assert (turn.prompt_tokens, turn.output_tokens, turn.recomputed_tokens) == (100, 5, 7)
    assert turn.cached_tokens == {"device": 10, "host": 20, "disk": 30}
    assert turn.start_s <= turn.first_token_s <= turn.end_s


def test_time_to_the_first_token_is_the_clients() -> None:
    board = RunBoard(began_s=1.0)
    hear = board.listener("almond", lambda: 9.0)
    hear(events.Spawned("reader-1", "planner", "reader"))
    hear(events.TurnEnded("reader-1", 2, events.TurnUsage(first_token_us=500_000), 2_000_000))
    turn = board.turns[0]
    assert (turn.start_s, turn.first_token_s, turn.end_s) == (6.0, 6.5, 8.0)


def test_what_a_server_refuses_for_good_ends_the_demo() -> None:
    with pytest.raises(StepwellError, match="not for you"):
        session(Server(status=403))


def test_the_rehearsal_is_the_job_without_a_model() -> None:
    found = rehearse(job(), counter())
    assert found.agents == tuple(f"{c.tenant}/{name}" for c in job().customers for name in CREW)
    assert found.turns == 3 * 2 * len(CREW)
    assert found.longest_tokens < found.held_tokens <= found.contexts_tokens
    assert rehearse(job(quick=False), counter()).turns == 3 * 3 * len(CREW)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), max_size=6))
def test_distinct_counts_each_prefix_once(contexts: list[tuple[int, ...]]) -> None:
    assert distinct(contexts) == len({one[:end] for one in contexts for end in range(1, len(one) + 1)})


def test_capacity_is_a_quarter_and_never_less_than_the_longest_turn() -> None:
    found = replace(rehearse(job(), counter()), held_tokens=40_000, longest_tokens=2_000)
    capacity = capacity_for(found, token_bytes=8, block_tokens=64, context_tokens=100_000)
    assert abs(capacity.device_tokens - 10_000) <= 32
    assert capacity.device_tokens % 64 == 0
    assert capacity.host_bytes == 40_000 // 3 * 8
    alone = capacity_for(replace(found, held_tokens=2_000), 8, 64, 100_000)
    assert alone.device_tokens >= 2_000 + 64
    off = without_tiers(capacity)
    assert (off.device_tokens, off.host_bytes, off.disk_bytes) == (capacity.device_tokens, 0, 0)
    with pytest.raises(BadInput, match="this model's context has 256"):
        capacity_for(found, 8, 64, 256)
