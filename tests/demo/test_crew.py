"""The crew's script: who asks whom, what each agent keeps, and what the plan makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from stepwell.demo.client import Caller, Message, Reply, render_plain
from stepwell.demo.crew import QUICK, Board, Brief, Crew, Shape
from stepwell.demo.plan import TextCounter, capacity_for, filler, rehearse, without_tiers
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.errors import BadInput
from tests.demo.fake import CUSTOMERS

SHAPE = replace(QUICK, readers=2, pages=2)
PAGES = (("page A", "page B"), ("page C", "page D"))
BRIEF = Brief(CUSTOMERS[0], "What all know.", PAGES, ("quote B", "quote D"), ("quote D",))


@dataclass
class Script:
    """An API that says what it was asked and notes every call."""

    calls: list[tuple[Caller, list[Message]]] = field(default_factory=list)

    async def turn(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        caller: Caller,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        self.calls.append((caller, [dict(message) for message in messages]))
        await asyncio.sleep(0)
        usage = {
            "prompt_tokens": 100 * len(self.calls),
            "completion_tokens": 5,
            "prompt_tokens_details": {
                "cached_tokens_by_kv_tier": {"device": 10, "host": 20, "disk": 30},
                "recomputed_tokens": 7,
            },
        }
        return Reply(10.0, f" {caller.name} said\n{len(self.calls)}", 10.5, 11.0, usage)


def run_crew() -> tuple[Script, Board, list[float]]:
    api, board, slept = Script(), Board(began_s=9.0), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    board.answers["almond"] = asyncio.run(Crew(BRIEF, SHAPE, api, board, sleep).run())
    return api, board, slept


def test_every_agent_takes_its_turns() -> None:
    api, board, _ = run_crew()
    turns = {key: status.turns for key, status in board.statuses.items()}
    assert turns == {
        "almond/lead": 3,
        "almond/reader-1": 4,
        "almond/reader-2": 4,
        "almond/critic": 2,
        "almond/writer": 2,
    }
    assert len(api.calls) == len(board.turns) == 15
    assert api.calls[-1][0].name == "lead"
    assert board.answers["almond"] == "lead said 15"
    assert all(status.doing == "done" and not status.busy for status in board.statuses.values())


def test_each_turn_extends_the_agents_own_conversation_unchanged() -> None:
    """Otherwise its KV would not be found again."""
    api, _, _ = run_crew()
    seen: dict[str, list[Message]] = {}
    for caller, messages in api.calls:
        before = seen.get(caller.session_id, [{"role": "system", "content": "What all know."}])
        assert messages[: len(before)] == before
        assert messages[0]["content"] == "What all know."
        seen[caller.session_id] = messages
    assistant = [m["content"] for m in seen["almond/writer"] if m["role"] == "assistant"]
    assert assistant[0].startswith(" writer said\n")


def test_words_go_from_agent_to_agent() -> None:
    api, _, _ = run_crew()
    heard = {name: "\n".join(words) for name, words in questions(api).items()}
    assert "lead said" in heard["critic"]
    assert "critic said" in heard["reader-1"]
    assert "reader-1 said" in heard["critic"]
    assert "reader-2 said" in heard["critic"]
    assert "critic said" in heard["lead"]
    assert "lead said" in heard["writer"]
    assert "writer said" in heard["lead"]
    assert all("quote D" in heard[name] for name in ("lead", "critic", "writer", "reader-2"))


def test_readers_read_their_own_part() -> None:
    api, _, _ = run_crew()
    heard = "\n".join(questions(api)["reader-2"])
    assert "page C" in heard
    assert "page D" in heard
    assert "page A" not in heard


def questions(api: Script) -> dict[str, list[str]]:
    """By agent, the last message of each of its turns."""
    asked: dict[str, list[str]] = {}
    for caller, messages in api.calls:
        asked.setdefault(caller.name, []).append(messages[-1]["content"])
    return asked


def test_agents_say_who_they_are() -> None:
    api, _, _ = run_crew()
    callers = {caller.name: caller for caller, _ in api.calls}
    assert callers["critic"].headers() == {
        "Authorization": "Bearer sk-demo-almond",
        "X-Session-ID": "almond/critic",
        "X-Agent-Name": "critic",
        "X-Parent-Session-ID": "almond/lead",
    }
    assert "X-Parent-Session-ID" not in callers["lead"].headers()
    assert callers["reader-2"].headers()["X-Session-ID"] == "almond/reader-2"
    assert callers["reader-2"].headers()["X-Agent-Name"] == "reader"


def test_only_the_plan_is_declared_to_be_for_the_readers() -> None:
    """The books count what the lead says as shown to the customer, unless it says for whom it is."""
    api, board, _ = run_crew()
    tasks = [turn.task for turn in board.turns if turn.agent == "almond/lead"]
    headers = [caller.headers() for caller, _ in api.calls if caller.name == "lead"]
    declared = {task: sent.get("X-Agent-Next") for task, sent in zip(tasks, headers, strict=True)}
    assert declared == {"plans": "child", "drafts": None, "answers": None}


def test_turns_are_recorded_from_usage() -> None:
    _, board, _ = run_crew()
    turn = board.turns[0]
    assert (turn.agent, turn.number, turn.task) == ("almond/lead", 1, "plans")
    assert (turn.start_s, turn.ttft_s, turn.end_s) == (1.0, 0.5, 2.0)
    assert turn.cached_tokens == {"device": 10, "host": 20, "disk": 30}
    assert turn.recomputed_tokens == 7


def test_agents_wait_the_same_times_in_every_run() -> None:
    first, second = run_crew()[2], run_crew()[2]
    assert sorted(first) == sorted(second)
    assert len(first) == 2 * 4 + 2
    assert min(first) > 0


def counter() -> TextCounter:
    return TextCounter(NullText(NullEngine(NullConfig()).info))


def test_the_rehearsal_finds_every_context() -> None:
    rehearsal = rehearse([BRIEF], SHAPE, counter())
    assert set(rehearsal.contexts) == {
        f"almond/{n}" for n in ("lead", "reader-1", "reader-2", "critic", "writer")
    }
    assert rehearsal.turns == 15
    assert rehearsal.longest > rehearsal.shared_tokens >= len("What all know.")
    assert rehearsal.held_tokens == sum(rehearsal.contexts.values()) - 4 * rehearsal.shared_tokens


def test_capacity_is_a_quarter_and_never_less_than_the_longest_turn() -> None:
    briefs = [replace(BRIEF, customer=customer) for customer in CUSTOMERS]
    rehearsal = rehearse(briefs, Shape(readers=2, pages=2), counter())
    capacity = capacity_for(rehearsal, token_bytes=8, block_tokens=64, context_tokens=100_000)
    assert abs(capacity.device_tokens - capacity.held_tokens / 4) <= 32
    assert capacity.device_tokens % 64 == 0
    assert capacity.host_bytes == capacity.held_tokens // 3 * 8
    alone = capacity_for(rehearse([BRIEF], SHAPE, counter()), 8, 64, 100_000)
    assert alone.device_tokens >= rehearse([BRIEF], SHAPE, counter()).longest + 64
    off = without_tiers(capacity)
    assert (off.device_tokens, off.host_bytes, off.disk_bytes) == (capacity.device_tokens, 0, 0)


def test_a_model_with_too_short_a_context_is_refused() -> None:
    with pytest.raises(BadInput, match="this model's context has 256"):
        capacity_for(rehearse([BRIEF], SHAPE, counter()), 8, 64, 256)


def test_filler_has_the_length_of_an_answer() -> None:
    assert counter()(filler(24, counter())) == 24


def test_a_model_without_a_template_gets_plain_text() -> None:
    messages = [
        {"role": "system", "content": "Know this."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": " Because."},
        {"role": "user", "content": "And?"},
    ]
    text = render_plain(messages)
    assert text == "Know this.\n\nQuestion: Why?\n\nAnswer: Because.\n\nQuestion: And?\n\nAnswer:"
    assert text.startswith(render_plain(messages[:2]))
