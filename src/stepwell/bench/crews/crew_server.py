"""Servers for the benches of crews, in a process of their own: ``-m stepwell.bench.crews.crew_server JSON``.

``null``: Stepwell's own server on the null engine, which takes no time here, so that what is left is the
runtime's. ``scripted``: answers of ``crew_script`` after ``delay_ms``, without an engine.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stepwell.bench.crews import crew_script
from stepwell.bench.servers import ServerArm, free_port
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.launch import assemble
from stepwell.loop.driver import Driver
from stepwell.policy.scheduler import Scheduler
from stepwell.server.run import serve
from stepwell.server.settings import ServerSettings
from stepwell.settings.file import PolicySettings, Settings
from stepwell.tiers.memory import MemoryTiers

DEVICE_KV_TOKENS = 1 << 18
HOST_BYTES = 256 << 20


def null_arm() -> ServerArm:
    """Our own server, whose engine answers at once."""
    return _arm("stepwell serve, null engine", {"kind": "null"}, is_ours=True)


def scripted_arm(rounds: int, delay_ms: int) -> ServerArm:
    """A server that is a function of the request; it counts what it is asked."""
    given = {"kind": "scripted", "rounds": rounds, "delay_ms": delay_ms}
    return _arm("scripted", given, is_ours=False)


def _arm(name: str, given: dict[str, Any], *, is_ours: bool) -> ServerArm:
    port = free_port()
    options = json.dumps(given | {"port": port})
    command = (sys.executable, "-m", "stepwell.bench.crews.crew_server", options)
    return ServerArm(name, command, port, is_ours, DEVICE_KV_TOKENS)


def serve_null(port: int) -> None:
    """Serve the null engine until SIGTERM."""
    engine = NullEngine(NullConfig(device_blocks=DEVICE_KV_TOKENS // 64))
    tiers = MemoryTiers(HOST_BYTES, 0)
    settings = Settings(policy=PolicySettings(max_waiting=4_096))
    text = NullText(engine.info)
    driver = Driver(engine, text, tiers, Scheduler(assemble.policy_config(settings, engine.info, tiers)))
    driver.start()
    serve(driver, text, ServerSettings(port=port, max_concurrent_requests=4_096, drain_s=1.0))


def scripted_app(rounds: int, delay_ms: int) -> Starlette:
    """``/asked`` tells how many turns were asked for."""
    asked = 0

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": crew_script.MODEL}]})

    async def count(request: Request) -> Response:
        return JSONResponse(asked)

    async def chat(request: Request) -> Response:
        nonlocal asked
        asked += 1
        messages = (await request.json())["messages"]
        role, agent = request.headers["x-agent-name"], request.headers["x-agent-id"]
        await asyncio.sleep(delay_ms / 1_000)
        said = crew_script.answer(role, agent, messages, rounds, crew_script.STEPS)
        return JSONResponse(crew_script.reply(said, messages))

    async def hint(request: Request) -> Response:
        return JSONResponse({})

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/asked", count),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/agents/{agent:path}/hint", hint, methods=["POST"]),
        ]
    )


def main(given: dict[str, Any]) -> None:
    """Serve until the process is told to end."""
    if given["kind"] == "null":
        serve_null(given["port"])
        return
    app = scripted_app(given["rounds"], given["delay_ms"])
    uvicorn.run(app, host="127.0.0.1", port=given["port"], log_config=None, access_log=False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
