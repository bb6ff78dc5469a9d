"""Ray's own prefix tree, asked as Ray's router asks it."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from stepwell.bench.fleet.ray_prefix import RayPrefix, text_of
from stepwell.fleet.state import Fleet
from stepwell.fleet.types import RoutedTurn


def units(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def test_a_prompt_goes_where_its_prefix_was_sent_and_a_new_one_where_least_was() -> None:
    names = ["r0", "r1"]
    fleet, rule = Fleet(names), RayPrefix(names)

    def goes(*numbers: int) -> str:
        rule.text = text_of(units(*numbers))
        turn = RoutedTurn("t", prompt_tokens=64 * len(numbers))
        choice = rule.choose(fleet, turn, 0)
        assert choice is not None
        fleet.sent(turn, choice, 0)
        return choice.node

    first = goes(1, 2, 3, 4)
    assert goes(11, 12, 13) != first
    assert [goes(1, 2, 3, 4, 5), goes(1, 2, 3, 9)] == [first, first]
    assert goes(11, 12, 13, 14) != first
