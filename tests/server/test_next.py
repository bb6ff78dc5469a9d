"""From the wire to the policy: hints, roles, service tiers, and what the server sees by itself.

The recording says what the policy was really told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stepwell.engines.base import SamplingParams
from stepwell.engines.null import NullConfig
from stepwell.loop.requests import Generation, Rejected
from stepwell.policy.types import Hint, Hinted, RequestArrived, Wait
from stepwell.recording.file import read_recording
from stepwell.server.app import create_app
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.generation.exchange import DataFrames, stream_events
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from tests.server.fakes import HOLD, INFO, MODEL, FakeDriver, FakeText, call, null_driver, says, serving
from tests.server.wire import CHAT, RESPONSE, ROUTES, TEXT, error_of, events, get, http, post

AGENT = {"x-session-id": "a"}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [{"type": "function", "function": {"name": "f"}}],
    "/v1/responses": [{"type": "function", "name": "f"}],
}


class Life:
    """A server on the null engine, and afterwards everything that its policy was told."""

    def __init__(self, path: Path, keys: KeyRing | None = None) -> None:
        self.path, self.keys = path / "run.jsonl", keys

    @contextmanager
    def server(self) -> Iterator[BackgroundServer]:
        config = NullConfig(model=MODEL, block_tokens=16, device_blocks=256, answer=b"abc")
        driver = null_driver(config, record=self.path)
        driver.start()
        try:
            with serving(driver, driver.text, keys=self.keys) as server:
                yield server
        finally:
            driver.stop(5.0)

    def told(self) -> list[Any]:
        _, steps = read_recording(self.path)
        return [event for step in steps for event in step.events]

    def arrivals(self) -> list[RequestArrived]:
        return [event for event in self.told() if isinstance(event, RequestArrived)]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_declared_hint_and_a_role_reach_the_policy(tmp_path: Path, path: str, stream: bool) -> None:
    life = Life(tmp_path)
    hint = {"agent_hint": {"next": "tool", "expected_ms": 9_000, "cache_control": {"ttl": "5m"}}}
    with life.server() as server:
        post(server, path, {**ROUTES[path], **hint, "stream": stream}, **AGENT, **{"x-agent-name": "planner"})
    (arrived,) = life.arrivals()
    assert arrived.hint == Hint(Wait.TOOL, 9_000_000, None, 300_000_000)
    assert (arrived.caller.role, arrived.caller.agent) == ("planner", "a")
    assert not [event for event in life.told() if isinstance(event, Hinted)]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_an_answer_shows_is_told_once_a_turn(tmp_path: Path, path: str, stream: bool) -> None:
    life = Life(tmp_path)
    with life.server() as server:
        for _ in range(2):
            post(server, path, {**ROUTES[path], "stream": stream}, **AGENT)
    hinted = [event for event in life.told() if isinstance(event, Hinted)]
    assert hinted == [Hinted(number, "local", "a", Hint(Wait.PERSON)) for number in (1, 2)]


@pytest.mark.parametrize("path", TOOLS)
@pytest.mark.parametrize("stream", [False, True])
def test_who_answers_with_a_call_waits_for_a_tool(path: str, stream: bool) -> None:
    with serving(driver := FakeDriver(says(call("f")))) as server:
        body = {**ROUTES[path], "tools": TOOLS[path], "stream": stream}
        post(server, path, body, **AGENT)
        post(
            server,
            path,
            body | {"prompt_cache_options": {"ttl": "30m"}, "metadata": {"expected_ms": "5"}},
            **AGENT,
        )
        post(server, path, body | {"metadata": {"next": "person"}}, **AGENT)
    # What was declared stays; only what was not is filled in.
    assert driver.hinted == [
        (0, "local", "a", Hint(Wait.TOOL, tool="f")),
        (1, "local", "a", Hint(Wait.TOOL, 5_000, None, 1_800_000_000, "f")),
    ]


class Letters(DataFrames):
    """A shape that says what it takes."""

    def begin(self) -> list[Any]:
        return [{"begin": 0}]

    def take(self, arrival: Any) -> list[Any]:
        return [{"took": type(arrival.output).__name__}]

    def end(self) -> list[Any]:
        return [{"end": 0}]

    def whole(self, progress: Any) -> dict[str, Any]:
        raise AssertionError("this is streamed")

    def waits_for(self) -> Wait:
        return Wait.TOOL


def test_the_end_is_told_before_the_client_can_see_it() -> None:
    """Else the agent's next turn could overtake what is known about the time before it."""
    driver = FakeDriver(says("x"))

    async def run() -> list[tuple[Any, int]]:
        service = create_app(driver, FakeText(INFO)).state.service
        with service.bridge.open([Generation((1,), 8, SamplingParams())]) as batch:
            stream = stream_events(service, "req", batch, Letters())
            return [(event, len(driver.hinted)) async for event in stream]

    seen = asyncio.run(run())
    assert [told for event, told in seen if event == {"took": "Delta"}] == [0]
    assert [told for event, told in seen if event == {"took": "Finished"}] == [1]
    assert seen[-1] == ({"end": 0}, 1)


def test_several_choices_are_one_turn() -> None:
    with serving(driver := FakeDriver(says("x"))) as server:
        post(server, "/v1/chat/completions", CHAT | {"n": 3}, **AGENT)
    assert len(driver.submitted) == 3
    assert [hint for *_, hint in driver.hinted] == [Hint(Wait.PERSON)]


@pytest.mark.parametrize("stream", [False, True])
def test_plain_text_shows_nothing(stream: bool) -> None:
    with serving(driver := FakeDriver(says(call("f")))) as server:
        post(server, "/v1/completions", TEXT | {"stream": stream}, **AGENT)
    assert driver.hinted == []


def test_a_turn_without_an_end_shows_nothing() -> None:
    with serving(driver := FakeDriver(says("x", Rejected("server_error", "Lost.")))) as server:
        for stream in (False, True):
            post(server, "/v1/chat/completions", CHAT | {"stream": stream}, **AGENT)
    assert driver.hinted == []


def test_a_background_response_is_told_as_well() -> None:
    driver = FakeDriver(says(HOLD, "x"))
    with serving(driver) as server:
        made = post(server, "/v1/responses", RESPONSE | {"background": True}, **AGENT).json()
        driver.release.set()
        stream = events(get(server, f"/v1/responses/{made['id']}?stream=true"))
    assert stream[-1]["type"] == "response.completed"
    assert [hint for *_, hint in driver.hinted] == [Hint(Wait.PERSON)]


# --- preparing the cache -----------------------------------------------------------------------

PREWARM = {"prompt_cache_options": {"prewarm": True}}
LONG = "a stepwell is a well that one can walk down into "


@pytest.mark.parametrize("stream", [False, True])
def test_a_prewarmed_chat_answers_nothing_and_finds_its_cache(tmp_path: Path, stream: bool) -> None:
    life = Life(tmp_path)
    body = {"model": MODEL, "messages": [{"role": "user", "content": LONG}]}
    with life.server() as server:
        options = {"stream": stream, "stream_options": {"include_usage": True}} if stream else {}
        warmed = post(server, "/v1/chat/completions", body | PREWARM | options, **AGENT)
        said = post(server, "/v1/chat/completions", body, **AGENT).json()
    if stream:
        *chunks, last, done = events(warmed)
        assert done == "[DONE]"
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == ""
        usage = last["usage"]
    else:
        (choice,) = warmed.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
        usage = warmed.json()["usage"]
    assert usage["completion_tokens"] == 0
    assert usage["prompt_tokens"] == said["usage"]["prompt_tokens"]
    assert said["choices"][0]["message"]["content"] == "abc"
    assert said["usage"]["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 16
    assert [event.hint for event in life.told() if isinstance(event, Hinted)] == [Hint(Wait.PERSON)]


@pytest.mark.parametrize("wish", [PREWARM, {"generate": False}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prewarmed_response_can_be_followed(tmp_path: Path, wish: dict[str, Any], stream: bool) -> None:
    life = Life(tmp_path)
    body = {"model": MODEL, "input": LONG}
    with life.server() as server:
        answer = post(server, "/v1/responses", body | wish | {"stream": stream})
        warmed = events(answer)[-1]["response"] if stream else answer.json()
        more = {"model": MODEL, "input": "And?", "previous_response_id": warmed["id"]}
        said = post(server, "/v1/responses", more).json()
    assert (warmed["status"], warmed["output"]) == ("completed", [])
    assert (warmed["usage"]["output_tokens"], warmed["incomplete_details"]) == (0, None)
    assert said["output"][0]["content"][0]["text"] == "abc"
    assert said["usage"]["input_tokens"] > warmed["usage"]["input_tokens"]
    assert said["usage"]["input_tokens_details"]["cached_tokens"] >= 32
    assert life.arrivals()[0].max_new_tokens == 1


def test_a_prewarmed_completion(tmp_path: Path) -> None:
    with Life(tmp_path).server() as server:
        answer = post(server, "/v1/completions", TEXT | PREWARM).json()
    assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("", 0)


# --- service tiers -----------------------------------------------------------------------------

RING = KeyRing(
    [
        KeyEntry(tenant="acme", key="sk-acme", service_tiers=("default", "flex"), projects=("search",)),
        KeyEntry(tenant="rich", key="sk-rich", service_tiers=("priority",), projects=("gold",)),
    ]
)
KEY = {"authorization": "Bearer sk-acme"}

# Every way known in the field to ask for more than one has paid for, besides OpenAI's own field.
PROMOTIONS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("vLLM's header", {"x-vllm-priority": "-100"}, {}),
    ("vLLM's field", {}, {"priority": -100}),
    ("vLLM's extra arguments", {}, {"vllm_xargs": {"priority": -100, "service_tier": "priority"}}),
    ("Dynamo's hints", {}, {"nvext": {"agent_hints": {"priority": 9}, "priority": 9}}),
    ("Dynamo's header", {"x-dynamo-priority": "9"}, {}),
    ("LiteLLM's header", {"x-litellm-priority": "high", "x-litellm-tags": "priority"}, {}),
    ("Anthropic's speed", {}, {"speed": "fast"}),
    ("metadata", {}, {"metadata": {"service_tier": "priority", "priority": "high"}}),
    ("our own hint", {}, {"agent_hint": {"service_tier": "priority", "priority": 9}}),
    ("extra_body left as it is", {}, {"extra_body": {"service_tier": "priority", "priority": -100}}),
    ("a header like the field", {"service-tier": "priority", "x-service-tier": "priority"}, {}),
    ("another's project", {"openai-project": "gold"}, {}),
    ("another's organisation", {"openai-organization": "rich"}, {}),
    ("another's tenant", {"x-tenant": "rich", "x-tenant-id": "rich"}, {"tenant": "rich", "user": "rich"}),
    ("another key beside it", {"api-key": "sk-rich", "x-api-key": "sk-rich"}, {"api_key": "sk-rich"}),
    ("Kubernetes' inference headers", {"x-gateway-inference-objective": "critical"}, {}),
    ("background options", {}, {"background_options": {"completion_window": "soonest"}}),
    ("baggage", {"baggage": "service_tier=priority,tenant=rich"}, {}),
]


@pytest.mark.parametrize("path", ROUTES)
def test_nobody_gets_a_service_tier_that_he_has_not_paid_for(tmp_path: Path, path: str) -> None:
    life = Life(tmp_path, RING)
    with life.server() as server, http(server, **KEY) as client:
        for what, headers, body in PROMOTIONS:
            for asked in (None, "auto", "flex"):
                tier = {"service_tier": asked} if asked else {}
                answer = client.post(path, json={**ROUTES[path], **body, **tier}, headers=headers)
                assert (answer.status_code, answer.json().get("service_tier")) == (
                    200,
                    "flex" if asked == "flex" else "default",
                ), what
    used = [(arrived.tenant, arrived.caller.service_tier) for arrived in life.arrivals()]
    assert used == [("acme", "default"), ("acme", "default"), ("acme", "flex")] * len(PROMOTIONS)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("asked", ["priority", "fast", "scale", "ultrafast"])
def test_openais_own_field_is_refused_and_nothing_arrives(tmp_path: Path, path: str, asked: str) -> None:
    life = Life(tmp_path, RING)
    with life.server() as server:
        refused = post(server, path, {**ROUTES[path], "service_tier": asked}, **KEY)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "service_tier_not_allowed")
    assert life.arrivals() == []


@pytest.mark.parametrize("path", ROUTES)
def test_every_piece_of_a_stream_names_the_service_tier_that_was_used(path: str) -> None:
    with serving(FakeDriver(says("xy")), keys=RING) as server:
        rich = {"authorization": "Bearer sk-rich"}
        found = events(post(server, path, {**ROUTES[path], "stream": True, "service_tier": "fast"}, **rich))
    named = [event.get("response", event) for event in found if isinstance(event, dict)]
    named = [event for event in named if event.get("object") or "service_tier" in event]
    assert len(named) >= 2
    assert {event["service_tier"] for event in named} == {"priority"}


# --- how much room is left ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_answers_say_how_many_more_requests_there_may_be(path: str, stream: bool) -> None:
    ring = KeyRing([KeyEntry(tenant="t", key="k", max_concurrent_requests=3)])
    with serving(FakeDriver(says("x")), keys=ring) as server:
        answer = post(server, path, {**ROUTES[path], "stream": stream}, authorization="Bearer k")
    assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert answer.headers["x-ratelimit-remaining-requests"] == "2"


def test_a_full_server_says_so_in_its_headers() -> None:
    driver = FakeDriver(says(HOLD, "x"))
    with serving(driver, settings=ServerSettings(port=0, max_concurrent_requests=1)) as server:
        post(server, "/v1/responses", RESPONSE | {"background": True})
        refused = post(server, "/v1/completions", TEXT)
        driver.release.set()
    assert refused.status_code == 429
    assert refused.headers["x-ratelimit-limit-requests"] == "1"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
