"""Bodies: counted while they come in, looked at before anything is made of them, and dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.limits.bodies import FREE_BYTES, Bodies
from stepwell.server.settings import ServerSettings
from stepwell.server.wire import json_size
from stepwell.server.wire.json_size import PER_CONTAINER, is_larger_than
from tests.server.fakes import HOLD, FakeDriver, says, serving
from tests.server.limits.test_connections import opened
from tests.server.wire import ROUTES, TEXT, error_of, http, post

JSON = st.recursive(
    st.none() | st.integers(0, 99) | st.text(st.sampled_from('a"\\,[{ü\n'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('b"\\,[', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def weight(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = list(value.values() if isinstance(value, dict) else value)
    return PER_CONTAINER + max(0, len(inner) - 1) + sum(map(weight, inner))


@given(JSON, st.integers(0, 120), st.integers(1, 40), st.booleans())
def test_only_what_stands_outside_strings_counts(
    value: Any, limit: int, window: int, ascii_only: bool
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    before = json_size._WINDOW_BYTES
    json_size._WINDOW_BYTES = window
    try:
        assert is_larger_than(data, limit) == (weight(value) >= limit)
    finally:
        json_size._WINDOW_BYTES = before


@given(st.binary(max_size=200), st.integers(1, 50))
def test_noise_is_counted_too(data: bytes, limit: int) -> None:
    assert is_larger_than(data, limit) in (True, False)


@pytest.mark.parametrize("path", [*ROUTES, "/v1/messages"])
@pytest.mark.parametrize("piece", ["[]", "{}", "1", '"a"', '{"a":{}}'])
def test_a_body_of_nothing_but_values_is_refused_unparsed(path: str, piece: str) -> None:
    settings = ServerSettings(port=0, max_body_values=1_000)
    junk = ",".join([piece] * 2_000)
    with serving(FakeDriver(says("x")), settings=settings) as server, http(server) as client:
        answer = client.post(path, content=f'{{"model": "tiny", "zzz": [{junk}]}}')
    assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")
    assert "more than 1000 values" in error_of(answer)["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_large_request_is_served_and_keeps_nothing(path: str) -> None:
    with serving(FakeDriver(says("x"))) as server:
        answer = post(server, path, {**ROUTES[path], "zzz": 'a, "b" [' * FREE_BYTES})
        assert answer.status_code == 200
        assert server.service.bodies.used_bytes == 0


def test_a_key_that_is_full_is_told_before_its_body_is_read() -> None:
    driver = FakeDriver(says(HOLD, "x"))
    ring = KeyRing([KeyEntry(tenant="t", key="k", max_concurrent_requests=1)])
    with serving(driver, keys=ring) as server:
        post(
            server, "/v1/responses", {**ROUTES["/v1/responses"], "background": True}, authorization="Bearer k"
        )
        head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer k\r\n"
        with opened(server, head + b"content-length: 1000000\r\n\r\n") as connection:
            assert connection.recv(12) == b"HTTP/1.1 429"
        driver.release.set()


def test_bodies_of_a_tenant_that_come_in_at_once_have_a_bound() -> None:
    settings = ServerSettings(port=0, max_bodies_per_tenant=2)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
    with serving(FakeDriver(says("x")), settings=settings) as server:
        waiting = [opened(server, head) for _ in range(2)]
        with opened(server, head) as third:
            assert third.recv(12) == b"HTTP/1.1 429"
        for connection in waiting:
            connection.close()
        while post(server, "/v1/completions", TEXT).status_code == 429:
            pass  # until the server has seen them leave


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4 * FREE_BYTES)), max_size=30),
    st.integers(0, 16 * FREE_BYTES),
)
def test_the_room_is_never_exceeded_and_given_back(arrivals: list[tuple[str, int]], limit: int) -> None:
    settings = ServerSettings(max_bodies_bytes=limit, max_body_bytes=4 * FREE_BYTES)
    bodies = Bodies(settings)
    begun, refused = [], 0
    for tenant, size_bytes in arrivals:
        body = bodies.of(tenant).__enter__()
        begun.append(body)
        try:
            for size in range(0, size_bytes, FREE_BYTES):
                body.grew_to(size)
            body.grew_to(size_bytes)
        except ApiError:
            refused += 1
        assert bodies.used_bytes <= max(limit, 4 * FREE_BYTES)
    assert refused < len(arrivals) or not arrivals
    for body in begun:
        body.__exit__(None, None, None)
    assert bodies.used_bytes == 0
    bodies.of("a").__enter__().grew_to(4 * FREE_BYTES)


def test_a_few_tenants_cannot_take_all_the_room_together() -> None:
    settings = ServerSettings(max_bodies_bytes=64 * 2**20, max_body_bytes=8 * 2**20)
    bodies, refused = Bodies(settings), 0
    for tenant in "abc":  # as much as each can get
        for _ in range(64):
            body = bodies.of(tenant).__enter__()
            try:
                for size in range(0, settings.max_body_bytes, 2**20):
                    body.grew_to(size + 2**20)
            except ApiError:
                refused += 1
    taken_bytes = bodies.used_bytes
    bodies.of("d").__enter__().grew_to(3 * 2**20)
    assert refused and taken_bytes < bodies.used_bytes <= settings.max_bodies_bytes


def test_a_middling_body_is_not_parsed_behind_a_large_one() -> None:
    bodies = Bodies(ServerSettings())
    assert bodies.parsing(2 * FREE_BYTES) is bodies.parsing(2**20)
    assert bodies.parsing(2**20 + 1) is bodies.parsing(None) is not bodies.parsing(2**20)
