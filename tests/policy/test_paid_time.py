"""Time for which a context is kept is bought by turns that are paid for, and by no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import (
    Caller,
    Computed,
    Event,
    Hint,
    Hinted,
    Open,
    Progressed,
    RequestArrived,
    RequestCancelled,
    StepFailed,
)

DAY_US = 86_400_000_000
CALLER = Caller("t", agent="a")


def units(request: int) -> tuple[bytes, ...]:
    return (b"%d one" % request, b"%d two" % request)


@dataclass
class World:
    """A scheduler with one place and what was told to it."""

    places: int = 1
    now_us: int = 0
    opened: set[int] = field(default_factory=set)
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        config = PolicyConfig(
            block_tokens=16,
            unit_tokens=16,
            device_blocks=64,
            block_bytes=16,
            token_bytes=1,
            host_bytes=1 << 20,
            disk_bytes=0,
            context_tokens=1_024,
            max_running=self.places,
            max_waiting=16,
            step_tokens=64,
        )
        self.scheduler = Scheduler(config)

    def step(self, *events: Event) -> None:
        self.now_us += 1_000
        plan = self.scheduler.step(self.now_us, events)
        self.opened |= {action.request for action in plan.actions if isinstance(action, Open)}

    def arrive(self, request: int, retain_us: int | None, *, agent: str = "a") -> None:
        hint = Hint(retain_us=retain_us)
        self.step(RequestArrived(request, Caller("t", agent=agent), 40, 4, units(request), hint))

    def end(self, request: int, reason: str = "stop") -> None:
        self.step(
            Computed(40, 0, 0, 500), Progressed(request, 40, 41, (), b"tail%d" % request, finished=reason)
        )

    @property
    def kept_us(self) -> int | None:
        return self.scheduler.agents.records["t", "a"].hint.retain_us


@pytest.mark.parametrize("before_us", [None, 300_000_000])
def test_a_turn_that_never_ran_buys_no_time(before_us: int | None) -> None:
    world = World()
    world.arrive(1, before_us)
    world.end(1)
    world.arrive(99, None, agent="other")
    world.arrive(2, DAY_US)
    world.step(RequestCancelled(2))
    assert 2 not in world.opened
    assert world.kept_us == before_us


@pytest.mark.parametrize(
    "end", [StepFailed((1,)), RequestCancelled(1, "server_overloaded"), RequestCancelled(1, "rate_limit")]
)
def test_a_turn_that_the_server_gave_up_buys_no_time(end: Event) -> None:
    world = World()
    world.arrive(1, DAY_US)
    world.step(end)
    assert 1 in world.opened
    assert world.kept_us is None


def test_a_turn_that_its_client_left_is_paid_for_and_keeps() -> None:
    world = World()
    world.arrive(1, DAY_US)
    world.step(RequestCancelled(1))
    assert world.kept_us == DAY_US


def test_a_short_turn_beside_a_long_one_buys_time_for_its_own_context_only() -> None:
    world = World(places=2)
    world.arrive(1, None)
    world.arrive(2, DAY_US)
    world.step(Hinted(0, "t", "a", Hint(retain_us=DAY_US), paid_only=True))
    world.end(2)
    world.end(1)
    assert world.opened == {1, 2}
    assert world.kept_us is None


def test_where_it_has_no_price_a_hint_keeps_whatever_turns_have_said() -> None:
    world = World()
    world.arrive(1, None)
    world.step(Hinted(0, "t", "a", Hint(retain_us=DAY_US)))
    assert world.kept_us == DAY_US
    world.end(1)
    assert world.kept_us == DAY_US


def test_what_the_server_sees_in_an_answer_changes_no_time() -> None:
    world = World()
    world.arrive(1, 5_000_000)
    world.end(1)
    world.step(Hinted(1, "t", "a", Hint(retain_us=DAY_US)))
    assert world.kept_us == 5_000_000


TIMES = st.sampled_from([None, 1_000_000, DAY_US])
DEEDS = st.one_of(
    st.tuples(st.just("arrive"), TIMES),
    st.tuples(st.just("end"), st.sampled_from(["stop", "length", "failed"])),
    st.tuples(st.just("cancel"), st.sampled_from(["cancelled", "server_overloaded"])),
    st.tuples(st.just("fail"), st.none()),
    st.tuples(st.just("hint"), TIMES),
)


@given(st.lists(DEEDS, max_size=24), st.integers(1, 3))
def test_between_turns_a_context_is_kept_no_longer_than_the_last_paid_turn_says(
    deeds: Sequence[tuple[str, object]], places: int
) -> None:
    world, live, paid, asked = World(places), list[int](), None, dict[int, int | None]()
    for number, (deed, value) in enumerate(deeds, 1):
        if deed == "arrive":
            asked[number] = value if isinstance(value, int) else None
            world.arrive(number, asked[number])
            live.append(number)
        elif deed == "hint" and asked:
            hint = Hint(retain_us=value if isinstance(value, int) else None)
            world.step(Hinted(0, "t", "a", hint, paid_only=True))
        elif live and deed != "hint":
            running = [one for one in live if one in world.opened]
            if deed in ("end", "fail") and not running:
                continue
            request = (running or live)[0]
            live.remove(request)
            ran = request in world.opened
            if deed == "end":
                world.end(request, str(value))
            else:
                world.step(
                    StepFailed((request,)) if deed == "fail" else RequestCancelled(request, str(value))
                )
            if ran and (deed == "end" or value == "cancelled"):
                paid = asked[request]
        if asked and not live:
            assert (world.kept_us or 0) <= (paid or 0)
