"""How long each tool takes is learned by its name, within the role that calls it."""

from __future__ import annotations

from stepwell.policy.eviction.forecast import Forecaster, IdlePeriod
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import Hint, Wait

QUICK_US, SLOW_US = 800_000, 25_000_000


def waits(
    forecaster: Forecaster, tool: str, now_us: int, *, tenant: str = "t", expected_us: int | None = None
) -> IdlePeriod:
    record = AgentRecord(tenant, "default", "s", "a", None, "reader")
    record.hint = Hint(Wait.TOOL, expected_us, tool=tool)
    return forecaster.begin(record, now_us)


def taught(expected_us: int | None = None) -> tuple[Forecaster, int]:
    """After forty calls of a quick and of a slow tool by one role."""
    forecaster, now_us = Forecaster(), 0
    for _ in range(40):
        for tool, took_us in (("lookup", QUICK_US), ("crawl", SLOW_US)):
            idle = waits(forecaster, tool, now_us, expected_us=expected_us)
            now_us += took_us
            forecaster.end(idle, now_us)
    return forecaster, now_us


def test_a_quick_tool_keeps_its_caller_and_a_slow_one_lets_it_go() -> None:
    forecaster, now_us = taught()
    quick, slow, unnamed = (
        forecaster.index(waits(forecaster, tool, now_us), now_us) for tool in ("lookup", "crawl", "")
    )
    assert quick > unnamed > 4 * slow
    assert quick > 10 * slow


def test_a_new_tool_starts_from_its_role_and_another_tenant_learns_nothing_of_it() -> None:
    forecaster, now_us = taught()
    new, unnamed = (forecaster.index(waits(forecaster, tool, now_us), now_us) for tool in ("new", ""))
    assert 0.5 * unnamed < new < 2 * unnamed
    others = [
        forecaster.index(waits(forecaster, tool, now_us, tenant="other"), now_us)
        for tool in ("lookup", "crawl")
    ]
    assert others[0] == others[1]


def test_declarations_are_believed_by_tool() -> None:
    """Both are declared to take five seconds: one is far too early with that, one far too late."""
    forecaster, now_us = taught(expected_us=5_000_000)
    quick, slow = (
        forecaster.index(waits(forecaster, tool, now_us, expected_us=5_000_000), now_us)
        for tool in ("lookup", "crawl")
    )
    assert quick > 4 * slow


def test_names_of_tools_do_not_fill_the_memory() -> None:
    forecaster = Forecaster()
    for number in range(5_000):
        waits(forecaster, f"tool-{number}", 0, expected_us=1_000_000)
    assert len(forecaster._classes) < 300
    for number in range(3_000):
        waits(forecaster, "lookup", 0, tenant=f"t-{number}", expected_us=1_000_000)
    assert len(forecaster._tools) == len(forecaster._roles) == 1_000
