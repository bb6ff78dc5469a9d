"""The access log: a true line for each request, and nothing that anybody said in any log at any level."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.loop.requests import Preempted, Rejected
from stepwell.server.app import ROUTES as APP_ROUTES
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.telemetry.logs import JsonFormatter, LogSettings, TextFormatter, logging_to
from tests.server.fakes import HOLD, INFO, FakeDriver, FakeText, null_node, says, serving, until
from tests.server.wire import CHAT, ROUTES, get, post

KEY = "sk-geheim-0123456789"
KEYS = KeyRing([KeyEntry("acme", key=KEY)])
AUTH = {"authorization": f"Bearer {KEY}"}


@contextmanager
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with logging_to(LogSettings("json"), stream=stream):
        yield stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines() if '"stepwell.access"' in line]


@pytest.mark.parametrize("route", ROUTES)
def test_a_line_says_who_asked_and_where_its_time_went(route: str) -> None:
    driver = FakeDriver(says("Hello", Preempted(), " there"), cached=(5, 2, 1))
    with logged() as stream, serving(driver, keys=KEYS) as server:
        headers = AUTH | {"x-session-id": "run", "x-agent-id": "planner", "x-request-id": "req-1"}
        assert post(server, route, ROUTES[route], **headers).status_code == 200
        until(lambda: stream.getvalue())
    (line,) = lines(stream)
    assert line["request"] == "req-1"
    assert (line["method"], line["route"], line["status"]) == ("POST", route, 200)
    assert (line["tenant"], line["session"], line["agent"]) == ("acme", "run", "run/planner")
    assert line["key"].startswith("key_") and line["service_tier"] == "default"
    assert (line["cached_device_tokens"], line["cached_host_tokens"], line["cached_disk_tokens"]) == (5, 2, 1)
    assert (line["queued_ms"], line["computed_ms"], line["decoded_ms"]) == (1.0, 1.0, 2.0)
    assert line["generated_tokens"] == len("Hello there") and line["preemptions"] == 0
    assert line["finish"] == "stop" and line["total_ms"] > 0


def test_refusals_and_lost_streams_say_why() -> None:
    lost = Rejected("server_error", "The engine failed on this request.")
    with logged() as stream, serving(FakeDriver(says("a", lost)), keys=KEYS) as server:
        post(server, "/v1/chat/completions", CHAT)
        post(server, "/v1/chat/completions", CHAT | {"stream": True}, **AUTH)
        get(server, "/v1/nowhere/sk-geheim-in-a-path", **AUTH)
        until(lambda: len(lines(stream)) == 3)
    found = [(line["route"], line["status"], line.get("error")) for line in lines(stream)]
    assert found == [
        ("/v1/chat/completions", 401, "invalid_api_key"),
        ("/v1/chat/completions", 200, "server_error"),
        ("other", 404, None),
    ]


SECRETS = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789"), min_size=12, max_size=24)


def everything(caught: list[logging.LogRecord]) -> str:
    return "\n".join(
        formatter.format(one) for one in caught for formatter in (TextFormatter(), JsonFormatter())
    )


class Catch(logging.Handler):
    def __init__(self) -> None:
        super().__init__(1)
        self.caught: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.caught.append(record)


@contextmanager
def every_level() -> Iterator[Catch]:
    """All records of all loggers, however talkative."""
    catch, root, access = Catch(), logging.getLogger(), logging.getLogger("stepwell.access")
    before = root.level, access.level
    root.addHandler(catch)
    root.setLevel(1)
    access.setLevel(1)
    try:
        yield catch
    finally:
        root.removeHandler(catch)
        root.setLevel(before[0])
        access.setLevel(before[1])


BODIES = (
    lambda prompt: CHAT | {"messages": [{"role": "user", "content": prompt}]},
    lambda prompt: CHAT | {"messages": [{"role": prompt, "content": prompt}]},
    lambda prompt: CHAT | {"messages": prompt, "model": prompt},
    lambda prompt: CHAT | {"tools": [{"type": "function", "function": {"name": prompt}}]},
    lambda prompt: CHAT | {"stop": prompt, "stream": True},
    lambda prompt: {prompt: prompt},
    lambda prompt: [prompt],
)


@pytest.fixture(scope="module")
def node() -> Iterator[BackgroundServer]:
    with null_node(keys=KEYS) as server:
        yield server


WRITES = sorted({route.path for route in APP_ROUTES if "POST" in (route.methods or ())})
"""Of every dialect; what a path names is a secret as well."""


@given(SECRETS, SECRETS, st.sampled_from(BODIES), st.sampled_from(sorted(ROUTES)) | st.sampled_from(WRITES))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_prompt_and_no_key_in_any_log_at_any_level(
    node: BackgroundServer, prompt: str, key: str, body: Any, route: str
) -> None:
    prompt, key = f"prompt{prompt}", f"sk-{key}"
    route = re.sub(r"\{[^}]*\}", prompt, route) + f"?note={prompt}"
    with every_level() as catch:
        post(
            node,
            route,
            body(prompt) | {"max_tokens": 2} if isinstance(body(prompt), dict) else [prompt],
            **AUTH,
        )
        post(node, route, body(prompt), authorization=f"Bearer {key}")
        post(node, route, body(prompt), **{"x-api-key": key})
        until(lambda: sum(one.name == "stepwell.access" for one in catch.caught) == 3)
    # The test's own client and its event loop are not the server's logs.
    text = everything(
        [one for one in catch.caught if not one.name.startswith(("httpx", "httpcore", "hpack"))]
    )
    assert prompt not in text
    assert key not in text
    assert KEY not in text


def test_what_fails_inside_is_logged_without_the_prompt() -> None:
    def breaks(prompt: str, generation: object) -> Any:
        raise RuntimeError(f"cannot digest {prompt!r}")

    with (
        every_level() as catch,
        serving(FakeDriver(breaks), FakeText(INFO), ServerSettings(port=0)) as server,
    ):
        body = CHAT | {"messages": [{"role": "user", "content": "my own secret words"}]}
        assert post(server, "/v1/chat/completions", body).status_code == 500
        until(lambda: any(one.name == "stepwell.access" for one in catch.caught))
    text = everything(catch.caught)
    assert "my own secret words" not in text
    assert "RuntimeError" in text


def test_a_background_response_has_its_line_when_it_ends() -> None:
    held = FakeDriver(says("Hel", HOLD, "lo"))
    with logged() as stream, serving(held, keys=KEYS) as server:
        body = ROUTES["/v1/responses"] | {"background": True}
        name = post(server, "/v1/responses", body, **AUTH, **{"x-request-id": "req-1"}).json()["id"]
        assert get(server, f"/v1/responses/{name}", **AUTH).json()["status"] == "in_progress"
        until(lambda: len(lines(stream)) == 1)
        assert lines(stream)[0]["method"] == "GET"
        held.release.set()
        until(lambda: len(lines(stream)) == 2)
        found = lines(stream)[1]
    assert (found["request"], found["method"], found["status"]) == ("req-1", "POST", 200)
    assert found["generated_tokens"] == len("Hello")
    assert found["finish"] == "stop"
