"""Servers for the benches of crews, in a process of their own.

One is Stepwell's own on the null engine, which takes no time here, so that what is left is the runtime's. The
other, ``-m stepwell.bench.crews.crew_server JSON``, has no engine: answers of ``crew_script`` after a delay.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stepwell.bench.crews import crew_script
from stepwell.bench.servers import ServerArm, free_port

DEVICE_KV_TOKENS = 1 << 18


def null_arm(place: Path) -> ServerArm:
    """Our own server, whose engine's time is skipped."""
    port, config = free_port(), place / "null.toml"
    config.write_text(
        f'[engine]\nkind = "null"\ndevice_kv_tokens = {DEVICE_KV_TOKENS}\n'
        '[kv]\nhost_kv = "256MiB"\ndisk_kv = 0\n'
        '[policy]\nmax_waiting = 4096\n[ledger]\npath = "none"\n'
        f"[server]\nport = {port}\nmax_concurrent_requests = 4096\ndrain_s = 1\n",
        encoding="utf-8",
    )
    command = (sys.executable, "-m", "stepwell.bench.server.batches_child", str(config))
    return ServerArm("stepwell serve, null engine", command, port, True, DEVICE_KV_TOKENS)


def scripted_arm(rounds: int, delay_ms: int) -> ServerArm:
    """A server that is a function of the request; it counts what it is asked."""
    port = free_port()
    options = json.dumps({"rounds": rounds, "delay_ms": delay_ms, "port": port})
    command = (sys.executable, "-m", "stepwell.bench.crews.crew_server", options)
    return ServerArm("scripted", command, port, False, DEVICE_KV_TOKENS)


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
    app = scripted_app(given["rounds"], given["delay_ms"])
    uvicorn.run(app, host="127.0.0.1", port=given["port"], log_config=None, access_log=False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
