"""What is decided between the models of a server: whose step is next, and how host and disk are divided."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.between_models import StepOrder, divide, granted, room_shares
from stepwell.policy.contracts import DEFAULT_CONTRACTS, WHOLE, Contract, Shares

TIERS = ("priority", "default", "flex")
STEP_US = st.integers(1_000, 400_000)


def spent(order: StepOrder, demands: list[list[str]], steps: list[int], rounds: int) -> list[int]:
    """Time that each model got while all of them always had something to do."""
    times = [0] * len(demands)
    for _ in range(rounds):
        model = order.pick(range(len(demands)), demands)
        order.took(model, steps[model], demands)
        times[model] += steps[model]
    return times


@given(
    st.lists(st.sets(st.sampled_from(TIERS), min_size=1), min_size=2, max_size=4),
    st.lists(STEP_US, min_size=4),
)
def test_each_model_gets_its_share_of_compute_however_long_its_steps_are(
    demands: list[set[str]], steps: list[int]
) -> None:
    order = StepOrder(DEFAULT_CONTRACTS, len(demands))
    tiers = [sorted(one) for one in demands]
    times = spent(order, tiers, steps, 200)
    shares = order.shares(tiers)
    whole, longest = sum(times), max(steps[: len(demands)])
    for model, share in enumerate(shares):
        owed = whole * share // sum(shares)
        # Beyond rounding, one step of everybody's is between what is owed and what was had.
        assert abs(times[model] - owed) <= len(demands) * longest * WHOLE // min(shares) + 1


@given(st.lists(st.sets(st.sampled_from(TIERS)), min_size=1, max_size=5).filter(any))
def test_a_service_tier_has_its_guarantee_over_all_models_together(demands: list[set[str]]) -> None:
    shares = StepOrder(DEFAULT_CONTRACTS, len(demands)).shares([sorted(one) for one in demands])
    assert sum(shares) <= WHOLE
    there = [one for one in DEFAULT_CONTRACTS if any(one.name in tiers for tiers in demands)]
    for contract in there:
        alone = [share for share, tiers in zip(shares, demands, strict=True) if contract.name in tiers]
        assert sum(alone) >= contract.guaranteed.step_tokens - len(demands)  # rounding


def test_who_comes_back_has_saved_nothing_up() -> None:
    order = StepOrder((Contract("default"),), 2)
    for _ in range(100):
        assert order.pick([0], [["default"], []]) == 0
        order.took(0, 10_000, [["default"], []])
    both: list[list[str]] = [["default"], ["default"]]
    picks = []
    for _ in range(10):
        picks.append(order.pick([0, 1], both))
        order.took(picks[-1], 10_000, both)
    assert picks.count(1) in (5, 6)


def test_upkeep_of_a_model_without_turns_does_not_wait() -> None:
    order = StepOrder((Contract("default", guaranteed=Shares(step_tokens=900)),), 2)
    assert order.pick([0, 1], [["default"], []]) == 1


POOL = st.integers(1, 10**12)


@st.composite
def pools(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """A pool, what each model holds of it, and what it may hold."""
    total, models = draw(POOL), draw(st.integers(1, 5))
    cuts = sorted(draw(st.lists(st.integers(0, total), min_size=models, max_size=models)))
    bounds = [end - start for start, end in zip([0, *cuts], cuts, strict=False)]
    used = [draw(st.integers(0, bound)) for bound in bounds]
    return total, used, bounds


@given(pools())
def test_the_parts_never_come_to_more_than_the_pool_and_nobody_falls_below_an_even_part(
    pool: tuple[int, list[int], list[int]],
) -> None:
    total, used, bounds = pool
    parts = divide(total, used, bounds)
    assert sum(parts) <= total
    assert all(part >= min(have, total // len(used)) for part, have in zip(parts, used, strict=True))
    now = granted(total, parts, [max(pair) for pair in zip(bounds, used, strict=True)])
    for model, bound in enumerate(now):
        assert bound <= max(parts[model], bounds[model])
    held = [max(bound, have) for bound, have in zip(now, used, strict=True)]
    grown = sum(max(0, bound - max(b, u)) for bound, b, u in zip(now, bounds, used, strict=True))
    assert sum(max(b, u) for b, u in zip(bounds, used, strict=True)) + grown <= total
    assert sum(held) <= total


def test_one_that_needs_room_gets_what_the_others_do_not_use_and_they_get_it_back() -> None:
    total = 1_600
    parts = divide(total, [790, 10], [800, 800])
    assert parts[0] > 1_400 and parts[1] >= 100
    # The other one fills up as well: even parts, and nothing is taken before it is free.
    back = divide(total, [parts[0] - 10, parts[1] - 1], parts)
    assert back == [800, 800]
    assert granted(total, back, parts) == [800, total - parts[0]]


SHARES = st.integers(1, WHOLE)


@given(pools(), st.lists(SHARES, min_size=5, max_size=5))
def test_nobody_falls_below_its_share_while_it_holds_that_much(
    pool: tuple[int, list[int], list[int]], shares: list[int]
) -> None:
    total, used, bounds = pool
    shares = shares[: len(used)]
    parts = divide(total, used, bounds, shares)
    assert sum(parts) <= total
    for part, have, share in zip(parts, used, shares, strict=True):
        assert part >= min(have, total * share // sum(shares) - len(used))  # rounding


@given(
    st.lists(st.integers(0, WHOLE // 3), min_size=3, max_size=3),
    st.lists(st.sets(st.sampled_from(TIERS)), min_size=1, max_size=5),
)
def test_what_a_service_tier_is_guaranteed_of_host_and_disk_is_where_its_agents_are(
    owed: list[int], holders: list[set[str]]
) -> None:
    contracts = [
        Contract(name, guaranteed=Shares(host=share)) for name, share in zip(TIERS, owed, strict=True)
    ]
    shares = room_shares(contracts, holders, "host")
    assert sum(shares) <= WHOLE + len(holders)
    for contract in contracts:
        there = [share for share, tiers in zip(shares, holders, strict=True) if contract.name in tiers]
        assert not there or sum(there) >= contract.guaranteed.host - len(there)
    assert set(room_shares(contracts, holders, "disk")) == {WHOLE // len(holders)}, "nothing guaranteed: even"
