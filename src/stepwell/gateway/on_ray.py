"""The same front end as a Ray Serve deployment, and each node as an actor where Ray finds room for it.

Ray places, restarts and scales; what a turn's node is, stays the business of ``stepwell.fleet``. A node is a
process of its own below its actor, as everywhere else, so that an engine that crashes takes no actor with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepwell.errors import MissingExtra, StepwellError
from stepwell.gateway.app import create_app
from stepwell.gateway.deployment import Deployment, NodePlan, load_deployment, node_environment, plans
from stepwell.gateway.nodes import KILL_AFTER_S, Nodes
from stepwell.gateway.processes import NodeProcess, Supervisor
from stepwell.server.callers.keys import KeyRing
from stepwell.server.settings import ServerSettings
from stepwell.settings.file import load

NAMESPACE = "stepwell"
APPLICATION = "stepwell"
AUTO_HOST = "auto"
"""``host`` of an engine whose nodes listen at the address of the Ray node that they are on."""
START_S = 120.0
MOST_AT_ONCE = 1_000


class RayNode:
    """An actor that keeps one node running. Made by ``ray.remote``; asynchronous."""

    def __init__(self, name: str, folder: str, host: str, port: int, environment: Mapping[str, str]) -> None:
        if host == AUTO_HOST:
            host = require_ray().util.get_node_ip_address()
        own = {**environment, "STEPWELL_SERVER_HOST": host}
        self._process = NodeProcess(name, Path(folder), host, port, {**os.environ, **own})
        self._keeper: asyncio.Task[None] | None = None
        self._supervisor: Supervisor | None = None

    async def address(self) -> str:
        """Starts the node when it is first asked for."""
        if self._keeper is None:
            self._process.start()
            self._supervisor = Supervisor(self._process, lambda: None, lambda: None)
            self._keeper = asyncio.create_task(self._supervisor.run())
        return self._process.url

    async def pid(self) -> int | None:
        return self._process.pid

    async def stop(self, within_s: float) -> None:
        if self._supervisor is not None and self._keeper is not None:
            self._supervisor.stopping = True
            self._keeper.cancel()
            await self._process.stop(within_s)


def require_ray() -> Any:
    """The module. Raises ``MissingExtra``."""
    try:
        import ray
        from ray import serve  # noqa: F401 - the part that an install without [serve] lacks
    except ImportError as error:
        raise MissingExtra("stepwell deploy --on ray", "ray") from error
    return ray


def start_nodes(ray: Any, deployment: Deployment, *, detached: bool = False) -> dict[str, Any]:
    """An actor for each node that is not attached, by name. ``detached`` ones outlive the program that made
    them, and are found again by the next."""
    actors = {}
    life = {"lifetime": "detached", "get_if_exists": True} if detached else {}
    for plan in plans(deployment):
        if plan.url is not None:
            continue
        place = plan.engine.placement
        options = {"num_cpus": place.cpus, "num_gpus": place.gpus, "resources": place.resources}
        actor = ray.remote(RayNode).options(
            name=plan.name, max_restarts=-1, max_task_retries=-1, **options, **life
        )
        folder, own = str(deployment.dir / plan.name), _own(deployment, plan)
        actors[plan.name] = actor.remote(plan.name, folder, plan.engine.host, plan.port, own)
    return actors


def addresses(ray: Any, actors: Mapping[str, Any]) -> dict[str, str]:
    """Of all nodes, once they have been placed. Raises ``StepwellError``."""
    try:
        found = ray.get([actor.address.remote() for actor in actors.values()], timeout=START_S)
    except ray.exceptions.GetTimeoutError as error:
        raise StepwellError(
            f"Ray found no room for all {len(actors)} nodes within {START_S:.0f} s: see 'ray status'"
        ) from error
    return dict(zip(actors, found, strict=True))


def _own(deployment: Deployment, plan: NodePlan) -> dict[str, str]:
    """What is the node's alone: the rest of its environment is the Ray node's."""
    own = node_environment(deployment, plan, {})
    return {name: text for name, text in own.items() if name.startswith("STEPWELL_")}


def attached(deployment: Deployment, urls: Mapping[str, str]) -> Deployment:
    """The deployment as the front end sees it: every node has an address."""
    by_engine: dict[str, list[str]] = {engine.name: [] for engine in deployment.engines}
    for plan in plans(deployment):
        by_engine[plan.engine.name].append(plan.url or urls[plan.name])
    engines = tuple(replace(engine, urls=tuple(by_engine[engine.name])) for engine in deployment.engines)
    return replace(deployment, engines=engines)


def front_application(
    deployment: Deployment, keys: KeyRing, weights: Mapping[str, int], settings: ServerSettings, fronts: int
) -> Any:
    """The Serve application. Its ASGI application is built on the replica, in the replica's event loop."""
    from ray import serve

    def build() -> Any:
        return create_app(Nodes(deployment, keys, weights), settings)

    front = serve.deployment(
        name="front",
        num_replicas=fronts,
        max_ongoing_requests=MOST_AT_ONCE,
        ray_actor_options={"num_cpus": 0.5},
    )
    return front(serve.ingress(build)()).bind()


def run_on_ray(
    deployment: Deployment,
    keys: KeyRing,
    weights: Mapping[str, int],
    settings: ServerSettings,
    *,
    address: str | None,
    fronts: int,
    on_ready: Callable[[str, Mapping[str, str]], None],
    until: threading.Event | None = None,
) -> None:
    """Serve until SIGTERM, or until ``until`` is set. Without ``address`` Ray is started on this machine."""
    ray = require_ray()
    from ray import serve

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Serve gives up a proxy that takes longer than five seconds to start, which a loaded machine needs.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StepwellError(f"Ray at {address or 'this machine'} cannot be reached: {error}") from error
    done = until or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: done.set())
    actors: dict[str, Any] = {}
    try:
        actors = start_nodes(ray, deployment)
        urls = addresses(ray, actors)
        serve.start(http_options={"host": settings.host, "port": settings.port})
        application = front_application(attached(deployment, urls), keys, weights, settings, fronts)
        serve.run(application, name=APPLICATION, route_prefix="/")
        on_ready(f"http://{settings.host}:{settings.port}", urls)
        done.wait()
    finally:
        serve.shutdown()
        within_s = deployment.front.drain_s + KILL_AFTER_S
        ray.get([actor.stop.remote(within_s) for actor in actors.values()])
        ray.shutdown()


def from_file(args: Mapping[str, str]) -> Any:
    """For a Serve configuration file (KubeRay): ``import_path: stepwell.gateway.on_ray:from_file`` with
    ``args: {file: fleet.toml}``. Nodes are detached actors: they outlive a version of the application."""
    deployment = load_deployment(Path(args["file"]))
    settings = load(deployment.config)
    ray = require_ray()
    urls = addresses(ray, start_nodes(ray, deployment, detached=True))
    weights = {contract.name: contract.weight for contract in settings.contracts()}
    names = list(weights)
    keys = KeyRing.load(settings.keys_file, names) if settings.keys_file else KeyRing(settings.keys, names)
    fronts = int(args.get("fronts", "1"))
    return front_application(attached(deployment, urls), keys, weights, settings.server, fronts)
