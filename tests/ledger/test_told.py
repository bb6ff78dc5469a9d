"""An engine that counts for itself: whatever it says, no microsecond and no byte is lost or counted twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stepwell.ledger.metering.told import EngineReport, ToldAmount
from stepwell.ledger.types import MACHINE, Account, Kind, Resource
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import Caller, Close, Plan, Progressed, RequestArrived, Taken
from tests.ledger.books import make_keeper

ACCOUNTS = [Account.of(Caller("acme", "priority", "s", f"agent-{n}", key="key_1")) for n in range(3)]
Line = tuple[Resource, int, int]
LINES = st.lists(
    st.tuples(st.sampled_from(list(Resource)[:8]), st.integers(0, 10**6), st.integers(0, 2)), max_size=5
)
REST = st.dictionaries(
    st.sampled_from([Resource.DEVICE, Resource.HOST, Resource.STORED]), st.integers(1, 10**6)
)
STEPS = st.lists(st.tuples(st.integers(0, 10**6), LINES, REST, st.booleans()), max_size=12)


@given(STEPS)
def test_everything_told_is_posted_once_and_time_is_what_has_passed(
    steps: list[tuple[int, list[Line], dict[Resource, int], bool]],
) -> None:
    keeper, writer = make_keeper(PolicyConfig(64, 64, 1, 0, 0, 0, 0))
    now_us, running, told = 0, 0, Counter[Resource]()
    wanted: Counter[tuple[Resource, str]] = Counter()
    keeper.told(EngineReport())
    for passed_us, lines, rest, arrives in steps:
        now_us += passed_us + sum(n for resource, n, _ in lines if resource is Resource.COMPUTE)
        for resource, amount, whose in lines:
            told[resource] += amount
            wanted[resource, ACCOUNTS[whose].agent] += amount
        told.update(rest)
        keeper.decided(now_us, [], Plan())
        keeper.told(EngineReport([ToldAmount(r, n, ACCOUNTS[w], 1) for r, n, w in lines], rest))
        keeper.decided(now_us, [], Plan())
        if arrives and not running:
            caller, running = Caller("acme"), 1
            arrived = RequestArrived(1, caller, 4, 4, ())
            keeper.decided(now_us, [arrived], Plan(taken=(Taken(1, caller),)))
    if running:
        keeper.decided(now_us, [Progressed(1, 8, 8, (), b"", "stop")], Plan((Close(1),)))
    keeper.close(now_us)
    balances = writer.balances()
    got = {
        (resource, account.agent): amount
        for account, amounts in balances.items()
        for resource, amount in amounts.items()
        if account.kind is Kind.AGENT and account.agent and resource is not Resource.MONEY
    }
    assert got == {key: amount for key, amount in wanted.items() if amount}
    for resource in list(Resource)[:8]:
        gave = now_us if resource is Resource.COMPUTE else told[resource]
        assert -balances[MACHINE][resource] == gave == keeper.meter.totals[resource.value]
