"""Crews in virtual time: every arm does the same work, twice the same, and figures follow from outcomes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from stepwell import cli
from stepwell.bench.crews.hint_live import Forced
from stepwell.bench.crews.hint_work import Crews, role_of, script
from stepwell.bench.crews.hints import ARMS, BLOCK_TOKENS, _virtual, measure, place_for
from stepwell.bench.crews.hints_report import HINTS, LRU, ROOM, SILENT, HintsOutcome, HintsPlace, verdicts
from stepwell.bench.crews.virtual import VirtualNode
from stepwell.console.progress import ticker
from stepwell.errors import StepwellError
from stepwell.policy.types import BlockMeta, Caller, KvTier
from stepwell.simulate.hardware import MachineModel

TINY = Crews(crews=2, readers=2, rounds=1, turns=(2, 3), role_words=20, passage_words=30, starts_s=5.0)
SHARES = {"device": 0.5, "host": 0.25, "disk": 0.25}


def outcome(arm: str, mean_s: float, again: int, seed: int = 1) -> HintsOutcome:
    tokens = {"computed": 100, "device": 1, "host": 2, "disk": 3}
    return HintsOutcome(arm, seed, [mean_s, mean_s], mean_s, 9, 1_000, 500, tokens, 100, again, 0)


@pytest.fixture(scope="module")
def measured() -> list[HintsOutcome]:
    with ticker() as progress:
        return measure(TINY, 1, SHARES, _virtual, ARMS["null"], progress)


def test_every_arm_does_the_same_work(measured: list[HintsOutcome]) -> None:
    assert [one.arm for one in measured] == [ROOM, HINTS, SILENT, LRU]
    assert len({one.turns for one in measured}) == 1
    assert all(len(one.crew_s) == TINY.crews for one in measured)
    whole = {sum(one.prompt_tokens.values()) for one in measured}
    assert max(whole) - min(whole) <= 0.02 * min(whole)  # results differ with the order of readers alone
    room = measured[0]
    readers = [f"crew-{crew}/reader-{number}" for crew in range(2) for number in (1, 2)]
    assert room.turns == 2 * 3 + sum(map(TINY.reader_turns, readers)), "readers call their tools"
    assert room.recomputed_tokens == 0
    assert 0 < room.live_tokens <= room.all_tokens < room.computed_tokens + sum(room.prompt_tokens.values())


def test_a_run_in_virtual_time_is_the_same_every_time(measured: list[HintsOutcome]) -> None:
    place = place_for(measured[0].all_tokens, SHARES)
    assert _virtual(HINTS, TINY, place) == measured[1]


def test_the_arms_get_shares_of_what_the_crews_want() -> None:
    place = place_for(6_400, {"device": 0.25, "host": 0.5, "disk": 0.0})
    block_bytes = BLOCK_TOKENS * MachineModel().token_bytes
    assert place == HintsPlace(6_400, 1_600, 50 * block_bytes, 0)


def test_agents_say_what_the_script_says_and_nothing_else() -> None:
    says = script(TINY)
    agent = "crew-0/reader-1"
    turns = TINY.reader_turns(agent)

    class Turn:
        def __init__(self, agent: str) -> None:
            self.caller = Caller("local", agent=agent)

    said = [says(Turn(agent), turn) for turn in range(turns)]  # type: ignore[arg-type]
    assert [text.startswith(b"call ") for text in said] == [True] * (turns - 1) + [False]
    assert b'"steps"' in says(Turn("crew-0/planner"), 0)  # type: ignore[arg-type]
    assert [role_of(name) for name in ("a/planner", "a/reader-12", "a/writer-1")] == [
        "planner",
        "reader",
        "writer",
    ]


def test_live_calls_are_forced_and_decisions_replaced() -> None:
    forced = Forced(TINY)
    agent = "crew-0/reader-1"
    wanted = forced._wanted({"messages": []}, "reader", agent, 0)
    assert wanted["tool_choice"]["function"]["name"] == TINY.call(agent, 0)
    last = TINY.reader_turns(agent) - 1
    assert "tool_choice" not in forced._wanted({"messages": []}, "reader", agent, last)
    message: dict[str, Any] = {"content": "", "tool_calls": [{"id": "x"}]}
    forced._replace(message, "reader", agent, last)
    assert message["content"] and "tool_calls" not in message
    forced._replace(message, "verifier", "crew-0/verifier-1", 0)
    assert message["content"] == '{"ok": true, "score": 1}'


def test_verdicts_compare_seed_by_seed() -> None:
    outcomes = [
        outcome(HINTS, 9.0, 10), outcome(SILENT, 10.0, 20), outcome(LRU, 12.0, 30),
        outcome(HINTS, 90.0, 10, 2), outcome(SILENT, 100.0, 20, 2), outcome(LRU, 110.0, 30, 2),
    ]  # fmt: skip
    found = list(verdicts("x", outcomes))
    assert [round(one.measured or 0, 3) for one in found] == [0.9, 0.784, 0.1, 0.1]
    assert all(one.reached for one in found)
    worse = [
        replace(one, crew_s=[999.0], recomputed_tokens=90) if one.arm == HINTS else one for one in outcomes
    ]
    assert not any(one.reached for one in verdicts("x", worse))


def test_a_world_in_which_nothing_will_happen_is_said() -> None:
    node = VirtualNode(script(TINY), MachineModel(), device=8, host=0, disk=0, policy="stepwell")
    with pytest.raises(StepwellError, match="all agents wait"):
        node.run(asyncio.Event().wait())


def test_time_passes_without_anybody_waiting_for_it() -> None:
    node = VirtualNode(script(TINY), MachineModel(), device=8, host=0, disk=0, policy="stepwell")
    node.run(asyncio.sleep(3_600))
    assert 3_600_000_000 <= node.clock.now_us() <= 3_600_000_100


def test_a_transfer_whose_target_is_dropped_does_not_arrive() -> None:
    node = VirtualNode(script(TINY), MachineModel(), device=8, host=8, disk=8, policy="stepwell")
    block = BlockMeta(b"b" * 16, None, 0, 64, (), "local", 1_024)
    for dropped in (False, True):
        assert node.tiers.put_host(block, bytes(1_024))
        node.tiers.start(block, KvTier.HOST, KvTier.DISK)
        assert node.tiers.poll() == []
        if dropped:
            node.tiers.drop(block.id, KvTier.DISK)
        due_us = node.tiers.next_us()
        assert due_us is not None and due_us > node.clock.now_us()
        node.clock.sleep_us(due_us - node.clock.now_us())
        (moved,) = node.tiers.poll()
        assert moved.ok is not dropped
        node.tiers.drop(block.id, KvTier.DISK)


def test_an_unknown_engine_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "hints", "--engine", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err
