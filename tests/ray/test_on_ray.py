"""The front end on real Ray: ``make test-ray``. Skipped where Ray is not installed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

pytest.importorskip("ray.serve", reason="needs the extra 'ray'")

from stepwell.bench.servers import free_port
from stepwell.gateway.deployment import load_deployment
from stepwell.gateway.on_ray import run_on_ray
from stepwell.server.callers.keys import KeyRing
from stepwell.server.settings import ServerSettings

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = """
dir = "data"
[[engines]]
name = "n"
kind = "null"
replicas = 2
placement = { cpus = 0.25 }
[engines.settings]
kv.host_kv = "16MiB"
kv.disk_kv = "16MiB"
"""
ASK = {"model": "null", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def test_turns_and_streams_go_through_serve_and_an_agent_stays_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FILE, encoding="utf-8")
    done, seen = threading.Event(), dict[str, Any]()

    def ready(url: str, urls: Mapping[str, str]) -> None:
        seen["nodes"] = sorted(urls)
        threading.Thread(target=ask, args=(url,), daemon=True).start()

    def ask(url: str) -> None:
        try:
            with httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
                _use(http, seen)
        finally:
            done.set()

    settings = ServerSettings(port=free_port())
    run_on_ray(
        load_deployment(path),
        KeyRing(),
        {"default": 4},
        settings,
        address=None,
        fronts=1,
        on_ready=ready,
        until=done,
    )
    assert seen["nodes"] == ["n-1", "n-2"]
    assert seen["status"] == [200, 200, 200]
    assert seen["stream"].endswith("data: [DONE]\n\n")
    assert sorted(node["turns"] for node in seen["fleet"]["nodes"].values()) == [0, 3]


def _use(http: httpx2.Client, seen: dict[str, Any]) -> None:
    for _ in range(600):
        health = http.get("/health")
        if health.status_code == 200 and health.json()["nodes"]["ready"] == 2:
            break
        threading.Event().wait(0.1)
    headers = {"x-session-id": "s", "x-agent-id": "1"}
    found = [http.post("/v1/chat/completions", json=ASK, headers=headers) for _ in range(2)]
    streamed = http.post("/v1/chat/completions", json={**ASK, "stream": True}, headers=headers)
    seen["status"] = [one.status_code for one in (*found, streamed)]
    seen["stream"] = streamed.text
    seen["fleet"] = http.get("/admin/fleet").json()


def test_the_serve_configuration_in_the_manifest_is_one_of_rays() -> None:
    from ray.serve.schema import ServeDeploySchema

    text = (ROOT / "examples" / "fleet" / "rayservice.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(yaml.safe_load(text)["spec"]["serveConfigV2"])
    assert ServeDeploySchema.model_validate(config).applications[0].name == "stepwell"
