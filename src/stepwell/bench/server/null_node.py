"""A node on the null engine, which takes the time of a small model, served over HTTP, with many agents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from stepwell.errors import StepwellError
from stepwell.launch import assemble
from stepwell.ledger.settings import LedgerSettings
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, Settings

TIMEOUT_S = 300.0
WORDS = "the steps go down to the water and come up again "


@contextmanager
def served_null_node(place: Path) -> Iterator[tuple[assemble.Node, str]]:
    """The node and its base URL. It keeps no books."""
    settings = Settings(
        engine=EngineSettings(kind="null", device_kv_tokens=65_536),
        kv=KvSettings(host_kv=256 << 20, disk_kv=0, disk_dir=place / "kv"),
        ledger=LedgerSettings(path="none"),
    )
    node = assemble.build(settings)
    node.driver.start()
    try:
        with BackgroundServer(node.driver, node.text, ServerSettings(port=0)) as server:
            yield node, server.base_url
    finally:
        node.stop(0.0)


async def play(base_url: str, model: str, agents: int, turns: int) -> None:
    """Every agent sends its next turn as soon as the one before has ended."""
    limits = httpx2.Limits(max_connections=agents)
    async with httpx2.AsyncClient(
        base_url=base_url, timeout=TIMEOUT_S, trust_env=False, limits=limits
    ) as client:
        await asyncio.gather(*(_agent(client, model, number, turns) for number in range(agents)))


async def _agent(client: httpx2.AsyncClient, model: str, number: int, turns: int) -> None:
    said: list[dict[str, str]] = []
    for turn in range(turns):
        said.append({"role": "user", "content": f"agent {number}, turn {turn}: {WORDS * 2}"})
        body = {"model": model, "messages": said, "max_tokens": 16, "ignore_eos": True}
        headers = {"x-session-id": "bench", "x-agent-id": f"agent-{number}"}
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        if answer.status_code != 200:
            raise StepwellError(f"a request of the benchmark was not served: {answer.text[:200]}")
        said.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})
