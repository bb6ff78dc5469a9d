"""What an engine tells of itself: nothing is lost on the way, and the books come to the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.ledger.told import EngineReport
from stepwell.ledger.types import Resource
from stepwell.policy.types import Caller
from stepwell.vllm.engine_meter import ROWS, EngineMeter, Owner, Reporter, owner_of
from stepwell.vllm.owner import params_of
from stepwell.vllm.reports import EngineReports, parsed

ROOM = 1_000
OWNERS = [Owner(Caller("acme", "priority", "s", f"a{n}", None, "role", "key_1"), n) for n in range(4)]
Step = tuple[int, int, list[int]]
STEPS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.lists(st.integers(0, 200), max_size=4)),
    max_size=20,
)


@given(STEPS)
def test_room_is_somebodys_or_nobodys_to_the_last_byte_microsecond(steps: list[Step]) -> None:
    now = [0]
    meter, told = EngineMeter(lambda: now[0]), Counter[str]()
    meter.room(Resource.DEVICE, ROOM)
    held: dict[Owner, int] = {}
    wanted: Counter[str] = Counter()
    for passed_us, taking, sizes in steps:
        for owner, size in held.items():
            wanted[owner.caller.agent] += size * passed_us
        now[0] += passed_us
        held = {OWNERS[n]: size for n, size in enumerate(sizes)}
        meter.hold_all(Resource.DEVICE, held)
        if not taking:
            take(meter, told)
    take(meter, told)
    rest = told.pop("", 0)
    assert told == {agent: amount for agent, amount in wanted.items() if amount}
    assert rest + sum(told.values()) == ROOM * now[0]


def take(meter: EngineMeter, told: Counter[str]) -> None:
    for data in meter.take():
        report = parsed(data)
        for one in report.used:
            told[one.account.agent] += one.amount
        for amount in report.rest.values():
            told[""] += amount


@given(st.lists(st.tuples(st.integers(0, 10**6), st.lists(st.integers(0, 50), max_size=4)), max_size=9))
def test_a_steps_time_is_split_among_those_in_it(steps: list[tuple[int, list[int]]]) -> None:
    now, wanted, told = [0], 0, Counter[str]()
    meter = EngineMeter(lambda: now[0])
    for passed_us, weights in steps:
        meter.running(dict(zip(OWNERS, weights, strict=False)))
        now[0] += passed_us
        wanted += passed_us if weights else 0
        take(meter, told)
    assert sum(told.values()) == wanted and not told[""]


def test_an_owner_comes_through_what_a_request_carries() -> None:
    caller = Caller("acme", "priority", "s", "a", "p", "role", "key_1")
    assert owner_of(params_of(caller) | {"request": 7}) == Owner(caller, 7)
    assert owner_of({"request": True}).request == 0


def test_a_front_end_that_is_away_hears_everything_later() -> None:
    async def acts() -> list[EngineReport]:
        heard: list[EngineReport] = []
        with tempfile.TemporaryDirectory() as folder:
            reports = EngineReports(Path(folder) / "told", heard.append)
            meter = EngineMeter(lambda: 0)
            reporter = Reporter(meter, str(reports.path), every_s=3_600)
            meter.used(Resource.STORED, OWNERS[0], 5)
            reporter.send()
            reports.open()
            for number in range(3 * ROWS):
                caller = Caller("acme", "flex", "s", f"agent-{number}")
                meter.used(Resource.LOADED, Owner(caller), 1)
            reporter.send()
            reporter.close()
            reports.close()
        return heard

    heard = asyncio.run(acts())
    sums: Counter[Resource] = Counter()
    for report in heard:
        for one in report.used:
            sums[one.resource] += one.amount
    assert sums == {Resource.STORED: 5, Resource.LOADED: 3 * ROWS}


NEGATIVE = b'{"rows": [["compute_us", -1, 0, "", "", "", "", null, "", ""]]}'


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", NEGATIVE])
def test_a_report_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parsed(data)
