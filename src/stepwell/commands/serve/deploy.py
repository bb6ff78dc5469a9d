"""``stepwell deploy FILE``: a fleet from one file."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import httpx2
from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.private import private_umask
from stepwell.commands.serve.checks import CheckAsJson, CheckResult, checked, report
from stepwell.commands.serve.serve import keys_read_again
from stepwell.console.options import Flag
from stepwell.engines.models import resolve_model
from stepwell.errors import BadInput, StepwellError
from stepwell.gateway.deployment import (
    KEY_VARIABLE,
    Deployment,
    NodePlan,
    load_deployment,
    node_environment,
    plans,
)
from stepwell.launch.serve import say
from stepwell.ledger.settings import NO_LEDGER
from stepwell.ledger.stores.open import POSTGRES_SCHEMES, open_store
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.run import listen, require_keys_beyond_loopback
from stepwell.server.settings import ServerSettings
from stepwell.settings.file import Settings, load
from stepwell.settings.keys import key_ring
from stepwell.telemetry.logs import logging_to
from stepwell.telemetry.redaction import redacted

ATTACHED_S = 3.0
CheckFlag = Annotated[Flag, Parameter(help="Say whether this would start, and end: nothing is started.")]
LeaveFlag = Annotated[Flag, Parameter(help="Nodes go on when this ends; the next 'deploy' takes them over.")]
VerboseFlag = Annotated[Flag, Parameter(help="Log more on standard error: the states of nodes.")]


def deploy(
    file: Path,
    *,
    check: CheckFlag = False,
    json_out: CheckAsJson = False,
    leave_nodes: LeaveFlag = False,
    verbose: VerboseFlag = False,
    on: Literal["here", "ray"] = "here",
    ray_address: str | None = None,
    fronts: Annotated[int, Parameter(validator=Number(gte=1, lte=64))] = 1,
) -> int:
    """Start or attach to the nodes that FILE names, and serve all of them at one address.

    A turn goes to the node where its agent's KV lies, unless its queue costs more than computing again.
    A node that dies takes no session with it: requests that it had not begun to answer go to another node;
    those that it had end with an error after which clients try again. Example of a FILE:

        [front]
        port = 8000
        [[engines]]
        name = "small"
        model = "smollm2"
        replicas = 2

    'stepwell deploy FILE --check' says what is wrong with it. While it runs, with an operator's key:

        curl http://127.0.0.1:8000/admin/fleet                     # nodes, and what they do
        curl -X POST http://127.0.0.1:8000/admin/fleet/restart     # restart them, one after the other

    SIGHUP reads the API keys again. docs/fleet.md has every key of the file, and what survives which failure.

    Parameters
    ----------
    file
        The deployment, in TOML.
    on
        Where nodes are started: as processes of this machine, or as actors of Ray, with the front end as a
        Ray Serve application.
    ray_address
        Address of a Ray that runs, such as auto or ray://HOST:10001; default: one is started on this machine.
    fronts
        Replicas of the front end on Ray.
    """
    deployment = load_deployment(file)
    settings = load(deployment.config)
    if check:
        passed, failed = "'stepwell deploy' starts this", "'stepwell deploy' would not serve all of this"
        return report(list(checks(deployment, settings)), passed, failed, as_json=json_out)
    if json_out:
        raise BadInput("--json goes with --check")
    with private_umask(), logging_to(settings.log, verbose=verbose):
        keys = KeyReload(key_ring(settings), lambda: key_ring(load(deployment.config)))
        require_operator_key(deployment, keys.keys)
        if on == "ray":
            return run_ray(deployment, settings, keys.keys, ray_address, fronts)
        with keys_read_again(keys):
            run(deployment, settings, keys, stop_nodes=not leave_nodes)
    return 0


def run(deployment: Deployment, settings: Settings, keys: KeyReload, *, stop_nodes: bool) -> None:
    """Serve until told to stop."""
    from stepwell.gateway.app import serve
    from stepwell.gateway.nodes import Nodes

    weights = {contract.name: contract.weight for contract in settings.contracts()}
    nodes = Nodes(deployment, keys.keys, weights, read_keys=keys.read)
    gc.collect()
    gc.freeze()

    def ready(url: str) -> None:
        say(
            f"Stepwell's front end is at {url}/v1: {len(nodes.watches)} nodes, rule {deployment.front.router}"
        )
        for plan in plans(deployment):
            where = plan.url or f"starts at {nodes.upstream.urls[plan.name]}"
            model = "-" if plan.engine.kind == "null" else plan.engine.model
            say(f"  {plan.name:<16} {plan.engine.kind:<9} {model:<12} {where}")
        say(f"  ledger {redacted(deployment.ledger_path)}; {url}/admin/fleet shows the nodes. Ctrl-C stops.")

    serve(nodes, front_settings(deployment, settings), stop_nodes=stop_nodes, on_ready=ready)
    say(
        "stopped"
        if stop_nodes
        else "stopped; the nodes go on, and the next 'stepwell deploy' takes them over"
    )


def run_ray(
    deployment: Deployment, settings: Settings, keys: KeyRing, address: str | None, fronts: int
) -> int:
    """Serve on Ray until told to stop."""
    from stepwell.gateway.on_ray import require_ray, run_on_ray

    require_ray()
    require_keys_beyond_loopback(deployment.front.host, keys)
    weights = {contract.name: contract.weight for contract in settings.contracts()}

    def ready(url: str, urls: Mapping[str, str]) -> None:
        say(f"Stepwell's front end is at {url}/v1 on Ray Serve: {len(urls)} nodes started as actors")
        for name, where in urls.items():
            say(f"  {name:<16} {where}")

    run_on_ray(
        deployment,
        keys,
        weights,
        front_settings(deployment, settings),
        address=address,
        fronts=fronts,
        on_ready=ready,
    )
    say("stopped")
    return 0


def front_settings(deployment: Deployment, settings: Settings) -> ServerSettings:
    """The limits of nodes, at the front end's address."""
    front = deployment.front
    return replace(settings.server, host=front.host, port=front.port, drain_s=front.drain_s)


def require_operator_key(deployment: Deployment, keys: KeyRing) -> None:
    """Raises ``BadInput``: with keys, nodes tell an operator alone where agents lie."""
    if not keys.required:
        return
    given = deployment.operator_key
    if given is None:
        raise BadInput(
            f"the nodes have API keys: [front] operator_key, or ${KEY_VARIABLE}, must be an operator's, or "
            "they would not tell where their agents lie"
        )
    try:
        found = keys.find(f"Bearer {given}")
    except ApiError as error:
        raise BadInput(f"[front] operator_key: {error.message}") from error
    if not found.operator:
        raise BadInput("[front] operator_key is no operator's: set operator = true for it in [[keys]]")


# --- --check ---------------------------------------------------------------------------------------


def checks(deployment: Deployment, settings: Settings) -> Iterator[CheckResult]:
    """All of them run, so that one look shows everything that is wrong."""
    keys = key_ring(settings)
    yield checked("keys", lambda: _keys(deployment, keys))
    yield checked("front", lambda: _port(deployment))
    yield checked("ledger", lambda: _ledger(deployment))
    for plan in plans(deployment):
        yield checked(plan.name, lambda plan=plan: _node(deployment, plan))  # type: ignore[misc]


def _keys(deployment: Deployment, keys: KeyRing) -> str:
    require_keys_beyond_loopback(deployment.front.host, keys)
    require_operator_key(deployment, keys)
    return f"{len(keys.all())} keys" if keys.required else "none: loopback only, one tenant"


def _port(deployment: Deployment) -> str:
    front = deployment.front
    with listen(front.host, front.port):
        return f"{front.host} port {front.port or 'of any number'} is free; rule {front.router}"


def _ledger(deployment: Deployment) -> str:
    path = deployment.ledger_path
    if path == NO_LEDGER:
        return "none is kept"
    if path.startswith(POSTGRES_SCHEMES):
        open_store(path, create=False).close()
        return f"{path}, one for all nodes"
    started = sum(plan.url is None for plan in plans(deployment))
    if started > 1:
        return f"{path}: a file, for nodes of this machine alone; each sees what others spend when it starts"
    return path


def _node(deployment: Deployment, plan: NodePlan) -> str:
    if plan.url is not None:
        try:
            answer = httpx2.get(plan.url + "/health", timeout=ATTACHED_S, trust_env=False)
        except httpx2.TransportError as error:
            raise StepwellError(f"{plan.url} does not answer ({type(error).__name__})") from error
        return f"{plan.url} answers {answer.status_code}"
    load(deployment.config, env=node_environment(deployment, plan, {}))
    if plan.engine.kind == "llamacpp":
        return f"starts {resolve_model(plan.engine.model).name}"
    return f"starts the {plan.engine.kind} engine"
