"""Properties of the shipped eviction formula: what must hold for every input, whatever the margins are."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.eviction.gaps import TIME_EDGES_US, GapClass, bin_of, index_of
from stepwell.policy.eviction.value import (
    ACTIVE,
    CERTAIN,
    EvictionTuning,
    agent_value,
    eviction_key,
    is_stale,
    joint_chance,
    joint_index,
    pays_for_write,
)

chances = st.integers(0, CERTAIN)
indexes = st.integers(0, 1 << 40)
amounts = st.integers(0, 1 << 40)
weights = st.integers(1, 1000)
times_us = st.integers(0, 1 << 42)


@given(indexes, indexes, weights, amounts, amounts)
def test_a_sooner_return_is_never_worth_less(one: int, other: int, weight: int, held: int, part: int) -> None:
    low, high = sorted((one, other))
    assert agent_value(low, weight, held, part) <= agent_value(high, weight, held, part)


@given(indexes, weights, amounts, amounts, amounts)
def test_holding_more_never_makes_a_context_worth_more(
    index: int, weight: int, held: int, more: int, part: int
) -> None:
    assert agent_value(index, weight, held + more, part) <= agent_value(index, weight, held, part)
    assert agent_value(index, weight, min(held, part), part) == index * weight


def test_beyond_its_part_a_tenants_contexts_count_in_proportion() -> None:
    assert agent_value(300, 2, tenant_held=10, tenant_part=10) == 600
    assert agent_value(300, 2, tenant_held=20, tenant_part=10) == 300
    assert agent_value(300, 2, tenant_held=30, tenant_part=10) == 200


@given(indexes, weights, amounts, amounts)
def test_an_active_agent_is_worth_more_than_any_idle_one(
    index: int, weight: int, held: int, part: int
) -> None:
    assert agent_value(index, weight, held, part) < ACTIVE


@given(indexes, st.integers(1, 1 << 20), st.integers(1, 1 << 20))
def test_what_costs_more_to_get_back_goes_later(value: int, cost: int, more: int) -> None:
    assert eviction_key(value, cost) <= eviction_key(value, cost + more)


@given(indexes, indexes, chances)
def test_a_declaration_is_worth_at_least_itself_and_at_most_the_better_of_both(
    learned: int, declared: int, chance: int
) -> None:
    assert declared <= joint_index(learned, declared, chance) <= max(learned, declared)
    assert joint_index(learned, declared, CERTAIN) == declared


@given(chances, chances)
def test_a_joint_chance_is_a_chance_and_no_smaller_than_the_declared_one(learned: int, declared: int) -> None:
    assert declared <= joint_chance(learned, declared) <= CERTAIN
    assert joint_chance(learned, 0) == learned


@given(chances, chances, amounts, amounts, st.integers(1, 8))
def test_a_likelier_return_never_makes_a_write_pay_less(
    one: int, other: int, saved_us: int, written_us: int, gain: int
) -> None:
    low, high = sorted((one, other))
    assert pays_for_write(low, saved_us, written_us, gain) <= pays_for_write(high, saved_us, written_us, gain)
    assert not pays_for_write(0, saved_us, written_us, gain)
    assert not pays_for_write(CERTAIN, written_us, written_us, gain)


@given(times_us, times_us, times_us, times_us)
def test_a_stale_value_stays_stale(since_us: int, age_us: int, later_us: int, more_us: int) -> None:
    tuning = EvictionTuning()
    valued_us = since_us + age_us
    now_us = valued_us + later_us
    assert not is_stale(valued_us, since_us, valued_us + tuning.least_stale_us, tuning)
    assert is_stale(valued_us, since_us, now_us, tuning) <= is_stale(
        valued_us, since_us, now_us + more_us, tuning
    )


@given(st.integers(1, len(TIME_EDGES_US) - 3), st.integers(1, len(TIME_EDGES_US) - 3))
def test_a_return_known_to_come_sooner_has_the_higher_index(one: int, other: int) -> None:
    """For a known return the rule ranks as Belady does."""
    soon, late = sorted((one, other))

    def index(k: int) -> int:
        known = GapClass(len(TIME_EDGES_US))
        known.outlast(0, k)
        known.end(k)
        return index_of(known.hazards(), TIME_EDGES_US, 0)

    assert bin_of(TIME_EDGES_US, TIME_EDGES_US[soon]) == soon
    assert index(soon) >= index(late)
    assert (index(soon) == index(late)) == (soon == late)


def test_every_margin_is_a_positive_number_with_a_name() -> None:
    tuning = EvictionTuning()
    assert all(getattr(tuning, field.name) > 0 for field in fields(tuning))
