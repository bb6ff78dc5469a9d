"""What another token is worth: the rule, at its edges and over all numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents import penalty
from stepwell.agents.penalty import Penalty

RULE = Penalty(token_price_microusd=2_000_000, answer_value_microusd=500, eos_bias=4.0, eos_bias_tokens=400)
"""Two micro-dollars a token, and an answer is worth five hundred: 250 tokens are worth certainty."""
GAINS = st.floats(0, 1)
TOKENS = st.integers(0, 10_000)
COUNTS = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("gain", "tokens", "yes"), [(1.0, 249, True), (1.0, 250, False), (0.1, 24, True), (0, 0, False)]
)
def test_tokens_are_weighed_against_gain(gain: float, tokens: int, yes: bool) -> None:
    assert penalty.pays(RULE, gain, tokens) is yes
    assert penalty.pays(None, gain, tokens)


@given(GAINS, TOKENS, st.integers(0, 10**7), st.integers(0, 10**6))
def test_a_higher_price_never_buys_more(gain: float, tokens: int, price: int, more: int) -> None:
    cheap, dear = Penalty(price, 500), Penalty(price + more, 500)
    assert penalty.pays(cheap, gain, tokens) or not penalty.pays(dear, gain, tokens)
    assert penalty.turn_tokens(dear, 1_000, gain) <= penalty.turn_tokens(cheap, 1_000, gain)


@given(GAINS, st.integers(1, 4_000))
def test_a_turn_has_room_for_a_word_and_never_more_than_its_role_allows(gain: float, most: int) -> None:
    got = penalty.turn_tokens(RULE, most, gain)
    assert min(most, penalty.SHORTEST_TURN_TOKENS) <= got <= most
    assert penalty.turn_tokens(None, most, gain) == most
    assert penalty.turn_tokens(Penalty(0, 500), most, gain) == most


def test_each_failure_makes_the_next_attempt_worth_less() -> None:
    assert [penalty.gain_of_attempt(0.5, failures) for failures in (0, 2, 6)] == [0.5, 0.25, 0.125]


@given(COUNTS)
def test_a_vote_gains_less_the_more_agree(counts: list[int]) -> None:
    gain = penalty.gain_of_vote(counts)
    assert 0 <= gain <= 0.5
    counts[counts.index(max(counts))] += 1
    assert penalty.gain_of_vote(counts) < gain or gain == 0


def test_the_first_vote_decides_everything() -> None:
    assert penalty.gain_of_vote([]) == 1.0


@given(COUNTS, st.integers(0, 5), st.data())
def test_what_is_settled_cannot_be_turned(counts: list[int], left: int, data: st.DataObject) -> None:
    if not penalty.is_settled(counts, left):
        return
    leader = counts.index(max(counts))
    for _ in range(left):
        counts[data.draw(st.integers(0, len(counts) - 1))] += 1
    assert counts.index(max(counts)) == leader
    assert counts.count(max(counts)) == 1


def test_a_tie_is_not_settled() -> None:
    assert not penalty.is_settled([2, 1], 1)
    assert penalty.is_settled([3, 1], 1)
    assert not penalty.is_settled([], 0)


@given(TOKENS, TOKENS)
def test_the_end_grows_likelier_with_what_is_spent(spent: int, more: int) -> None:
    assert 0 <= penalty.eos_bias(RULE, spent) <= penalty.eos_bias(RULE, spent + more) <= 4.0
    assert penalty.eos_bias(RULE, spent) % penalty.BIAS_STEP == 0


def test_the_bias_begins_at_nothing_and_ends_whole() -> None:
    assert [penalty.eos_bias(RULE, spent) for spent in (0, 100, 400, 9_999)] == [0.0, 1.0, 4.0, 4.0]
    assert penalty.eos_bias(None, 400) == penalty.eos_bias(Penalty(1, 1), 400) == 0.0
