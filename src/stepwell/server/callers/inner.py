"""A request of a batch, posted to the application itself: the same checks, errors and prices as over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Scope

from stepwell.server.callers.keys import ApiKey

SCOPE_KEY = "stepwell.inner_key"


async def post(
    app: ASGIApp, path: str, body: bytes, key: ApiKey, headers: Mapping[str, str]
) -> tuple[int, bytes, str]:
    """Status, body and request id."""
    answered: list[Message] = []
    sent = False
    over = asyncio.Event()

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await over.wait()  # this client does not leave in the middle
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answered.append(message)

    try:
        await app(_scope(path, key, headers, len(body)), receive, send)
    finally:
        over.set()
    start = next((one for one in answered if one["type"] == "http.response.start"), None)
    if start is None:
        return 500, b"", ""
    text = b"".join(one.get("body", b"") for one in answered if one["type"] == "http.response.body")
    request = next((value.decode() for name, value in start["headers"] if name == b"x-request-id"), "")
    return int(start["status"]), text, request


def _scope(path: str, key: ApiKey, headers: Mapping[str, str], size: int) -> Scope:
    given = {"host": "localhost", "content-type": "application/json", "content-length": str(size), **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 0),
        SCOPE_KEY: key,
    }
