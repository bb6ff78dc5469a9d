"""What counts tokens as vLLM does, one a byte, behind the real front end: for its books and its dialects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stepwell.basics.clock import MonotonicClock
from stepwell.engines.base import EngineInfo
from stepwell.engines.null import NullText
from stepwell.gateway.processes import NodeProcess
from stepwell.gateway.upstream import Upstream
from stepwell.ledger.settings import LedgerSettings
from stepwell.ledger.start import Ledger, open_ledger
from stepwell.ledger.types import Budget
from stepwell.policy.config import PolicyConfig
from stepwell.policy.contracts import DEFAULT_CONTRACTS
from stepwell.server.backends.books import Books
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.settings import ServerSettings
from stepwell.vllm.app import VllmApp
from stepwell.vllm.books import Count, EngineBooks
from stepwell.vllm.child import ENGINE, EngineProcess
from stepwell.vllm.engine_loop import EngineLoop
from stepwell.vllm.front import EngineFront

PRICES = """
source = "made up"
as_of = "2026-11-22"
counting = "openai"
[prices]
input = 1
cached_input = 0.5
output = 2
[service_tiers.flex]
multiplier = 1
[service_tiers.priority]
multiplier = 1
"""
KEYS = (
    KeyEntry(tenant="acme", key="acme-key", service_tiers=("priority", "flex"), default_service_tier="flex"),
    KeyEntry(tenant="other", key="other-key", service_tiers=("default",)),
    KeyEntry(tenant="slow", key="slow-key", tokens_per_minute=3_000),
)
CONTEXT = 4_096


class CountingEngine(httpx2.AsyncBaseTransport):
    """Answers ``/v1/completions`` with as many tokens as are asked for. ``cut_after``: its process dies after
    so many events of a stream; ``stall_after``: nothing comes any more."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[httpx2.Headers] = []
        self.counted = Count()
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.stalled = asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/metrics":
            text = "".join(
                f'vllm:{name}_tokens_total{{engine="0",model_name="m"}} {float(count)}\n'
                for name, count in (
                    ("prompt", self.counted.prompt_tokens),
                    ("generation", self.counted.generated_tokens),
                )
            )
            return httpx2.Response(200, text=text)
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "m", "root": "/srv/models/m"}]})
        body = json.loads(await request.aread())
        self.bodies.append(body)
        self.headers.append(request.headers)
        prompt, n, tokens = str(body["prompt"]), body.get("n", 1), body.get("max_tokens", 16)
        self.counted += Count(len(prompt), 0)
        if body.get("stream"):
            assert body["stream_options"]["continuous_usage_stats"]
            stream = self._events(len(prompt), n, tokens)
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
        self.counted += Count(0, n * tokens)
        usage = _usage(len(prompt), n * tokens, len(prompt) // 2)
        choices = [{"index": i, "text": "a" * tokens, "finish_reason": "length"} for i in range(n)]
        answer = {"choices": choices, "usage": usage, "kv_transfer_params": {"secret": 1}}
        return httpx2.Response(200, json=answer)

    async def _events(self, prompt: int, n: int, tokens: int) -> AsyncIterator[bytes]:
        sent = 0
        for number in range(1, tokens + 1):
            for index in range(n):
                if sent == self.cut_after:
                    raise httpx2.ReadError("gone")
                self.counted += Count(0, 1)
                if sent == self.stall_after:
                    self.stalled.set()
                    await asyncio.Event().wait()
                sent += 1
                reason = "length" if number == tokens else None
                choice = {"index": index, "text": 'data: "usage"\n', "finish_reason": reason}
                yield _event({"choices": [choice], "usage": _usage(prompt, number)})
        yield _event({"choices": [], "usage": _usage(prompt, n * tokens, prompt // 2)})
        yield b"data: [DONE]\n\n"


def _usage(prompt: int, generated: int, cached: int | None = None) -> dict[str, Any]:
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"prompt_tokens": prompt, "completion_tokens": generated, **details}


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


@dataclass
class Fronted:
    """The front end before it."""

    engine: CountingEngine
    serving: VllmApp
    front: EngineFront
    loop: EngineLoop
    books: EngineBooks
    ledger: Ledger
    client: httpx2.AsyncClient
    spend: list[tuple[Any, ...]] = field(default_factory=list)
    """Of the spend log after the end: kind, tenant, tier, reason, input, cached, output, charge."""

    async def complete(self, prompt: str = "hello", key: str = "acme-key", **more: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"} | more.pop("headers", {})
        body = {"model": "m", "prompt": prompt, **more}
        return await self.client.post("/v1/completions", json=body, headers=headers)


@asynccontextmanager
async def fronted(
    folder: Path, budgets: tuple[Budget, ...] = (), engine: CountingEngine | None = None
) -> AsyncIterator[Fronted]:
    """Closes the books at the end and reads the spend log."""
    prices = folder / "prices.toml"
    prices.write_text(PRICES)
    clock, engine = MonotonicClock(), engine or CountingEngine()
    settings = LedgerSettings(path=str(folder / "books.db"), price_book=str(prices))
    config = PolicyConfig(64, 64, 1, 0, 0, 0, 0, context_tokens=CONTEXT)
    ledger = open_ledger(
        settings, config, "m", now_us=clock.now_us(), wall_us=10**15, node="n", budgets=budgets
    )
    upstream = Upstream(30.0, transport=engine)
    upstream.urls[ENGINE] = "http://engine:1"
    books = EngineBooks(ledger.keeper, clock, "m")
    info = EngineInfo("m", "vllm m", CONTEXT, 64, 1, 1, 0, 0, 0)
    loop = EngineLoop(info, clock, lambda: True)
    loop.books = books
    rank = {"priority": 0, "default": 1, "flex": 2}
    front = EngineFront(loop, upstream, "engine-key", rank, CONTEXT)
    node = NodeProcess("vllm", folder, "127.0.0.1", 1, {})
    process = EngineProcess(node, upstream, books.engine_started, "engine-key")
    shown = Books(ledger.store, ledger)
    serving = VllmApp(
        *(
            loop,
            front,
            process,
            NullText(info),
            ServerSettings(),
            KeyRing(KEYS),
            shown,
            DEFAULT_CONTRACTS,
            None,
        )
    )
    books.start()
    transport = httpx2.ASGITransport(serving.app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        one = Fronted(engine, serving, front, loop, books, ledger, client)
        try:
            yield one
        finally:
            await upstream.close()
            await asyncio.to_thread(books.close)
    one.spend = ledger.store.rows(SPEND)
    ledger.close()


SPEND = """
SELECT a.kind, a.tenant, a.service_tier, u.reason, u.input_tokens, u.cached_tokens,
       u.visible_tokens + u.intermediate_tokens, u.charge_microusd
FROM usage u JOIN accounts a ON a.id = u.account ORDER BY u.batch, u.n
"""
