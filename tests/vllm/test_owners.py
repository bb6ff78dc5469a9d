"""Before vLLM's own server: who it is comes from the key; what clients say of themselves is not believed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.vllm.command_line import command_line
from stepwell.vllm.guard import FrontEndOnly
from stepwell.vllm.owner import caller_of
from stepwell.vllm.owners import StepwellOwners
from stepwell.vllm.rewrite import FORBIDDEN

KEYS = KeyRing(
    [
        KeyEntry(
            tenant="acme", key="acme-key", service_tiers=("priority", "flex"), default_service_tier="flex"
        ),
        KeyEntry(tenant="other", key="other-key", service_tiers=("default",)),
        KeyEntry(tenant="ops", key="ops-key", operator=True),
    ]
)


class Vllm:
    """What arrives behind the middleware."""

    def __init__(self) -> None:
        self.calls = 0
        self.body: Any = None
        self.headers: dict[bytes, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.headers = dict(scope["headers"])
        if scope["method"] == "POST":
            self.body = json.loads((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def call(
    vllm: Vllm,
    body: object,
    key: str | None = "acme-key",
    path: str = "/v1/chat/completions",
    method: str = "POST",
    keys: KeyRing = KEYS,
    **more: str,
) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    parts = [data[:5], data[5:]]
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": ("127.0.0.1", 1)}
    asyncio.run(StepwellOwners(vllm, keys, ["priority", "default", "flex"])(scope, receive, send))
    return statuses[0]


def test_what_a_client_says_about_itself_is_removed_and_what_is_known_put_in() -> None:
    vllm = Vllm()
    forged: dict[str, Any] = {name: {"tenant": "other"} for name in FORBIDDEN}
    forged |= {"priority": -100, "vllm_xargs": {"kv_transfer_params": {"tenant": "other"}, "kept": 1}}
    assert call(vllm, {"model": "m", "messages": [], **forged}, x_vllm_priority="-100") == 200
    assert caller_of(vllm.body["kv_transfer_params"]).tenant == "acme"
    assert vllm.body["priority"] == 2
    assert vllm.body["vllm_xargs"] == {"kept": 1}
    assert b"x-vllm-priority" not in vllm.headers
    assert "kv_hints" not in vllm.body
    assert int(vllm.headers[b"content-length"]) > 0


def test_two_tenants_never_share_a_cache() -> None:
    salts = []
    for key in ("acme-key", "other-key", "acme-key"):
        vllm = Vllm()
        call(vllm, {"model": "m", "cache_salt": "same"}, key)
        salts.append(vllm.body["cache_salt"])
    assert salts[0] == salts[2] != salts[1]


def test_a_service_tier_that_is_not_paid_for_is_refused() -> None:
    vllm = Vllm()
    assert call(vllm, {"service_tier": "priority"}) == 200
    assert vllm.body["priority"] == 0
    assert call(vllm, {"service_tier": "priority"}, "other-key") == 403
    assert vllm.calls == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[1]", 400), (b'{"a": NaN, "a": ', 400), (b"\xff\xfe", 400), (b"[" * 100_000, 400)],
)
def test_a_body_that_is_no_object_does_not_reach_vllm(body: bytes, status: int) -> None:
    vllm = Vllm()
    assert call(vllm, body) == status
    assert not vllm.calls


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [(None, "/v1/models", 401), ("wrong", "/tokenize", 401), (None, "/metrics", 200)],
)
def test_without_a_key_only_probes_and_metrics_are_answered(key: str | None, path: str, status: int) -> None:
    vllm = Vllm()
    assert call(vllm, {}, key, path) == status
    assert vllm.calls == (status == 200)


def test_an_agents_name_and_its_hint_go_along() -> None:
    vllm = Vllm()
    body = {"model": "m", "agent_hint": {"wait_for": "tool"}}
    assert call(vllm, body, x_session_id="agent-7") == 200
    assert caller_of(vllm.body["kv_transfer_params"]).agent == "agent-7"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/pause"),
        ("POST", "/abort_requests"),
        ("POST", "/update_weights"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1"),
        ("GET", "/tokenizer_info"),
        ("DELETE", "/v1/models"),
        ("POST", "/what/comes/next"),
    ],
)
def test_what_is_no_clients_needs_an_operators_key(method: str, path: str) -> None:
    vllm = Vllm()
    assert call(vllm, {}, path=path, method=method) == 403
    assert not vllm.calls
    assert call(vllm, {}, "ops-key", path=path, method=method) == 200
    assert call(vllm, {}, path="/v1/models", method="GET") == 200
    assert call(vllm, {"prompt": "x"}, path="/invocations") == 200
    assert caller_of(vllm.body["kv_transfer_params"]).tenant == "acme"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "127.evil.example"}, 403),
        ({"host": "127.0.0.1", "origin": "https://evil.example"}, 403),
        ({"host": "127.0.0.1", "x_forwarded_for": "203.0.113.9"}, 403),
        ({"host": "127.0.0.1", "via": "1.1 proxy"}, 403),
    ],
)
def test_without_keys_only_programs_on_this_machine_are_served(headers: dict[str, str], status: int) -> None:
    assert call(Vllm(), {}, None, keys=KeyRing(), **headers) == status


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/invocations", "/v1/completions", "/pause", "/docs"]
)
def test_behind_the_front_end_nobody_else_is_answered_on_any_path(path: str) -> None:
    async def asked(*given: bytes, kind: str = "http") -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        headers = [(b"authorization", one) for one in given]
        scope = {"type": kind, "method": "POST", "path": path, "headers": headers}
        await FrontEndOnly(Vllm(), "engine-key")(scope, receive, send)
        return [sent[0].get("status"), sent[0].get("code")]

    right = b"Bearer engine-key"
    assert asyncio.run(asked(right)) == [200, None]
    for wrong in ([], [b"Bearer other"], [b"engine-key"], [right, right], [b"Bearer "], [right + b" "]):
        assert asyncio.run(asked(*wrong)) == [401, None]
    assert asyncio.run(asked(right, kind="websocket")) == [None, 1008]


def test_vllm_is_started_with_one_of_the_two() -> None:
    for middleware, named in ((True, StepwellOwners), (False, FrontEndOnly)):
        line = command_line(Path("m"), "127.0.0.1", 1, {}, middleware=middleware)
        assert line[line.index("--middleware") + 1] == f"{named.__module__}.{named.__name__}"
