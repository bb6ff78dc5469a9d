"""What an engine tells of itself: nothing is lost on the way, and the books come to the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import StepwellError
from stepwell.ledger.metering.told import EngineReport
from stepwell.ledger.types import Resource
from stepwell.policy.types import Caller
from stepwell.vllm.engine_meter import DATAGRAM_BYTES, EngineMeter, Owner, Reporter, owner_of
from stepwell.vllm.owner import params_of
from stepwell.vllm.reports import EngineReports, parsed
from stepwell.vllm.step_meter import StepMeter

ROOM = 1_000
AGENTS = 1_000
"""More than one datagram tells."""
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
            for number in range(AGENTS):
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
    assert sums == {Resource.STORED: 5, Resource.LOADED: AGENTS}


def test_no_datagram_is_too_large_to_be_sent_whatever_the_names() -> None:
    meter = EngineMeter(lambda: 0)
    long = 255 * "\N{CUNEIFORM SIGN A}"  # twelve bytes of JSON each
    for number in range(20):
        caller = Caller(long, long, long, f"agent-{number}", long, long, long)
        meter.used(Resource.LOADED, Owner(caller, number), 1)
    told = meter.take()
    assert sum(len(parsed(data).used) for data in told) == 20
    assert len(told) > 1 and max(map(len, told)) <= DATAGRAM_BYTES + 100


def test_time_is_the_oldest_steps_when_vllm_begins_the_next_before_it_has_ended() -> None:
    now = [0]
    meter, spent = EngineMeter(lambda: now[0]), Counter[str]()
    steps = StepMeter(meter, scheduler_of(["a0", "a1"]))
    for number in range(2):
        params = params_of(OWNERS[number].caller) | {"request": number}
        steps.came(SimpleNamespace(request_id=f"a{number}", kv_transfer_params=params))
    steps.began({"a0": 10})
    steps.began({"a1": 1})  # while the first still runs
    now[0] += 7
    steps.left()  # somebody has left: the step goes on
    now[0] += 3
    steps.ended({"a0": 10})
    steps.began({})  # nothing is left to do but to wait
    now[0] += 5
    steps.ended({"a1": 1})
    now[0] += 100
    steps.ended({})
    for data in meter.take():
        for one in parsed(data).used:
            if one.resource is Resource.COMPUTE:
                spent[one.account.agent] += one.amount
    assert spent == {"a0": 10, "a1": 5}


def scheduler_of(names: list[str]) -> SimpleNamespace:
    """As much of vLLM's as a meter looks at: eight blocks, of which each request holds one."""
    return SimpleNamespace(
        kv_cache_config=SimpleNamespace(num_blocks=8, kv_cache_tensors=[SimpleNamespace(size=800)]),
        requests=names,
        kv_cache_manager=SimpleNamespace(
            block_pool=SimpleNamespace(get_num_free_blocks=lambda: 7 - len(names)),
            get_blocks=lambda name: SimpleNamespace(blocks=([name],)),
        ),
    )


def test_a_name_that_is_too_long_for_a_socket_is_one_sentence(tmp_path: Path) -> None:
    async def acts() -> None:
        reports = EngineReports(tmp_path / (120 * "x"), lambda report: None)
        with pytest.raises(StepwellError, match="shorten TMPDIR"):
            reports.open()
        reports.close()

    asyncio.run(acts())


NEGATIVE = b'{"rows": [["compute_us", -1, 0, "", "", "", "", null, "", ""]]}'


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", NEGATIVE])
def test_a_report_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parsed(data)
