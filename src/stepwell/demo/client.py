"""One turn of one agent over the wire: streamed, timed where the customer sits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx2

from stepwell.errors import StepwellError

TIMEOUT_S = 900.0
MAX_RETRIES = 100
MAX_RETRY_WAIT_S = 5.0

Message = dict[str, str]
PLAIN_STOPS = ("\nQuestion:", "\n\n")


class CallFailed(StepwellError):
    """The server refused or broke off a turn; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the key that says which tenant, and the ids that say which agent."""

    api_key: str
    service_tier: str
    session_id: str
    name: str
    parent_session_id: str | None = None
    waits_for: str | None = None
    """What it waits for after this turn, in the words of ``X-Agent-Next``; None: it does not say."""

    @property
    def role(self) -> str:
        """What kind of agent: the name without its number. Agents of one kind wait alike and are one line
        of the books."""
        return self.name.rstrip("0123456789").rstrip("-") or self.name

    def headers(self) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {self.api_key}",
            "X-Session-ID": self.session_id,
            "X-Agent-Name": self.role,
        }
        if self.parent_session_id is not None:
            headers["X-Parent-Session-ID"] = self.parent_session_id
        if self.waits_for is not None:
            headers["X-Agent-Next"] = self.waits_for
        return headers


@dataclass(slots=True)
class Reply:
    """What came back. Times are ``time.perf_counter`` seconds."""

    start_s: float
    text: str = ""
    first_token_s: float | None = None
    end_s: float = 0.0
    usage: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0


class Api(Protocol):
    """Anything that answers a conversation."""

    async def turn(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        caller: Caller,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply: ...


class HttpApi:
    """The server's OpenAI routes: chat where the model has a template, plain completions elsewhere."""

    def __init__(self, base_url: str, model: str, *, chat: bool, max_connections: int = 256) -> None:
        self._model = model
        self._chat = chat
        limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        # trust_env off: a proxy from the environment must not come between us and our own loopback.
        self._http = httpx2.AsyncClient(base_url=base_url, timeout=TIMEOUT_S, limits=limits, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def turn(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        caller: Caller,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """One turn. Full queues (429, 503) are waited for; everything else raises ``CallFailed``.

        ``schema``: what a chat model's answer has to fit.
        """
        reply = Reply(time.perf_counter())
        path, body = self._request(messages, max_tokens, caller)
        if schema is not None and self._chat:
            form = {"name": "answer", "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            while (wait_s := await self._attempt(path, body, caller, reply)) is not None:
                reply.retries += 1
                await asyncio.sleep(wait_s)
        except httpx2.HTTPError as error:
            raise CallFailed(f"{caller.session_id}: {type(error).__name__}: {error}") from error
        reply.end_s = time.perf_counter()
        return reply

    def _request(
        self, messages: Sequence[Message], max_tokens: int, caller: Caller
    ) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "service_tier": caller.service_tier,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._chat:
            return "/v1/chat/completions", body | {"messages": list(messages)}
        return "/v1/completions", body | {"prompt": render_plain(messages), "stop": list(PLAIN_STOPS)}

    async def _attempt(self, path: str, body: dict[str, Any], caller: Caller, reply: Reply) -> float | None:
        """None when the reply is complete, else how many seconds to wait before trying again."""
        async with self._http.stream("POST", path, json=body, headers=caller.headers()) as response:
            if response.status_code in (429, 503) and reply.retries < MAX_RETRIES:
                return _retry_wait_s(response.headers)
            if response.status_code != 200:
                await response.aread()
                raise CallFailed(
                    f"{caller.session_id}: HTTP {response.status_code}: {_message(response.text)}"
                )
            await _read_events(response.aiter_lines(), reply, caller)
        return None


async def _read_events(lines: AsyncIterator[str], reply: Reply, caller: Caller) -> None:
    async for line in lines:
        if not line.startswith("data:"):
            continue
        payload = line[5:].strip()
        if payload == "[DONE]":
            return
        event = json.loads(payload)
        if "error" in event:
            raise CallFailed(f"{caller.session_id}: {_message(payload)}")
        if text := "".join(_text(choice) for choice in event.get("choices") or ()):
            reply.first_token_s = reply.first_token_s or time.perf_counter()
            reply.text += text
        reply.usage = event.get("usage") or reply.usage
    raise CallFailed(f"{caller.session_id}: the stream broke off before its end")


def _text(choice: Mapping[str, Any]) -> str:
    return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")


def _retry_wait_s(headers: Mapping[str, str]) -> float:
    try:
        wait_s = float(headers.get("retry-after-ms", "250")) / 1000
    except ValueError:
        wait_s = 0.25
    return min(max(wait_s, 0.01), MAX_RETRY_WAIT_S)


def _message(text: str) -> str:
    """The server's own sentence, or the beginning of whatever it sent."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]


def render_plain(messages: Sequence[Message]) -> str:
    """A conversation for a model without a chat template: questions and answers as plain text."""
    lines = []
    for message in messages:
        if message["role"] == "assistant":
            lines.append(f"{message['content']}\n\n")
        elif message["role"] == "user":
            lines.append(f"Question: {message['content']}\n\nAnswer:")
        else:
            lines.append(f"{message['content']}\n\n")
    return "".join(lines)
