"""Limits per minute: true headers, a bound that holds, and no request that is impossible."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.engines.base import SamplingParams
from stepwell.loop.requests import Finished, Generation
from stepwell.server.callers.keys import ApiKey, KeyEntry, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.limits.rates import KeyRates
from tests.server.fakes import FakeDriver, null_node, says, serving
from tests.server.wire import CHAT, ROUTES, error_of, post

KEY = ApiKey("acme", id="key_1", requests_per_minute=6, tokens_per_minute=1_000)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def asked(prompt: int, new: int, **more: Any) -> list[Generation]:
    return [Generation((1,) * prompt, new, SamplingParams(), **more)]


@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 1_500)), max_size=80))
def test_never_more_than_a_full_bucket_and_what_came_in_since(steps: list[tuple[int, int]]) -> None:
    clock = Clock()
    rates, taken, largest = KeyRates(clock), 0, 0
    for wait_ms, tokens in steps:
        clock.now_s += wait_ms / 1000
        refused = attempt(rates, tokens)
        if refused is None:
            taken, largest = taken + tokens, max(largest, tokens)
        else:  # what the answer says is true: it is taken then
            clock.now_s += (refused.retry_after_ms or 0) / 1000
            assert attempt(rates, tokens) is None
            taken, largest = taken + tokens, max(largest, tokens)
        assert 0 <= rates.left(KEY)["tokens"] <= 1_000
        assert taken <= 1_000 + clock.now_s * 1_000 / 60 + largest


def attempt(rates: KeyRates, tokens: int) -> ApiError | None:
    try:
        rates.tokens(KEY, asked(tokens, 0))
    except ApiError as error:
        return error
    return None


def test_requests_come_back_evenly() -> None:
    clock = Clock()
    rates = KeyRates(clock)
    assert [rates.request(KEY)["x-ratelimit-remaining-requests"] for _ in range(6)] == list("543210")
    with pytest.raises(ApiError) as refused:
        rates.request(KEY)
    assert refused.value.retry_after_ms == 10_000
    assert refused.value.headers["x-ratelimit-reset-requests"] == "60.000s"
    assert "6 requests a minute, and 0 are left" in refused.value.message
    clock.now_s = 10.0
    assert rates.request(KEY)["x-ratelimit-remaining-requests"] == "0"
    assert rates.request(replace(KEY, requests_per_minute=None)) == {}


def test_what_was_not_generated_is_given_back() -> None:
    ended: Any = SimpleNamespace(
        generations=asked(100, 500), finished={0: Finished("stop", None, 100, 20, 0, 1, 1, 0)}
    )
    rates = KeyRates(Clock())
    assert rates.tokens(KEY, ended.generations)["x-ratelimit-remaining-tokens"] == "400"
    rates.give_back(KEY, ended)
    assert rates.left(KEY) == {"requests": 6, "tokens": 880}


def test_a_changed_limit_holds_at_once_and_a_shared_prompt_counts_once() -> None:
    rates = KeyRates(Clock())
    two = [*asked(400, 100), *asked(400, 100, same_prompt=True)]
    assert rates.tokens(KEY, two)["x-ratelimit-remaining-tokens"] == "400"
    assert rates.left(replace(KEY, tokens_per_minute=300))["tokens"] == 300


@pytest.mark.parametrize("route", ROUTES)
def test_over_http(route: str) -> None:
    keys = KeyRing([KeyEntry("acme", key="sk", requests_per_minute=2, tokens_per_minute=100_000)])
    with serving(FakeDriver(says("Hello")), keys=keys) as server:
        first, _, third = (post(server, route, ROUTES[route], authorization="Bearer sk") for _ in range(3))
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "100000"
    assert third.status_code == 429
    assert error_of(third)["code"] == "rate_limit_exceeded"
    assert 29 <= int(third.headers["retry-after"]) <= 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"


def test_tokens_over_http_and_none_without_limits() -> None:
    keys = KeyRing([KeyEntry("acme", key="sk", tokens_per_minute=2_000), KeyEntry("free", key="free")])
    with null_node(keys=keys) as node:
        body = CHAT | {"max_tokens": 1_500}
        assert post(node, "/v1/chat/completions", body, authorization="Bearer sk").status_code == 200
        free = post(node, "/v1/chat/completions", CHAT, authorization="Bearer free")
    assert "x-ratelimit-limit-tokens" not in free.headers
    assert "x-ratelimit-reset-requests" not in free.headers
