"""What is remembered, what makes two turns the same, and what the server still hears."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from stepwell.agents.client import CallingAgent, Client, TurnRefused
from stepwell.errors import BadInput
from stepwell.fit.memo import Memo, Remembering, fingerprint, turn_key
from tests.agents.scripted import failure, never_sleep
from tests.fit.quiz import Counted

CALLER = CallingAgent("s", "solver-1", "solver", "planner")
BODY: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Why?"}],
    "max_tokens": 9,
}


def quiet(why: str, wait_ms: int) -> None:
    """Nobody looks on."""


async def chat(
    transport: Remembering, body: dict[str, Any], caller: CallingAgent = CALLER, **hint: Any
) -> str:
    async with Client("http://scripted", transport=transport, sleep=never_sleep) as client:
        reply = await client.chat(body, caller, hint or None, quiet)
        return f"{reply.message['content']} {reply.usage.cost_microusd}"


def counting() -> Counted:
    server = Counted(lambda asked: f"answer {len(server.asked)}")
    return server


def test_the_same_turn_is_asked_once_whoever_asks(tmp_path: Path) -> None:
    server = counting()
    first = Remembering(Memo(tmp_path / "memo.db"), server)
    said = asyncio.run(chat(first, BODY))
    other = CallingAgent("another", "solver-7", "solver", None)
    again = Remembering(Memo(tmp_path / "memo.db"), server)
    assert asyncio.run(chat(again, BODY, other, next="tool", expected_ms=5)) == said == "answer 1 9"
    assert len(server.asked) == 1
    assert (first.counts.asked, first.counts.remembered) == (1, 0)
    assert (again.counts.asked, again.counts.remembered) == (0, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"temperature": 0.5},
        {"seed": 4},
        {"max_tokens": 8},
        {"logit_bias": {"2": 1.0}},
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"model": "larger"},
        {"messages": [{"role": "user", "content": "Why not?"}]},
    ],
)
def test_whatever_an_answer_depends_on_makes_another_turn(other: dict[str, Any]) -> None:
    server = counting()
    transport = Remembering(Memo(), server)
    assert asyncio.run(chat(transport, BODY)) != asyncio.run(chat(transport, BODY | other))


def test_a_seed_counts_only_where_something_is_left_to_chance() -> None:
    greedy, warm = BODY | {"temperature": 0.0}, BODY | {"temperature": 0.8}
    assert turn_key("m", greedy | {"seed": 1}) == turn_key("m", greedy | {"seed": 2})
    assert turn_key("m", warm | {"seed": 1}) != turn_key("m", warm | {"seed": 2})


def test_ids_of_calls_do_not_make_another_turn() -> None:
    def body(name: str) -> dict[str, Any]:
        call = {"id": name, "type": "function", "function": {"name": "add", "arguments": "{}"}}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
        return BODY | {"messages": [said, {"role": "tool", "tool_call_id": name, "content": "3"}]}

    assert turn_key("m", body("call_1")) == turn_key("m", body("call_2"))
    assert turn_key("m", body("call_1")) != turn_key("n", body("call_1"))


def test_another_model_behind_the_same_name_is_another_model() -> None:
    small = {"data": [{"id": "m", "created": 1, "context_window": 512}, {"id": "n"}]}
    later = {"data": [{"id": "m", "created": 2, "context_window": 512}]}
    large = {"data": [{"id": "m", "created": 1, "context_window": 8192}]}
    assert fingerprint("m", small) == fingerprint("m", later) != fingerprint("m", large)


def test_what_was_refused_is_not_remembered() -> None:
    answers = iter([failure(400, "bad", "Not now."), "better"])
    server = Counted(lambda asked: next(answers))
    server._answer = lambda said, body: (  # type: ignore[method-assign]
        said if not isinstance(said, str) else Counted._answer(server, said, body)
    )
    transport = Remembering(Memo(), server)
    with pytest.raises(TurnRefused, match="Not now"):
        asyncio.run(chat(transport, BODY))
    assert asyncio.run(chat(transport, BODY)).startswith("better")
    assert transport.counts.asked == 1


def test_equal_turns_at_once_are_asked_once() -> None:
    async def both() -> None:
        await asyncio.gather(*(chat(transport, BODY) for _ in range(5)))

    server = counting()
    transport = Remembering(Memo(), server)
    asyncio.run(both())
    assert (len(server.asked), transport.counts.remembered) == (1, 4)


def test_hints_are_for_agents_that_the_server_has_met() -> None:
    async def hints() -> None:
        async with Client("http://scripted", transport=transport) as client:
            await client.say(CALLER, {"next": "tool"})
            await client.chat(BODY, CALLER, None, quiet)
            await client.say(CALLER, {"next": "done"})

    server = counting()
    transport = Remembering(Memo(), server)
    asyncio.run(hints())
    assert server.hints == [("solver-1", {"next": "done"})]


def test_without_a_memory_every_turn_is_asked() -> None:
    server = counting()
    transport = Remembering(None, server)
    assert asyncio.run(chat(transport, BODY)) != asyncio.run(chat(transport, BODY))
    assert transport.counts.asked == 2


def test_the_oldest_turns_are_forgotten_first(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo.db")
    for number in range(5):
        memo.put(str(number), b"{}")
    memo.close()
    kept = Memo(tmp_path / "memo.db", max_turns=2)
    assert [kept.get(str(number)) for number in range(5)] == [None, None, None, b"{}", b"{}"]


def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Remember the milk, and much else besides. " * 50)
    database = sqlite3.connect(tmp_path / "other.db")
    database.execute("CREATE TABLE mine(x)")
    database.commit()
    database.close()
    for name in ("notes.txt", "other.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(BadInput, match=name):
            Memo(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
