"""A server that is a function of the messages, in this process: the whole HTTP API that crews use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stepwell.agents.client import Client, Patience
from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import parse_crew
from stepwell.agents.planner import plan_flow, with_writer
from stepwell.agents.session import Session
from stepwell.agents.state import SessionFile
from stepwell.agents.tools.base import Tool

Message = dict[str, Any]
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One turn as the server sees it."""

    agent: str
    role: str
    parent: str | None
    body: dict[str, Any]

    @property
    def last(self) -> str:
        return str(self.body["messages"][-1]["content"])

    @property
    def turn(self) -> int:
        """From 1."""
        return 1 + sum(1 for message in self.body["messages"] if message["role"] == "assistant")


Model = Callable[[Asked], "str | Message | httpx2.Response"]


def calls(*wanted: tuple[str, dict[str, Any]]) -> Message:
    """An answer that calls tools by the API's field."""
    made = [
        {
            "id": f"call_{at}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for at, (name, arguments) in enumerate(wanted)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def failure(status: int, code: str, message: str = "No.", **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, json={"error": {"message": message, "code": code}}, headers=named)


@dataclass
class Scripted(httpx2.AsyncBaseTransport):
    """Answers at once unless ``gate`` is set, which is then asked before every answer."""

    model: Model
    cost: str | None = None
    """USD per turn."""
    knows_hints: bool = True
    gate: Callable[[Asked], Any] | None = None
    asked: list[Asked] = field(default_factory=list)
    hints: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    hint_posts: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else {}
        if path.endswith("/models"):
            return httpx2.Response(200, json={"data": [{"id": "scripted"}]})
        if path.endswith("/models/scripted"):
            return httpx2.Response(200, json={"id": "scripted", "end_token_ids": [2]})
        if path.endswith("/hint"):
            self.hint_posts += 1
            self.hints.append((path.split("/")[-2], body))
            return httpx2.Response(200, json={}) if self.knows_hints else httpx2.Response(404, json={})
        if not path.endswith("/chat/completions"):
            return httpx2.Response(404, json={"error": {"message": "unknown", "code": "unknown_url"}})
        headers = request.headers
        one = Asked(headers["x-agent-id"], headers["x-agent-name"], headers.get("x-parent-agent-id"), body)
        self.asked.append(one)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await (self.gate(one) if self.gate else asyncio.sleep(0))
            return self._answer(self.model(one), body)
        finally:
            self.at_once -= 1

    def _answer(self, said: str | Message | httpx2.Response, body: dict[str, Any]) -> httpx2.Response:
        if isinstance(said, httpx2.Response):
            return said
        message = {"role": "assistant", "content": said} if isinstance(said, str) else said
        usage: dict[str, Any] = {"prompt_tokens": 10 * len(body["messages"]), "completion_tokens": 5}
        if self.cost is not None:
            usage["cost"] = float(self.cost)
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice], "usage": usage})


class Crash(BaseException):
    """The end of the process, as far as a test in one process can show it."""


class Mortal(SessionFile):
    """A state whose process dies right after its nth commit."""

    def __init__(self, path: Path, commits: int) -> None:
        self.left = commits
        super().__init__(path)

    def committed(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


async def never_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


def toolbox(*tools: Tool) -> Callable[[Sequence[str]], list[Tool]]:
    by_name = {tool.name: tool for tool in tools}
    return lambda names: [by_name[name] for name in names]


def crew(text: str) -> Crew:
    return parse_crew(text)


@asynccontextmanager
async def session(
    server: Scripted, made: Crew, store: SessionFile | Path | str = ":memory:", *tools: Tool, **options: Any
) -> AsyncIterator[Session]:
    """A session with a scripted server; its events are in ``heard``."""
    client = Client("http://scripted", transport=server, sleep=never_sleep, patience=Patience(5, 3))
    kept = store if isinstance(store, SessionFile) else SessionFile(store)
    try:
        async with client:
            yield Session(with_writer(made), client, kept, toolbox(*tools), flow=plan_flow, **options)
    finally:
        kept.close()


async def answer(server: Scripted, made: Crew, *tools: Tool, ask: str = "Why?", **options: Any) -> Any:
    """The result of one whole session."""
    async with asyncio.timeout(PATIENCE_S), session(server, made, ":memory:", *tools, **options) as running:
        return await running.run(ask)
