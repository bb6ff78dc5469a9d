"""Models with a running state: where the policy keeps it, and that every answer is right all the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from stepwell.loop.requests import Admitted
from stepwell.policy.types import Adopt, KvTier
from tests.driver.harness import Answer, Rig, expected_tokens, make_rig
from tests.driver.test_random_life import LIVE, Life
from tests.ledger.books import check_books

BLOCK, STATE = 16, 2048
"""Tokens of a block; bytes of a state, as much as the KV of 256 tokens."""


class Watched:
    """What a rig decided about states."""

    def __init__(self, rig: Rig) -> None:
        self.adopted: list[int] = []
        self._rig = rig
        step = rig.driver.scheduler.step

        def watched(now_us: int, events: Sequence[Any]) -> Any:
            plan = step(now_us, events)
            self.adopted += [one.block.depth for one in plan.actions if isinstance(one, Adopt)]
            return plan

        rig.driver.scheduler.step = watched  # type: ignore[method-assign]

    def ends(self) -> list[int]:
        """Where states are kept, in tokens, ascending."""
        blocks = self._rig.driver.scheduler.block_manager.index.blocks.values()
        checkpoints = self._rig.driver.scheduler.table.checkpoints
        kept = [block.meta for block in blocks if checkpoints.kept_by(block.meta)]
        return sorted(meta.depth * BLOCK + meta.n_tokens for meta in kept)


def rig_with_states(device: int = 64, **more: Any) -> tuple[Rig, Watched]:
    rig = make_rig(device, checkpoint_bytes=STATE, context_tokens=1024, **more)
    return rig, Watched(rig)


def text(n_tokens: int, first: int = 0) -> list[int]:
    return [33 + (first + i * 7) % 90 for i in range(n_tokens)]


def ask(rig: Rig, prompt: list[int], new_tokens: int = 4) -> list[int]:
    answer = rig.ask(prompt, new_tokens)
    rig.settle()
    assert answer.tokens == expected_tokens(prompt, new_tokens)
    return answer.tokens


def admitted(answer: Answer) -> Admitted:
    first = answer.outputs[0]
    assert isinstance(first, Admitted)
    return first


def test_a_turn_keeps_its_state_at_the_end_of_its_prompt_and_at_its_own() -> None:
    rig, watched = rig_with_states()
    ask(rig, text(100), new_tokens=40)
    assert watched.ends() == [96, 128]
    ask(rig, text(100), new_tokens=1)  # goes on from the end of its prompt


def test_a_state_between_costs_no_less_to_compute_than_the_kv_it_displaces() -> None:
    rig, watched = rig_with_states()
    ask(rig, text(700), new_tokens=1)
    assert watched.ends() == [256, 512, 688]


def test_the_distance_grows_with_the_depth() -> None:
    rig = make_rig(64, checkpoint_bytes=64, checkpoint_growth=4, context_tokens=1024)
    ask(rig, text(700), new_tokens=1)
    ends = Watched(rig).ends()
    assert ends == [16, 32, 48, 64, 96, 128, 176, 240, 320, 432, 576, 688]
    assert all(after - before >= after // 4 for before, after in pairwise(ends[:-1]))


def test_growth_0_keeps_one_in_every_block() -> None:
    rig, watched = rig_with_states(checkpoint_growth=0)
    ask(rig, text(100), new_tokens=40)
    assert watched.ends() == list(range(16, 129, 16))


def test_the_next_turn_goes_on_from_the_last_one() -> None:
    rig, watched = rig_with_states()
    prompt = text(100)
    prompt += ask(rig, prompt, new_tokens=40)
    answer = rig.ask([*prompt, *text(30, 5)], 1)
    rig.settle()
    assert admitted(answer).cached.device == 128
    assert not watched.adopted


def test_who_parts_from_a_stored_prefix_leaves_a_state_there() -> None:
    """The second one computes to where it parts, and takes the blocks that are there; the third goes on."""
    rig, watched = rig_with_states()
    shared = text(200)
    ask(rig, [*shared, *text(40, 1)])
    assert watched.ends() == [240]
    ask(rig, [*shared, *text(40, 2)])
    assert watched.adopted == list(range(12))
    assert watched.ends() == [192, 240, 240]
    third = rig.ask([*shared, *text(40, 3)], 4)
    rig.settle()
    assert admitted(third).cached.device == 192
    assert third.tokens == expected_tokens([*shared, *text(40, 3)], 4)
    blocks = rig.driver.scheduler.block_manager.index.blocks.values()
    assert len([block for block in blocks if block.meta.depth == 5]) == 1


def test_agents_that_come_together_have_the_state_where_they_part_made_once() -> None:
    rig, watched = rig_with_states()
    prompts = [[*text(200), *text(40, number)] for number in range(1, 5)]
    answers = [rig.ask(prompt, 4) for prompt in prompts]
    rig.settle()
    assert watched.ends() == [192, 240, 240, 240, 240]
    assert not watched.adopted
    assert [admitted(answer).cached.device for answer in answers] == [0, 192, 192, 192]
    assert [answer.tokens for answer in answers] == [expected_tokens(prompt, 4) for prompt in prompts]


def test_a_block_that_lay_on_disk_gets_its_state_and_takes_it_there() -> None:
    """Even while it is on its way up, ahead of need."""
    rig, watched = rig_with_states()
    shared = text(200)
    ask(rig, [*shared, *text(40, 1)])
    rig.driver.demote_idle(KvTier.DISK)
    rig.settle()
    ask(rig, [*shared, *text(40, 2)])
    assert watched.ends() == [192, 240, 240]
    rig.driver.demote_idle(KvTier.DISK)
    rig.settle()
    third = rig.ask([*shared, *text(40, 3)], 1)
    rig.settle()
    assert admitted(third).cached.disk == 192


def test_a_preempted_turn_goes_on_where_it_was() -> None:
    rig, _ = rig_with_states(device=8, max_running=4)
    prompts = [text(50, number) for number in range(3)]
    answers = [rig.ask(prompt, 40) for prompt in prompts]
    rig.settle()
    assert rig.driver.scheduler.table.preemptions
    assert [answer.tokens for answer in answers] == [expected_tokens(prompt, 40) for prompt in prompts]


def test_blocks_between_take_no_room_for_a_state() -> None:
    rig, _ = rig_with_states(host=64)
    ask(rig, text(700), new_tokens=1)
    rig.driver.demote_idle(KvTier.HOST)
    rig.settle()
    memory = rig.driver.scheduler.block_manager
    assert memory.host_used == rig.tiers.usage(KvTier.HOST).used_bytes == 43 * BLOCK * 8 + 3 * STATE
    rig.driver.stop()
    check_books(rig.books, rig.keeper)


class StatesLife(Life):
    """The same life on a model that has running states of all sizes."""

    @initialize(
        device=st.integers(7, 24),
        host=st.sampled_from([0, 3, 10, 40]),
        disk=st.sampled_from([0, 4, 30, 400]),
        always_load=st.booleans(),
        max_running=st.integers(1, 6),
        eviction=st.sampled_from(LIVE),
        state=st.sampled_from([8, 128, 512, 1 << 20]),
        growth=st.sampled_from([0, 1, 3, 8]),
        states=st.sampled_from([0, 0, 2, 3, 6, 12]),
    )
    def build(
        self, device: int, host: int, disk: int, state: int, growth: int, states: int, **more: Any
    ) -> None:
        """``states``: how many the device holds; 0: one for every block."""
        self.rig = make_rig(
            device,
            host,
            disk,
            checkpoint_bytes=state,
            checkpoint_growth=growth,
            device_states=states,
            **more,
        )
        self.is_built()


TestStatesLife = StatesLife.TestCase
TestStatesLife.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
