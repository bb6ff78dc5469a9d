"""What the engine is short of is pressure, and what fails is not tried for ever."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from stepwell.engines.base import EngineError
from stepwell.loop.requests import Finished
from stepwell.policy.types import BlockMeta, KvTier
from stepwell.tiers.base import Buffer
from tests.driver.harness import Rig, make_rig


def _at_one_depth(rig: Rig) -> int:
    """Most frames of one depth: blocks on the device and the frames that running turns have of their own."""
    scheduler = rig.driver.scheduler
    held = Counter(b.meta.depth for b in scheduler.block_manager.index.blocks.values() if b.device)
    for request in scheduler.table.running:
        turn = scheduler.table.turns[request]
        held.update(range(len(turn.path), len(turn.path) + turn.frames))
    return max(held.values(), default=0)


def test_no_depth_ever_holds_more_frames_than_the_engine_has_names_for() -> None:
    rig = make_rig(64, max_running=4, depth_frames=12)
    choice = random.Random(5)
    prompts = [[choice.randrange(1, 250) for _ in range(choice.randrange(10, 90))] for _ in range(40)]
    for start in range(0, 80, 8):
        answers = [rig.ask(prompts[(start + i) % 40]) for i in range(8)]
        for _ in range(3_000):
            rig.driver.step()
            assert _at_one_depth(rig) <= 12
            if all(answer.ended for answer in answers):
                break
        assert all(isinstance(answer.end, Finished) for answer in answers)
    rig.settle()


@pytest.mark.parametrize("chance", [0.01, 0.1, 0.5, 0.9, 1.0])
def test_turns_end_however_often_loads_fail(chance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(64)
    choice = random.Random(9)
    load = rig.engine.load
    tries = 0

    def flaky(block: BlockMeta, data: Buffer) -> None:
        nonlocal tries
        tries += 1
        if choice.random() < chance:
            raise EngineError("made to fail")
        load(block, data)

    monkeypatch.setattr(rig.engine, "load", flaky)
    prompts = [[choice.randrange(1, 250) for _ in range(60)] for _ in range(6)]
    first = [rig.ask(prompt) for prompt in prompts]
    rig.settle()
    for _ in range(4):
        rig.driver.demote_idle(KvTier.HOST)
        again = [rig.ask(prompt) for prompt in prompts]
        rig.settle()
        assert [answer.tokens for answer in again] == [answer.tokens for answer in first]
    blocks = sum(-(-len(prompt) // rig.engine.info.block_tokens) + 1 for prompt in prompts)
    assert 0 < tries <= 4 * 4 * blocks, "a load that failed is tried over and over"
