"""Places in the server: who has them, who gets them, and who gives them up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stepwell.loop.requests import Rejected
from stepwell.policy.contracts import WHOLE, Contract, Shares
from stepwell.server.callers.keys import ApiKey, KeyEntry, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.limits.gate import Gate, Place
from stepwell.server.settings import ServerSettings
from tests.server.fakes import HOLD, FakeDriver, says, serving, until
from tests.server.wire import RESPONSE, ROUTES, error_of, events, post

CONTRACTS = (
    Contract("priority", weight=16, guaranteed=Shares(step_tokens=500), borrowable=WHOLE),
    Contract("default", weight=4, guaranteed=Shares(step_tokens=200), borrowable=0),
    Contract("flex", weight=1, guaranteed=Shares(step_tokens=100)),
)
PLACES = 20


def key_of(tenant: str, service_tier: str, most: int | None = None) -> ApiKey:
    return ApiKey(tenant, (service_tier,), service_tier, max_concurrent_requests=most, id=tenant)


KEPT: list[AbstractContextManager[Place]] = []


@pytest.fixture(autouse=True)
def _everybody_leaves() -> Iterator[None]:
    yield
    while KEPT:
        KEPT.pop().__exit__(None, None, None)


class Answers:
    """Generations that begin and end when they are told to."""

    def __init__(self, turns: int) -> None:
        self.waiting = turns
        self.told: Rejected | None = None

    def abort(self, reason: Rejected) -> None:
        assert self.waiting > 0, "one that runs to the last was displaced"
        assert self.told is None
        self.told, self.waiting = reason, 0


def entered(gate: Gate, key: ApiKey, turns: int = 1) -> tuple[AbstractContextManager[Place], Place, Answers]:
    context = gate.enter(key, key.default_service_tier, turns)
    place = context.__enter__()
    KEPT.append(context)  # a generator that nobody holds leaves by itself
    answers = Answers(turns)
    place.hold(answers)
    return context, place, answers


class Crowd(RuleBasedStateMachine):
    """Whatever comes and goes: the counts are right, and no guarantee is ever refused."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(ServerSettings(max_concurrent_requests=PLACES), CONTRACTS)
        self.inside: list[tuple[AbstractContextManager[Place], Place, Answers]] = []

    @rule(tier=st.sampled_from(CONTRACTS), tenant=st.sampled_from("ab"), turns=st.integers(1, PLACES))
    def comes(self, tier: Contract, tenant: str, turns: int) -> None:
        key = key_of(f"{tenant} {tier.name}", tier.name)
        mine = sum(p.turns for _, p, _ in self._live() if p.contract is tier)
        takeable = all(a.waiting for _, p, a in self._live() if p.contract is not tier)
        owed = mine + turns <= PLACES * tier.guaranteed.step_tokens // WHOLE
        before = {id(a) for _, _, a in self._live()}
        try:
            self.inside.append(entered(self.gate, key, turns))
        except ApiError as error:
            refused = error
            too_many = turns > PLACES - 4 and tier is not CONTRACTS[1]
            assert refused.status == (400 if too_many else 429), refused.message
            assert not (owed and takeable), "a guarantee was refused"
            assert {id(a) for _, _, a in self._live()} == before, "somebody went for nobody"

    @rule(data=st.data())
    def begins(self, data: st.DataObject) -> None:
        if live := self._live():
            answers = data.draw(st.sampled_from(live))[2]
            answers.waiting = max(0, answers.waiting - data.draw(st.integers(1, PLACES)))

    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        if self.inside:
            one = data.draw(st.sampled_from(self.inside))
            self.inside.remove(one)
            one[0].__exit__(None, None, None)

    def _live(self) -> list[tuple[AbstractContextManager[Place], Place, Answers]]:
        return [one for one in self.inside if one[1].displaced is None]

    @invariant()
    def counts_are_right(self) -> None:
        live = self._live()
        assert self.gate.inside == sum(p.turns for _, p, _ in live) <= PLACES
        counted: Counter[str] = Counter()
        for _, place, _ in live:
            counted[place.contract.name] += place.turns
        kept = PLACES * CONTRACTS[1].reserved("step_tokens") // WHOLE
        assert counted["priority"] + counted["flex"] <= PLACES - kept

    def teardown(self) -> None:
        for one in self.inside:
            one[0].__exit__(None, None, None)
        assert self.gate.inside == 0


TestCrowd = Crowd.TestCase
TestCrowd.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_youngest_of_the_lightest_goes_first() -> None:
    gate = Gate(ServerSettings(max_concurrent_requests=6))
    default = entered(gate, key_of("d", "default"), 2)
    old, young = (entered(gate, key_of("f", "flex"), 2) for _ in range(2))
    entered(gate, key_of("p", "priority"))
    assert [one[1].displaced is not None for one in (default, old, young)] == [False, False, True]
    assert young[2].told is not None
    assert young[2].told.retry_after_ms == ServerSettings().retry_after_ms


def test_the_tenant_with_most_turns_gives_one_up() -> None:
    gate = Gate(ServerSettings(max_concurrent_requests=4))
    many = [entered(gate, key_of("many", "default")) for _ in range(4)]
    entered(gate, key_of("few", "default"))
    assert [one[1].displaced is not None for one in many] == [False, False, False, True]
    with pytest.raises(ApiError):
        entered(gate, key_of("many", "default"))


def test_what_is_only_prepared_can_be_displaced() -> None:
    gate = Gate(ServerSettings(max_concurrent_requests=1))
    with gate.enter(key_of("f", "flex"), "flex") as place:
        entered(gate, key_of("p", "priority"))
        late = Answers(1)
        place.hold(late)
    assert late.told is not None
    assert gate.inside == 1


def test_turns_are_counted_and_what_never_fits_is_an_error_of_the_client() -> None:
    gate = Gate(ServerSettings(max_concurrent_requests=40, max_concurrent_per_tenant=30))
    capped = key_of("t", "default", 8)
    for turns, status in ((9, 400), (8, 200), (1, 429)):
        if status == 200:
            entered(gate, capped, turns)
            continue
        with pytest.raises(ApiError) as refused:
            entered(gate, capped, turns)
        assert refused.value.status == status
    same = ApiKey("t", ("default",), "default", id="another key")
    entered(gate, same, 22)
    with pytest.raises(ApiError, match="A tenant may have 30"):
        entered(gate, same)


# --- over HTTP ---------------------------------------------------------------------------------

TWO = KeyRing(
    [
        KeyEntry(tenant="cheap", key="f", service_tiers=("flex",)),
        KeyEntry(tenant="dear", key="p", service_tiers=("priority",)),
        KeyEntry(tenant="capped", key="c", service_tiers=("default",), max_concurrent_requests=4),
    ]
)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_priority_is_served_while_flex_waits_everywhere(path: str, stream: bool) -> None:
    driver = FakeDriver(says(HOLD, "x"))
    settings = ServerSettings(port=0, max_concurrent_requests=1, keep_alive_s=0.01)
    answers: list[Any] = []
    with serving(driver, keys=TWO, settings=settings) as server:
        body = {**ROUTES[path], "stream": stream}
        flex = threading.Thread(
            target=lambda: answers.append(post(server, path, body, authorization="Bearer f"))
        )
        flex.start()
        until(lambda: server.service.bridge.live == 1)
        driver.script = says("x")
        assert post(server, path, ROUTES[path], authorization="Bearer p").status_code == 200
        flex.join()
        driver.release.set()
    told = answers[0]
    if told.status_code == 429:
        assert error_of(told)["code"] == "rate_limit_exceeded"
        assert int(told.headers["retry-after-ms"]) > 0
    else:
        assert stream
        assert "rate_limit_exceeded" in told.text


def test_every_choice_of_every_prompt_takes_a_place() -> None:
    driver = FakeDriver(says(HOLD, "x"))
    with serving(driver, keys=TWO) as server:
        bearer = {"authorization": "Bearer c"}
        many = {**ROUTES["/v1/completions"], "prompt": ["a", "b"], "n": 2, "stream": True}
        assert post(server, "/v1/completions", many | {"n": 3}, **bearer).status_code == 400
        waiting = threading.Thread(target=lambda: post(server, "/v1/completions", many, **bearer))
        waiting.start()
        try:
            until(lambda: server.service.gate.inside == 4)
            refused = post(server, "/v1/completions", ROUTES["/v1/completions"], **bearer)
        finally:
            driver.release.set()
            waiting.join()
    assert refused.status_code == 429


def test_background_responses_are_counted_before_anything_is_awaited() -> None:
    driver = FakeDriver(says(HOLD, "x"))
    settings = ServerSettings(port=0, max_background_responses=5)
    statuses: list[int] = []
    with serving(driver, settings=settings) as server:

        def begin() -> None:
            answer = post(server, "/v1/responses", RESPONSE | {"background": True})
            statuses.append(answer.status_code)

        crowd = [threading.Thread(target=begin) for _ in range(20)]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join()
        driver.release.set()
    assert Counter(statuses) == {200: 5, 429: 15}
    assert len(driver.submitted) == 5


def test_a_reader_of_a_response_is_no_turn() -> None:
    driver = FakeDriver(says("x"))
    settings = ServerSettings(port=0, max_concurrent_requests=1)
    with serving(driver, settings=settings) as server:
        answer = post(server, "/v1/responses", RESPONSE | {"background": True, "stream": True})
        assert events(answer)
        until(lambda: server.service.gate.errands == server.service.gate.inside == 0)


def test_light_errands_leave_room_for_those_of_heavier_contracts() -> None:
    """Hints, uploads, counts of tokens: whoever holds them slowly keeps out nobody who has paid for more."""
    gate = Gate(ServerSettings(max_errands=PLACES), CONTRACTS)
    light = [key_of(tenant, "flex") for tenant in "abcd"]
    begun = []
    for key in light * PLACES:
        errand = gate.errand(key)
        with suppress(ApiError):
            errand.__enter__()
            begun.append(errand)
    assert len(begun) == PLACES - PLACES * 500 // WHOLE - PLACES * 200 // WHOLE
    best = key_of("best", "priority")
    for _ in range(PLACES * 500 // WHOLE):
        errand = gate.errand(best)
        errand.__enter__()
        begun.append(errand)
    with pytest.raises(ApiError):
        gate.errand(light[0]).__enter__()
    for errand in begun:
        errand.__exit__(None, None, None)
    assert gate.errands == 0 == gate._errands_by_tier.total()
