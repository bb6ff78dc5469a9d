"""What the real vLLM tells of its KV is where agents lie, and what a turn then finds: over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.state import Fleet
from stepwell.gateway.feed import Feed
from tests.vllm.test_served import SMALL, cached, serving

BLOCK = 32
OWN = "Agent {} counts the steps of the well, one after the other, in the dry season. "
KEYS = """
[[keys]]
key = "sk-acme"
tenant = "acme"
[[keys]]
key = "sk-ops"
tenant = "ops"
operator = true
"""
ACME, OPS = {"authorization": "Bearer sk-acme"}, {"authorization": "Bearer sk-ops"}
LONGEST_S = 600.0


def turn(client: httpx2.Client, agent: str, after: str = "") -> dict[str, Any]:
    """``after``: what the agent waits for then (``X-Agent-Next``)."""
    body = {"model": "tiny", "prompt": OWN.format(agent) * 4, "max_tokens": 2, "temperature": 0}
    headers = {**ACME, "x-session-id": "crew", "x-agent-id": agent}
    headers |= {"x-agent-next": after} if after else {}
    answer = client.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def held(client: httpx2.Client, agent: str) -> dict[str, int]:
    answer = client.get(f"/v1/agents/crew/{agent}", headers=ACME)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, int] = answer.json()["kv_tokens"]
    return tokens


def until(client: httpx2.Client, agent: str, right: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """Events come a moment after the answer."""
    deadline = time.monotonic() + LONGEST_S
    while not right(now := held(client, agent)):
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return now


def test_events_say_where_an_agent_lies_and_turns_find_it_there(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "stepwell.toml").write_text(KEYS)
    start = ["serve", "--engine", "vllm", "--model", str(tiny_model), "--port", "0", "--ledger", "none"]
    room = ["--host-kv", "16MiB", "--disk-kv", "64MiB", "--disk-dir", str(tmp_path / "kv")]
    flags = ["--config", str(tmp_path / "stepwell.toml"), "--context-tokens", "512"]
    flags += ["--vllm-args", " ".join(SMALL)]
    with serving([*start, *room, *flags], tmp_path / "front.log") as client:
        prompt = turn(client, "first")["usage"]["prompt_tokens"]
        whole = prompt // BLOCK * BLOCK
        assert until(client, "first", lambda kv: kv["device"] >= whole)["host"] == 0
        for number in range(8):
            turn(client, f"other-{number}")
        moved = until(client, "first", lambda kv: kv["device"] == 0)
        assert moved["host"] >= whole, moved

        fleet = Fleet(["node"])
        told = watched(client)
        Feed(fleet, "node").take("full", told)
        place = fleet.places.find(("acme", "crew/first"))
        assert place is not None and place.held == {"node": NOTHING._replace(host=moved["host"])}

        again = turn(client, "first")
        assert cached(again) == (prompt - 1) // BLOCK * BLOCK
        assert until(client, "first", lambda kv: kv["device"] >= whole)["host"] == 0


def watched(client: httpx2.Client) -> dict[str, Any]:
    """The first frame that an operator gets."""
    with client.stream("GET", "/v1/watch", headers=OPS) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                frame: dict[str, Any] = json.loads(line[6:])
                return frame
    raise AssertionError("no frame")
