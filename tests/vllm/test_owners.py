"""Before vLLM's own server: who it is comes from the key; what clients say of themselves is not believed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from stepwell.server.keys import KeyEntry, KeyRing
from stepwell.vllm.owner import caller_of
from stepwell.vllm.owners import StepwellOwners
from stepwell.vllm.rewrite import FORBIDDEN

KEYS = KeyRing(
    [
        KeyEntry(
            tenant="acme", key="acme-key", service_tiers=("priority", "flex"), default_service_tier="flex"
        ),
        KeyEntry(tenant="other", key="other-key", service_tiers=("default",)),
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
    vllm: Vllm, body: object, key: str | None = "acme-key", path: str = "/v1/chat/completions", **more: str
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

    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(StepwellOwners(vllm, KEYS, ["priority", "default", "flex"])(scope, receive, send))
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
