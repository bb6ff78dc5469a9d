"""Where the time of requests went: all of it, under one cause at a time, and the right one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.loop.explainer import Explainer
from stepwell.loop.requests import Admitted, Finished
from stepwell.loop.timing import CAUSES, LOAD, MOST_SPANS, WAITING, Story
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Event, KvTier, Plan
from tests.driver.harness import Answer, Rig, make_rig

PROMPT = tuple(range(65, 97))  # two blocks


def told(rig: Rig, what: str) -> dict[str, Any]:
    (story,) = rig.driver.explainer.find(what, rig.clock.now_us())
    return story


class Heard:
    """What the loop told its observers."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, tuple[Event, ...]]] = []

    def decided(self, now_us: int, events: Any, plan: Plan) -> None:
        self.steps.append((now_us, tuple(events)))

    def close(self, now_us: int) -> None:
        pass


ASK = st.tuples(
    st.integers(0, 5),
    st.integers(1, 60),
    st.integers(1, 12),
    st.sampled_from(["priority", "default", "flex"]),
    st.integers(0, 4),
)
REQUESTS = 40


@given(
    st.lists(ASK, min_size=REQUESTS, max_size=REQUESTS),
    st.integers(6, 20),
    st.sampled_from([0, 4, 40]),
    st.integers(1, 4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_microsecond_of_a_thousand_requests_has_a_cause(
    asks: list[tuple[int, int, int, str, int]], device: int, host: int, max_running: int
) -> None:
    rig = make_rig(device, host, 40, max_running=max_running, decode_us_per_step=900, copy_us_per_block=70)
    heard = Heard()
    rig.driver.loop.observers.append(heard)
    answers: list[Answer] = []
    for which, length, new_tokens, service_tier, steps in asks:
        prompt = tuple(65 + (which * 31 + at) % 57 for at in range(length))
        agent = f"a{which}"
        answers.append(
            rig.ask(prompt, new_tokens, agent=agent, service_tier=service_tier, tenant=f"t{which % 2}")
        )
        for _ in range(steps):
            rig.driver.step()
        rig.clock.sleep_us(137)
    rig.settle()
    for answer in answers:
        accounted(answer)
    stories = rig.driver.explainer.all_ended()
    assert len(stories) == len(asks)
    again = Explainer()
    scheduler = Scheduler(rig.driver.scheduler.config)
    for now_us, events in heard.steps:
        again.decided(now_us, events, scheduler.step(now_us, events))
    live, replayed = causes_of(stories), causes_of(again.all_ended())
    assert all(replayed[request] == causes for request, causes in live.items() if request in replayed)
    assert len(replayed) >= len(live) // 2


def accounted(answer: Answer) -> None:
    end = answer.end
    assert isinstance(end, Finished) and end.timing is not None
    causes = end.timing.causes_us
    assert set(causes) <= set(CAUSES)
    assert all(us > 0 for us in causes.values())
    assert sum(causes.values()) == end.timing.total_us == end.e2e_us
    assert sum(us for cause, us in causes.items() if cause in WAITING) == end.timing.waited_us
    admitted = next(one for one in answer.outputs if isinstance(one, Admitted))
    if not end.preemptions:
        assert end.timing.waited_us <= admitted.queue_us  # which ends when its blocks are there


def causes_of(stories: list[Story]) -> dict[int, tuple[tuple[str, object, str], ...]]:
    """As far as a recording knows it: not what came before the loop heard of a request, nor after its end. A
    story that is longer than what is kept one by one begins elsewhere in each."""
    return {
        one.names.request: tuple(
            (span.cause, None if span.behind is None else span.behind.request, span.rule)
            for span in one.spans
            if span.cause in WAITING and span.cause != "arrival"
        )
        for one in stories
        if len(one.spans) < MOST_SPANS - 4
    }


def test_one_place_and_who_stands_before_whom() -> None:
    rig = make_rig(device=64, max_running=1, decode_us_per_step=900)
    for number, tenant in enumerate(("x", "x", "y")):
        rig.ask([70 + number] * 20, 4, agent=f"a{number}", tenant=tenant, session=f"s{number}")
    rig.settle()
    second, other = told(rig, "a1"), told(rig, "a2")
    assert {span["cause"] for span in other["spans"]} == {"place", "prefill", "decode"}
    assert other["spans"][0]["behind"]["agent"] == "a0"
    queued = next(span for span in second["spans"] if span["cause"] == "queue")
    assert (queued["behind"]["tenant"], queued["rule"]) == ("y", "tenant")
    assert other["state"] == "ended" and second["waited_ms"] > other["waited_ms"] > 0


def test_a_prefix_that_another_computes() -> None:
    rig = make_rig(device=64, step_tokens=16)
    rig.ask([*PROMPT, *PROMPT, 66], 2, agent="first")
    rig.ask([*PROMPT, *PROMPT, 67], 2, agent="second")
    rig.settle()
    (span,) = [span for span in told(rig, "second")["spans"] if span["cause"] == "prefix"]
    assert span["behind"]["agent"] == "first" and span["lasted_ms"] > 0


@pytest.mark.parametrize(("tier", "cause"), [(KvTier.HOST, LOAD), (KvTier.DISK, "disk")])
def test_what_was_fetched_and_from_where(tier: KvTier, cause: str) -> None:
    rig = make_rig(device=16, host=8, disk=64, copy_us_per_block=500)
    rig.ask(PROMPT, 2, agent="a")
    rig.settle()
    rig.driver.demote_idle(tier)
    rig.tiers.stalled = True
    rig.ask([*PROMPT, 66], 2, agent="b")
    for _ in range(3):
        rig.driver.step()
        rig.clock.sleep_us(10_000)
    rig.settle()
    story = told(rig, "b")
    assert story["causes_ms"][cause] > 0
    assert story["cached_tokens"][tier.value] == 32


def test_preempted_by_a_heavier_service_tier() -> None:
    rig = make_rig(device=8, max_running=4, decode_us_per_step=900)
    rig.ask([70] * 60, 40, agent="light", service_tier="flex")
    for _ in range(30):
        rig.driver.step()
    rig.ask([80] * 60, 4, agent="heavy", service_tier="priority")
    rig.settle()
    story = told(rig, "light")
    assert story["preemptions"] >= 1
    assert story["preempted_by"][0]["agent"] == "heavy"
    assert any(span["behind"] and span["behind"]["agent"] == "heavy" for span in story["spans"])


def test_memory_is_bounded() -> None:
    rig = make_rig(device=64)
    rig.driver.explainer._ended = type(rig.driver.explainer._ended)(maxlen=3)
    for number in range(8):
        rig.ask([70 + number] * 5, 2, agent=f"a{number}")
    rig.settle()
    explainer = rig.driver.explainer
    assert len(explainer.all_ended()) == 3
    assert not explainer._open and not explainer._running
    story = explainer.all_ended()[-1]
    story.ended_us = None
    for number in range(100):
        story.goes_on(("queue", "room")[number % 2], 10**9 + number * 10)
    assert len(story.spans) == MOST_SPANS
    assert sum(story.timing(10**9 + 5_000).causes_us.values()) == 10**9 + 5_000 - story.submitted_us


def test_requests_that_end_otherwise_are_told_too() -> None:
    rig = make_rig(device=64, max_running=1, decode_us_per_step=900)
    rig.ask(PROMPT, 30, agent="a")
    rig.ask([77] * 9, 30, agent="b")
    rig.driver.step()
    assert told(rig, "b")["state"] in ("place", "queue", "arrival")
    rig.driver.cancel(2)
    rig.driver.step()
    assert told(rig, "b")["finish"] == "cancelled"
    rig.settle()
