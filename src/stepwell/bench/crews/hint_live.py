"""The live half of ``bench hints``: the same crews on a real model, one server process per arm.

The model is too small to lead a crew, so a reader's calls are forced by ``tool_choice`` and whatever decides
the shape of the work (plans, verdicts, what is called with which arguments) is replaced in its answers by
what the script says: every arm does the same work. Prompts, prefill, decoding, waits and hints are real.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from stepwell.bench.crews.hint_work import ENTRY, READER, VERIFIER, Crews, run_crews
from stepwell.bench.crews.hints_report import HintsOutcome, HintsPlace, outcome_of
from stepwell.bench.servers import our_server, running

MOST_TOKENS = 24
"""Of any answer."""


def run_live(
    arm_name: str, work: Crews, model: str, place: HintsPlace, threads: int, *, policy: str, hints: bool
) -> HintsOutcome:
    """One arm, in a server of its own. Host and disk are given by their bytes."""
    with tempfile.TemporaryDirectory(prefix="stepwell-hints-") as directory:
        arm = our_server(
            arm_name, model, device_kv_tokens=place.device_tokens, host_kv=str(place.host_bytes),
            disk_kv=str(place.disk_bytes), disk_dir=Path(directory), threads=threads,
            more={"policy": policy, "ledger": "none"},
        )  # fmt: skip
        with running(arm):
            began = time.perf_counter()
            connect = partial(Forced, work)
            done = asyncio.run(run_crews(work, arm.base_url, connect, hints=hints, most=MOST_TOKENS))
            total_s = time.perf_counter() - began
            snapshot = httpx2.get(f"{arm.base_url}/admin/snapshot", trust_env=False).json()
    return outcome_of(arm_name, work.seed, done, total_s, snapshot["counters"])


class Forced(httpx2.AsyncBaseTransport):
    """Sends turns on with the call that the script wants, and puts the script's words where they decide."""

    def __init__(self, work: Crews) -> None:
        self._work = work
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.endswith("/chat/completions"):
            return await self._inner.handle_async_request(request)
        body = json.loads(await request.aread())
        agent = f"{request.headers['x-session-id']}/{request.headers['x-agent-id']}"
        role = request.headers["x-agent-name"]
        turn = sum(1 for message in body["messages"] if message["role"] == "assistant")
        sent = self._request(request, self._wanted(body, role, agent, turn))
        response = await self._inner.handle_async_request(sent)
        await response.aread()
        if response.status_code != 200:
            return response
        answer = response.json()
        self._replace(answer["choices"][0]["message"], role, agent, turn)
        return httpx2.Response(200, json=answer, headers=_kept(response))

    @staticmethod
    def _request(request: httpx2.Request, body: dict[str, Any]) -> httpx2.Request:
        headers = {key: value for key, value in request.headers.items() if key != "content-length"}
        return httpx2.Request(
            request.method, request.url, json=body, headers=headers, extensions=request.extensions
        )

    def _calls(self, role: str, agent: str, turn: int) -> bool:
        return role == READER and turn + 1 < self._work.reader_turns(agent)

    def _wanted(self, body: dict[str, Any], role: str, agent: str, turn: int) -> dict[str, Any]:
        if self._calls(role, agent, turn):
            name = self._work.call(agent, turn)
            return body | {"tool_choice": {"type": "function", "function": {"name": name}}, "max_tokens": 64}
        return body

    def _replace(self, message: dict[str, Any], role: str, agent: str, turn: int) -> None:
        work = self._work
        if self._calls(role, agent, turn):
            arguments = json.dumps(work.query(agent, turn))
            function = {"name": work.call(agent, turn), "arguments": arguments}
            message["tool_calls"] = [{"id": f"call_{turn}", "type": "function", "function": function}]
            return
        message.pop("tool_calls", None)
        if role == ENTRY:
            message["content"] = work.plan(agent, turn)
        elif role == VERIFIER:
            message["content"] = work.verdict(turn)
        else:
            message["content"] = message.get("content") or work.words(agent, turn, 12)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _kept(response: httpx2.Response) -> dict[str, str]:
    return {
        key: value
        for key, value in response.headers.items()
        if key not in ("content-length", "content-encoding", "content-type", "transfer-encoding")
    }
