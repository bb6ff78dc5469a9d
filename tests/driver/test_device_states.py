"""Fewer running states on the device than blocks: a shortage is pressure, and nothing is computed wrongly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from stepwell.engines.base import EngineError
from stepwell.loop.requests import Finished
from stepwell.policy.types import BlockMeta, KvTier
from stepwell.tiers.base import Buffer
from tests.driver.harness import Rig, expected_tokens, make_rig
from tests.driver.test_checkpoints import STATE, admitted, ask, text


def rig_with(states: int, device: int = 64, **more: Any) -> tuple[Rig, Counter[str]]:
    """A rig whose device holds so many states, and how often it decided what; also how many were there."""
    rig = make_rig(device, checkpoint_bytes=STATE, device_states=states, context_tokens=1024, **more)
    decided: Counter[str] = Counter()
    step = rig.driver.scheduler.step

    def watched(now_us: int, events: Sequence[Any]) -> Any:
        plan = step(now_us, events)
        decided.update(type(one).__name__ for one in plan.actions)
        return plan

    rig.driver.scheduler.step = watched  # type: ignore[method-assign]
    return rig, decided


def test_a_state_leaves_for_another_and_comes_back_with_nothing_computed_again() -> None:
    """Six agents keep two states each, the device holds four: their blocks stay, their states do not."""
    rig, decided = rig_with(states=4, device=64, host=64)
    prompts = [text(70, first) for first in range(6)]
    longer = [prompt + ask(rig, prompt, 20) for prompt in prompts]
    assert decided["DropState"] and not decided["LoadState"]
    memory = rig.driver.scheduler.block_manager
    assert memory.device_count == 6 * 5 and len(memory.states.held) <= 4
    for prompt in longer:
        answer = rig.ask([*prompt, *text(20, 5)], 4)
        rig.settle()
        assert admitted(answer).cached.device == 80
        assert answer.tokens == expected_tokens([*prompt, *text(20, 5)], 4)
    assert decided["LoadState"] >= 2


def test_a_state_that_nothing_below_takes_is_forgotten_and_its_block_stays() -> None:
    rig, decided = rig_with(states=4, host=0, disk=0)
    for first in range(6):
        ask(rig, text(70, first), 20)
    memory = rig.driver.scheduler.block_manager
    assert decided["DropState"] and memory.device_count == 6 * 5
    kept = [block for block in memory.index.blocks.values() if memory.states.keeps(block)]
    assert 0 < len(kept) <= 4
    ask(rig, [*text(70), *text(30, 5)])


def test_a_long_path_needs_the_state_at_its_end_alone() -> None:
    """What is loaded has a state in every block, and the device has room for three."""
    rig, decided = rig_with(states=3, checkpoint_growth=0, host=64)
    prompt = text(300)
    prompt += ask(rig, prompt, 20)
    rig.driver.demote_idle(KvTier.HOST)
    rig.settle()
    kept = len(rig.driver.scheduler.block_manager.index.blocks)
    answer = rig.ask([*prompt, *text(20, 5)], 4)
    rig.settle()
    assert kept >= 18 and decided["DropState"]
    assert admitted(answer).cached.host > 0
    assert answer.tokens == expected_tokens([*prompt, *text(20, 5)], 4)


def test_many_turns_at_once_keep_what_there_is_room_for() -> None:
    rig, _ = rig_with(states=2, max_running=8, host=64)
    prompts = [text(60, number) for number in range(8)]
    answers = [rig.ask(prompt, 40) for prompt in prompts]
    rig.settle()
    assert [answer.tokens for answer in answers] == [expected_tokens(prompt, 40) for prompt in prompts]


@pytest.mark.parametrize("chance", [0.1, 0.5, 1.0])
def test_turns_end_however_often_states_do_not_load(chance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, decided = rig_with(states=3, host=64)
    choice = random.Random(11)
    load = rig.engine.load_state

    def flaky(block: BlockMeta, data: Buffer) -> None:
        if choice.random() < chance:
            raise EngineError("made to fail")
        load(block, data)

    monkeypatch.setattr(rig.engine, "load_state", flaky)
    prompts = [text(70, first) for first in range(6)]
    for turn in range(4):
        answers = [rig.ask(prompt, 10) for prompt in prompts]
        for _ in range(4_000):
            if all(answer.ended for answer in answers):
                break
            rig.driver.step()
            rig.clock.sleep_us(1_000)
        assert all(isinstance(answer.end, Finished) for answer in answers), f"turn {turn}"
        for answer, prompt in zip(answers, prompts, strict=True):
            assert answer.tokens == expected_tokens(prompt, 10)
        prompts = [[*p, *a.tokens, *text(9)] for p, a in zip(prompts, answers, strict=True)]
    assert decided["LoadState"]
    rig.settle()
