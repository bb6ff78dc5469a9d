"""Two vLLM nodes behind ``stepwell deploy``: agents return to the node that has their KV, by vLLM's own
events; one node is killed and its disk removed, and its agents go on at the other from the object store."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stepwell.bench.fleet.nodes import OPERATOR, FleetFiles, front
from stepwell.tiers.objects.store import ColdLimits
from tests.vllm.test_served import SMALL, cached

pytest.importorskip("obstore")

AGENTS = [f"agent-{n}" for n in range(6)]
PROMPT = "{} counts the steps of the well, one after the other, in the dry season. "
BLOCK = 32
LONGEST_S = 600.0


def turn(client: httpx2.Client, agent: str) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": PROMPT.format(agent) * 3, "max_tokens": 6, "temperature": 0}
    answer = client.post(
        "/v1/completions",
        json={**body, "ignore_eos": True},
        headers={"x-session-id": f"crew-{agent}", "x-agent-id": agent},
    )
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def places(client: httpx2.Client) -> dict[str, tuple[str, int]]:
    """Per agent: the node that tells most of its KV, and how many tokens that is, on any KV tier."""
    found: dict[str, tuple[str, int]] = {}
    for row in client.get("/v1/agents").json()["data"]:
        agent, tokens = row["id"].rpartition("/")[2], sum(row["kv_tokens"].values())
        if tokens > found.get(agent, ("", 0))[1]:
            found[agent] = (row["node"], tokens)
    return found


def until(right: Callable[[], bool]) -> None:
    """Events, and objects, come a moment after the answer."""
    deadline = time.monotonic() + LONGEST_S
    while not right():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def listed(objects: Path) -> list[Path]:
    """Objects that every node has seen when it looks the next time."""
    seen_s = time.time() - ColdLimits().fresh_s
    return [one for one in objects.glob("kv1/*.kv") if one.stat().st_mtime < seen_s]


def test_agents_go_on_where_their_kv_is_and_elsewhere_when_it_is_lost(
    tiny_model: Path, tmp_path: Path
) -> None:
    objects = tmp_path / "objects"
    flags = " ".join(["--max-model-len", "512", *SMALL])
    place = FleetFiles(tmp_path, str(tiny_model), 2, 0, (), "vllm", flags, str(objects))
    with (
        front(place, "kv-affine", last=True) as fleet,
        httpx2.Client(base_url=place.url, timeout=300.0, trust_env=False) as client,
    ):
        client.headers["authorization"] = f"Bearer {OPERATOR}"
        first = {agent: turn(client, agent) for agent in AGENTS}
        whole = {agent: said["usage"]["prompt_tokens"] // BLOCK * BLOCK for agent, said in first.items()}
        assert min(whole.values()) >= 4 * BLOCK
        until(lambda: all(places(client).get(a, ("", 0))[1] >= whole[a] for a in AGENTS))
        homes = {agent: node for agent, (node, _) in places(client).items()}
        assert len(set(homes.values())) == 2, "both nodes have agents"

        for agent in AGENTS:
            again = turn(client, agent)
            assert again["choices"][0]["text"] == first[agent]["choices"][0]["text"]
            assert cached(again) >= whole[agent] - BLOCK
        assert {agent: node for agent, (node, _) in places(client).items()} == homes

        # What a node has listed of the store counts as all there is for a moment.
        until(lambda: len(listed(objects)) >= sum(whole.values()) // BLOCK)
        nodes = fleet.view()["nodes"]
        lost = homes[AGENTS[0]]
        os.kill(nodes[lost]["pid"], signal.SIGKILL)
        for kept in (tmp_path / "data").rglob(lost):
            shutil.rmtree(kept / "kv", ignore_errors=True)
        elsewhere = [agent for agent in AGENTS if homes[agent] == lost]
        for agent in elsewhere:
            after = turn(client, agent)
            assert after["choices"][0]["text"] == first[agent]["choices"][0]["text"]
            assert cached(after) >= whole[agent] - BLOCK, "from the object store"
