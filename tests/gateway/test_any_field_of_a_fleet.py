"""What ``tests/server/test_any_field.py`` asks of a node, asked of the front ends of a fleet and of vLLM.

Behind them are stand-ins that answer everything well, so that what goes wrong is the front end's own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwell.server.app import ROUTES
from tests.gateway.fakes import KEYS, Stream, world
from tests.server.test_any_field import ANYTHING, BODIES, NESTED, START, changed
from tests.vllm.counting import CountingEngine, fronted

T = TypeVar("T")
PATHS = sorted({(method, route.path) for route in ROUTES for method in route.methods or ()})
POSTS = sorted({path for method, path in PATHS if method == "POST"})
HEADERS = st.dictionaries(
    st.sampled_from(
        ["x-session-id", "x-agent-id", "x-parent-agent-id", "x-agent-hint", "content-length", "host", "range",
         "traceparent", "x-request-id", "last-event-id", "accept", "content-type", "expect", "x-api-key"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)
    | st.sampled_from(["-1", "9" * 30, "x" * 5_000, "{}", "\x7f", "a/b/c", ", ,", "100-continue"]),
    max_size=3,
)  # fmt: skip
QUERY = st.dictionaries(
    st.sampled_from(["limit", "after", "before", "order", "tenant", "since", "start_time", "bucket_width"]),
    st.text(max_size=8) | st.sampled_from(["-1", "9" * 40, "%00", "NaN", "[]"]),
    max_size=3,
)


class Lenient(CountingEngine):
    """Says yes to everything, or what it is told to say."""

    def __init__(self) -> None:
        super().__init__()
        self.said: bytes | None = None
        self.status = 200

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return await super().handle_async_request(request)
        body = json.loads(await request.aread())
        kind = "text/event-stream" if body.get("stream") is True else "application/json"
        good = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
        data = good if self.said is None else self.said
        if kind == "text/event-stream":
            data = b"data: " + data + b"\n\ndata: [DONE]\n\n"
        return httpx2.Response(self.status, headers={"content-type": kind}, stream=Stream(data))


class Asked:
    """A front end in a loop of its own, which test after test can ask."""

    def __init__(self, made: AbstractAsyncContextManager[Any], key: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._made = made
        self.one = self._loop.run_until_complete(made.__aenter__())
        self._key = key

    def __call__(self, method: str, path: str, **given: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self._key}"} | given.pop("headers", {})
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

        async def ask() -> httpx2.Response:
            async with asyncio.timeout(60):
                found: httpx2.Response = await self.one.client.request(method, path, headers=raw, **given)
                return found

        return self._loop.run_until_complete(ask())

    def close(self) -> None:
        self._loop.run_until_complete(self._made.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture(scope="module", params=["fleet", "vllm"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    if request.param == "fleet":
        made = Asked(world(keys=KEYS), "sk-ops")
    else:
        made = Asked(fronted(tmp_path_factory.mktemp("vllm"), engine=Lenient()), "acme-key")
    yield made
    made.close()


@pytest.fixture(scope="module")
def before_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    made = Asked(fronted(tmp_path_factory.mktemp("told"), engine=Lenient()), "acme-key")
    yield made
    made.close()


def fine(answer: httpx2.Response, *said: object) -> None:
    """Not a failure of ours; nodes that are not there are none (503), nor are routes that are not."""
    assert answer.status_code < 500 or answer.status_code == 503, (said, answer.text)
    assert "internal_error" not in answer.text, (said, answer.text)


def filled(path: str) -> str:
    for name in ("file_id", "agent_id:path", "session_id:path", "response_id", "model:path", "path:path"):
        path = path.replace("{" + name + "}", quote("a/ü?"))
    return path.replace("{", "").replace("}", "").replace("STORE", "vs_x")


@settings(max_examples=150, deadline=None)
@example("/v1/chat/completions", '{"model":"tiny"}', {"messages": '[{"content":[{"type":[]}]}]'})
@example("/v1/chat/completions", '{"model":"tiny"}', {"seed": "9" * 5_000})
@example("/v1/completions", '{"model":"tiny"}', {"prompt": '"x"', "max_tokens": "1e999"})
@example("/v1/responses", '{"model":"tiny"}', {"previous_response_id": '"a\\u0000b"'})
@example("/v1/responses", '{"model":"tiny"}', {"previous_response_id": f'"{"é" * 70_000}"'})
@given(st.sampled_from(POSTS), START, ANYTHING)
def test_no_field_of_any_route_is_a_failure_of_a_front_end(
    asked: Asked, path: str, start: str, fields: dict[str, str]
) -> None:
    more = ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items())
    body = start[:-1] + ("," if len(start) > 2 and more else "") + more + "}"
    fine(asked("POST", filled(path), content=body.encode("utf-8", "replace")), path, body)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PATHS), HEADERS, QUERY, st.binary(max_size=40))
def test_no_header_query_or_noise_is_a_failure_of_a_front_end(
    asked: Asked, route: tuple[str, str], headers: dict[str, str], query: dict[str, str], noise: bytes
) -> None:
    method, path = route
    if path == "/v1/watch":
        return  # which has no end
    fine(asked(method, filled(path), headers=headers, params=query, content=noise), route, headers, query)


@pytest.mark.parametrize("path", BODIES)
def test_each_value_in_a_body_may_be_anything(asked: Asked, path: str) -> None:
    for body in changed(BODIES[path]):
        fine(asked("POST", filled(path), content=json.dumps(body)), body)


@settings(max_examples=100, deadline=None)
@example(200, b'{"usage":{"prompt_tokens":"x","completion_tokens":[]}}', True)
@example(200, b'{"usage":{"prompt_tokens":' + b"9" * 5_000 + b"}}", False)
@example(200, b'{"choices":[{"finish_reason":{}}],"usage":[]}', True)
@given(
    st.sampled_from([200, 200, 400, 500]),
    st.dictionaries(
        st.sampled_from(["usage", "choices", "id", "error", "type", "message", "response", "delta", "data"]),
        NESTED
        | st.fixed_dictionaries({"prompt_tokens": NESTED, "completion_tokens": NESTED})
        | st.lists(st.fixed_dictionaries({"finish_reason": NESTED, "text": NESTED}), max_size=2),
    ).map(lambda said: json.dumps(said).encode())
    | st.binary(max_size=30),
    st.booleans(),
)
def test_whatever_an_engine_says_is_no_failure_of_the_front_end(
    before_vllm: Asked, status: int, said: bytes, stream: bool
) -> None:
    engine = before_vllm.one.engine
    engine.said, engine.status = said, status
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        body = {"model": "m", "prompt": "x", "messages": [], "input": "x", "stream": stream, "max_tokens": 4}
        answer = before_vllm("POST", path, content=json.dumps(body))
        assert "internal_error" not in answer.text, (said, answer.text)
        assert answer.status_code in (status, 502, 503), answer.text
