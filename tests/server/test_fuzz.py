"""Random requests against every route: never a 5xx, always OpenAI's shape, nothing left behind.

Bodies are mutations of valid ones, because pure noise never gets past the JSON parser. The OpenAPI
description that schemathesis wants would repeat the pydantic models by hand, so the strategies are
written out here instead.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from stepwell.server.app import ROUTES as APP_ROUTES
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.callers.test_hints import HEADERS as HINT_HEADERS
from tests.server.callers.test_hints import HINTS
from tests.server.callers.test_identity import FIELDS, NAMES
from tests.server.fakes import MODEL, null_driver, serving
from tests.server.wire import ROUTES, error_of, http

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
SCHEMA = st.recursive(
    st.sampled_from([{}, {"type": "string"}, {"type": "integer"}, {"$ref": "#/$defs/x"}, {"enum": [1]}]),
    lambda inner: (
        st.builds(lambda a: {"type": "array", "items": a}, inner)
        | st.builds(lambda a: {"type": "object", "properties": {"p": a}, "$defs": {"x": a}}, inner)
    ),
    max_leaves=4,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "input_text", "image_url"]), "text": TEXT | JSON}
)
CALL = st.fixed_dictionaries(
    {
        "id": TEXT,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT}),
    }
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "x"])},
    optional={
        "content": TEXT | st.lists(PART, max_size=3) | JSON,
        "tool_calls": st.lists(CALL),
        "name": JSON,
    },
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]),
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": TEXT | st.lists(PART, max_size=3),
        "call_id": TEXT,
        "name": TEXT,
        "arguments": TEXT | JSON,
        "output": TEXT | JSON,
        "id": JSON,
    },
)
NAME = st.sampled_from(["f", "g", "", "a b"])
FUNCTION = st.fixed_dictionaries(
    {"name": NAME}, optional={"parameters": SCHEMA | JSON, "strict": st.booleans()}
)
TOOL = st.one_of(
    st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}),
    st.builds(lambda f: {"type": "function", **f}, FUNCTION),
)
CHOICE = st.sampled_from(
    [
        "none",
        "auto",
        "required",
        {"type": "function", "name": "f"},
        {"type": "function", "function": {"name": "f"}},
    ]
)
FORMAT = st.one_of(
    st.sampled_from([{"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}]),
    st.builds(
        lambda s: {"type": "json_schema", "name": "n", "schema": s, "json_schema": {"schema": s}}, SCHEMA
    ),
)
NUMBER = st.integers(-3, 40) | st.floats(allow_nan=False) | st.integers()
KNOWN: Mapping[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from([MODEL, "other"]),
    "messages": st.lists(MESSAGE, max_size=4),
    "prompt": TEXT | st.lists(TEXT, max_size=3) | st.lists(st.integers(-1, 300), max_size=5),
    "input": TEXT | st.lists(ITEM, max_size=4),
    "tools": st.lists(TOOL, max_size=3),
    "tool_choice": CHOICE,
    "response_format": FORMAT,
    "text": st.builds(lambda f: {"format": f}, FORMAT),
    "stop": TEXT | st.lists(TEXT, max_size=6),
    "logit_bias": st.dictionaries(st.integers(-2, 300).map(str) | TEXT, NUMBER, max_size=3),
    "stream_options": st.sampled_from([{"include_usage": True}, {}, {"include_usage": "x"}]),
    "service_tier": st.sampled_from(["auto", "default", "flex", "priority", "fast", "scale", "gold"]),
    "metadata": st.dictionaries(TEXT, TEXT | JSON, max_size=3),
    "include": st.lists(st.sampled_from(["message.output_text.logprobs", "reasoning.encrypted_content"])),
    "grammar": TEXT | st.just('root ::= "x"'),
    "previous_response_id": TEXT,
    **{
        name: st.booleans()
        for name in ("stream", "echo", "logprobs", "store", "background", "parallel_tool_calls", "ignore_eos")
    },
    **dict.fromkeys(
        (
            "n",
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "top_logprobs",
            "frequency_penalty",
            "presence_penalty",
            "repeat_penalty",
        ),
        NUMBER,
    ),
}
CHANGES = st.fixed_dictionaries({}, optional=dict(KNOWN)) | st.dictionaries(
    st.sampled_from(sorted(KNOWN)), JSON
)
FEW = st.lists(st.sampled_from(sorted(KNOWN)), max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: KNOWN[name] | JSON for name in names})
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [*NAMES, *HINT_HEADERS, "authorization", "x-request-id", "content-type", "accept", "traceparent"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip),
    max_size=3,
)

LIMITS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@dataclass
class Target:
    server: BackgroundServer
    client: httpx2.Client

    def send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return self.client.request(method, path, **options)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """The real driver on the null engine: what is accepted is really run."""
    driver = null_driver()
    driver.start()
    limits = ServerSettings(port=0, default_max_new_tokens=4, drain_s=5.0, max_stored_responses=16)
    with serving(driver, driver.text, limits) as server, http(server) as client:
        yield Target(server, client)
        driver.check()
    driver.stop(5.0)


def check(answer: httpx2.Response) -> None:
    event(f"answered {answer.status_code}")
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"]
    if answer.status_code >= 400:
        error_of(answer)
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert "internal_error" not in answer.text
        assert answer.text.endswith("\n\n")
    else:
        json.loads(answer.text)


@LIMITS
@given(
    st.sampled_from(sorted(ROUTES)),
    FEW | CHANGES,
    HEADERS,
    st.dictionaries(st.sampled_from(FIELDS), JSON) | HINTS,
)
def test_bodies(
    target: Target, path: str, change: dict[str, Any], headers: dict[str, str], ids: dict[str, Any]
) -> None:
    data = json.dumps({**ROUTES[path], **ids, **change}).encode()
    answer = target.send("POST", path, content=data, headers={**headers, "accept-encoding": "identity"})
    if answer.status_code == 403:  # an Origin or Host of elsewhere is not among the headers
        assert error_of(answer)["code"] == "service_tier_not_allowed"
    check(answer)


@LIMITS
@given(st.sampled_from(sorted(ROUTES)), st.binary(max_size=200))
def test_noise(target: Target, path: str, data: bytes) -> None:
    check(target.send("POST", path, content=data))


@LIMITS
@given(st.sampled_from(sorted(ROUTES)), st.data())
def test_damaged_json(target: Target, path: str, data: st.DataObject) -> None:
    valid = bytearray(json.dumps({**ROUTES[path], "stream": True}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        valid[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    check(target.send("POST", path, content=bytes(valid)))


NO_JSON = {"/", "/metrics", "/v1/watch"}
"""A redirect, a text, and a stream that ends when its client goes."""
PATHS = sorted(
    route.path for route in APP_ROUTES if route.path not in NO_JSON and not route.path.startswith("/page")
)


@LIMITS
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    st.sampled_from(PATHS),
    st.text(st.characters(codec="ascii", exclude_characters="?#"), max_size=20),
    st.dictionaries(st.sampled_from(["stream", "starting_after", "limit", "order", "after"]), TEXT),
)
def test_paths(target: Target, method: str, path: str, word: str, query: dict[str, str]) -> None:
    for name in ("{response_id}", "{model:path}", "{agent_id:path}"):
        path = path.replace(name, quote(word, safe="") or "x")
    check(target.send(method, path, params=query))


@LIMITS
@given(
    st.dictionaries(
        st.sampled_from(["stream", "starting_after", "limit", "order", "after"]), TEXT | st.just("true")
    )
)
def test_queries_of_a_stored_response(target: Target, query: dict[str, str]) -> None:
    made = target.send("POST", "/v1/responses", json=ROUTES["/v1/responses"]).json()["id"]
    check(target.send("GET", f"/v1/responses/{made}", params=query))
    check(target.send("GET", f"/v1/responses/{made}/input_items", params=query))


@LIMITS
@given(
    HINTS | st.dictionaries(TEXT, JSON, max_size=2),
    st.dictionaries(st.sampled_from(["tenant", "limit"]), TEXT),
)
def test_hints_between_turns(target: Target, hint: dict[str, Any], query: dict[str, str]) -> None:
    """Sent to an agent that is there; what it comes to is shown by every view of it."""
    if target.send("GET", "/v1/agents/fuzzed").status_code == 404:
        target.send(
            "POST", "/v1/completions", json=ROUTES["/v1/completions"], headers={"x-session-id": "fuzzed"}
        )
    answer = target.send("POST", "/v1/agents/fuzzed/hint", content=json.dumps(hint).encode())
    assert answer.status_code == 200 or error_of(answer)["code"] == "invalid_json"
    check(answer)
    check(target.send("GET", "/v1/agents/fuzzed", params=query))
    check(target.send("GET", "/v1/agents", params=query))


def test_a_crowd_that_comes_and_goes(target: Target) -> None:
    """Requests cut at any moment leave nothing behind."""

    async def one(client: httpx2.AsyncClient, number: int) -> None:
        path = sorted(ROUTES)[number % 3]
        body = {**ROUTES[path], "stream": number % 2 == 0, "max_tokens": 200, "max_output_tokens": 200}
        try:
            async with asyncio.timeout(0.002 * (number % 13)):
                await client.post(path, json=body)
        except TimeoutError:
            pass

    async def run() -> None:
        async with httpx2.AsyncClient(
            base_url=target.server.base_url, trust_env=False, timeout=30.0
        ) as client:
            await asyncio.gather(*(one(client, number) for number in range(60)))

    asyncio.run(run())
    service = target.server.service
    for _ in range(10_000):
        if not service.gate.inside and not service.bridge.live:
            break
        target.send("GET", "/health")
    assert (service.gate.inside, service.bridge.live) == (0, 0)
