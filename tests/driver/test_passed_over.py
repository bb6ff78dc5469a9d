"""A turn at its bound that was passed over, as it waited for another's prefix, holds up neither the
leader nor heavier ones when there is no room for it."""

from __future__ import annotations

import pytest

from stepwell.loop.requests import Admitted
from stepwell.policy.contracts import Contract
from stepwell.policy.turns import Turn
from tests.driver.harness import Answer, Rig
from tests.driver.test_service_tiers import PRIORITY, SECOND, preempted, prompt, steps, tiered

FLEX = Contract("flex", weight=1, max_wait_us=2 * SECOND)


def flex(rig: Rig, seed: int, tokens: int, new_tokens: int) -> tuple[Answer, Turn]:
    answer = rig.ask(prompt(seed, tokens), new_tokens, tenant=f"f{seed}", service_tier="flex")
    steps(rig, 2)
    return answer, max(rig.driver.scheduler.table.turns.values(), key=lambda turn: turn.id)


def waits_for_a_prefix_until_it_is_passed_over(rig: Rig, turn: Turn) -> None:
    at_bound = rig.driver.scheduler.table.waiting.at_bound
    while turn not in at_bound.front(9):
        turn.behind = True  # found out anew in each step
        rig.driver.step()
    turn.behind = False


@pytest.mark.parametrize("host", [200, 0])
def test_the_leader_displaces_after_twice_its_bound_though_one_that_it_passed_has_no_room(host: int) -> None:
    """Without a host only the first turn of the queue is looked at."""
    rig = tiered(PRIORITY, FLEX, device=30, host=host, decode_us_per_step=60_000)
    paid = rig.ask(prompt(2, 200), 260, tenant="p", service_tier="priority")
    steps(rig, 4)
    asked_us = rig.clock.now_us()
    first, passed = flex(rig, 1, 400, 10)
    second, leader = flex(rig, 5, 390, 10)
    waits_for_a_prefix_until_it_is_passed_over(rig, passed)
    while not leader.leads:
        passed.behind = True
        rig.driver.step()
    passed.behind = False
    while not (first.tokens or second.tokens):
        rig.driver.step()
    assert preempted(paid) == 1
    assert rig.clock.now_us() - asked_us < 2 * FLEX.max_wait_us + 2 * SECOND
    rig.settle()


def test_a_paid_turn_for_which_there_is_room_does_not_stay_behind_it() -> None:
    rig = tiered(PRIORITY, FLEX, device=30, decode_us_per_step=60_000)
    first, leader = flex(rig, 1, 200, 200)
    _, passed = flex(rig, 5, 390, 10)
    rig.driver.scheduler.table.waiting.at_bound.add(leader)
    while not passed.aged:
        rig.driver.step()
    at_bound = rig.driver.scheduler.table.waiting.at_bound
    at_bound.ended(leader)  # as if it had come to its bound only after the other one was passed over
    waits_for_a_prefix_until_it_is_passed_over(rig, passed)
    at_bound.add(leader)
    rig.driver.step()
    assert leader.leads and at_bound.front(9) == [passed]
    paid = rig.ask(prompt(9, 40), 4, tenant="p", service_tier="priority")
    steps(rig, 3)
    assert not first.ended
    assert any(isinstance(output, Admitted) for output in paid.outputs)
    rig.settle()
