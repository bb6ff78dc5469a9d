"""Small helpers for tests that look at bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2

from stepwell.server.anthropic.errors import is_anthropic
from stepwell.server.gemini.errors import is_gemini
from stepwell.server.run import BackgroundServer
from tests.server.fakes import MODEL, PATIENCE_S

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": MODEL, "prompt": "hi"}
RESPONSE = {"model": MODEL, "input": "hi"}

ROUTES: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/responses": RESPONSE,
}


def http(server: BackgroundServer, **headers: str) -> httpx2.Client:
    return httpx2.Client(base_url=server.base_url, timeout=PATIENCE_S, trust_env=False, headers=headers)


def post(server: BackgroundServer, path: str, body: Any, **headers: str) -> httpx2.Response:
    with http(server) as client:
        return client.post(path, json=body, headers=headers)


def get(server: BackgroundServer, path: str, **headers: str) -> httpx2.Response:
    with http(server) as client:
        return client.get(path, headers=headers)


def events(response: httpx2.Response) -> list[Any]:
    """The data of a stream's events; ``[DONE]`` and comments as text."""
    found: list[Any] = []
    for line in response.text.splitlines():
        if line.startswith("data: {"):
            found.append(json.loads(line[6:]))
        elif line.startswith("data: "):
            found.append(line[6:])
        elif line.startswith(":"):
            found.append(line)
    return found


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error object, after checking that it is OpenAI's shape exactly, or that of the route's dialect."""
    body = response.json()
    if is_gemini(response.request.url.path, response.request.method):
        assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "status"}, body
        kind = {"type": body["error"].pop("status"), "param": None, "code": None}
        body["error"] |= kind
    if is_anthropic(response.request.url.path):
        assert set(body) == {"type", "error", "request_id"}, body
        assert body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}, body
        body = {"error": {"param": None, "code": None, **body["error"]}}
    assert set(body) == {"error"}, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "Traceback" not in response.text
    assert isinstance(error, dict)
    return error
