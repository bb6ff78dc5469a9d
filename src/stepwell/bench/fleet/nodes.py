"""A deployment for the bench: nodes that stay, and front ends that come and go before them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from stepwell.bench.servers import StartedServer, free_port, started

READY_S, VLLM_READY_S = 240.0, 900.0
OPERATOR = "sk-bench-operator"


@dataclass(slots=True)
class FleetFiles:
    """Where the deployment's files lie, and what its nodes are."""

    folder: Path
    model: str
    nodes: int
    device_kv_tokens: int
    tenants: tuple[str, ...]
    engine: str = "llamacpp"
    """``llamacpp``, ``null`` or ``vllm``."""
    vllm_args: str = ""
    objects: str = ""
    """The object store that the nodes share; none without."""
    port: int = 0

    def __post_init__(self) -> None:
        self.port = self.port or free_port()
        lines = [f'[[keys]]\nkey = "sk-{name}"\ntenant = "{name}"\n' for name in self.tenants]
        lines.append(f'[[keys]]\nkey = "{OPERATOR}"\ntenant = "ops"\noperator = true\n')
        (self.folder / "stepwell.toml").write_text("\n".join(lines), encoding="utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def file(self, router: str) -> Path:
        """A deployment file with this rule; everything else is the same in all of them."""
        path = self.folder / f"fleet-{router}.toml"
        path.write_text(
            f'config = "stepwell.toml"\ndir = "data"\n'
            f'[front]\nport = {self.port}\nrouter = "{router}"\noperator_key = "{OPERATOR}"\n'
            f"health_every_s = 0.5\npatience_s = 60\ndrain_s = 20\n"
            f'[[engines]]\nname = "node"\nkind = "{self.engine}"\nmodel = "{self.model}"\n'
            f"replicas = {self.nodes}\n"
            f"[engines.settings]\n{self._engine_settings()}\n"
            f'kv.host_kv = "64MiB"\nkv.disk_kv = "256MiB"\n',
            encoding="utf-8",
        )
        return path

    def _engine_settings(self) -> str:
        if self.engine == "vllm":
            shared = f"\nobjects.url = {json.dumps(self.objects)}" if self.objects else ""
            return f"engine.vllm_args = {json.dumps(self.vllm_args)}{shared}"
        return f"engine.device_kv_tokens = {self.device_kv_tokens}\nengine.threads = 1"

    @property
    def ledger(self) -> Path:
        return self.folder / "data" / "ledger.db"


@dataclass(slots=True)
class FrontProcess:
    """One ``stepwell deploy``."""

    place: FleetFiles
    server: StartedServer

    def view(self) -> dict[str, Any]:
        """``GET /admin/fleet``."""
        headers = {"authorization": f"Bearer {OPERATOR}"}
        answer = httpx2.get(f"{self.place.url}/admin/fleet", headers=headers, timeout=30, trust_env=False)
        found: dict[str, Any] = answer.json()
        return found

    def wait_ready(self, nodes: int) -> None:
        """Until so many nodes take turns. ``StepwellError`` when that does not happen."""

        def are_ready() -> bool:
            try:
                states = [node["state"] for node in self.view()["nodes"].values()]
            except (httpx2.TransportError, ValueError, KeyError):
                return False
            return states.count("ready") >= nodes

        self.server.wait_ready(VLLM_READY_S if self.place.engine == "vllm" else READY_S, are_ready)

    def kill_busiest(self) -> str:
        """SIGKILL for the node with most turns on it. Its name."""
        nodes = self.view()["nodes"]
        name: str = max(sorted(nodes), key=lambda one: nodes[one]["in_flight"])
        os.kill(nodes[name]["pid"], signal.SIGKILL)
        return name


@contextmanager
def front(place: FleetFiles, router: str, *, last: bool) -> Iterator[FrontProcess]:
    """A front end with this rule. ``last``: its nodes end with it."""
    command = [sys.executable, "-m", "stepwell", "deploy", str(place.file(router))]
    command += [] if last else ["--leave-nodes"]
    with started("the front end", place.url, command) as server:
        one = FrontProcess(place, server)
        one.wait_ready(place.nodes)
        yield one


def stop_nodes(place: FleetFiles) -> None:
    """Whatever is left of the deployment, by the notes that its nodes leave."""
    for note in (place.folder / "data").glob("*/node.json"):
        pid = int(json.loads(note.read_text(encoding="utf-8"))["pid"])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
