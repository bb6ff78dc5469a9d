"""The file of a deployment.

::

    config = "stepwell.toml"             # settings of every node: keys, service tiers, prices
    dir = "/var/lib/stepwell/fleet"      # where nodes that are started here keep KV, documents and batches

    [front]
    port = 8000
    operator_key = "sk-ops-..."          # with it nodes tell where agents lie; or $STEPWELL_FLEET_KEY

    [ledger]
    path = "postgresql://books@db/stepwell"   # one for all nodes; a file will do on one machine

    [[engines]]                          # started here
    name = "small"
    kind = "llamacpp"                    # llamacpp, vllm or null
    model = "smollm2"
    replicas = 2
    first_port = 8101
    [engines.settings]                   # any scalar setting of a node
    kv.host_kv = "2GiB"

    [[engines]]                          # running elsewhere, with the same keys and the same ledger
    name = "rack"
    urls = ["http://10.0.0.7:8000", "http://10.0.0.8:8000"]

Errors are ``BadInput``: one sentence that names the file and the key.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS
from stepwell.ledger.settings import NO_LEDGER
from stepwell.ledger.start import default_path
from stepwell.ledger.stores.open import POSTGRES_SCHEMES
from stepwell.server.callers.hosts import is_loopback

KEY_VARIABLE = "STEPWELL_FLEET_KEY"
FOLLOW_BUDGETS_S = 2.0
"""How often a node asks the shared books what the others have let customers spend."""
_STRICT = ConfigDict(extra="forbid", strict=True)
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]


@dataclass(frozen=True, slots=True)
class FrontTable:
    """The ``[front]`` table."""

    __pydantic_config__ = _STRICT

    host: str = "127.0.0.1"
    """Where to listen. Anything but loopback needs API keys."""
    port: Port = 8000
    """0: any free one."""
    router: str = "kv-affine"
    """The rule: ``kv-affine``, ``least-loaded`` or ``round-robin``."""
    operator_key: str | None = field(default=None, repr=False)
    """An operator's key of the nodes. Without it the front end knows only what went through itself."""
    health_every_s: Seconds = 1.0
    """How often nodes are asked whether they are well."""
    health_timeout_s: Seconds = 2.0
    """How long such a question may take."""
    failures: Annotated[int, Field(ge=1, le=100)] = 3
    """After so many unanswered ones in a row a node counts as lost; a closed port counts at once."""
    silence_s: Seconds = 60.0
    """A stream that says nothing for so long, not even a comment, is given up."""
    tries: Annotated[int, Field(ge=1, le=16)] = 3
    """Nodes that are tried for one request."""
    patience_s: Seconds = 10.0
    """How long a request waits while no node takes it."""
    drain_s: Seconds = 30.0
    """How long requests in flight may go on after SIGTERM, and before a node is restarted."""
    max_agents: Annotated[int, Field(ge=1, le=10**8)] = 1_000_000
    """Agents whose places are remembered."""


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """The ``[ledger]`` table: one for all nodes."""

    __pydantic_config__ = _STRICT

    path: str | None = None
    """A file, ``postgresql://...`` or ``none``; by default a file in ``dir``."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What one replica takes, where something else than this command starts it (Ray)."""

    __pydantic_config__ = _STRICT

    cpus: Annotated[float, Field(gt=0, le=4_096)] = 1.0
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    """Further resources by name, as a Ray node offers them (``{"rack-7": 0.1}``)."""


@dataclass(frozen=True, slots=True)
class EngineTable:
    """One ``[[engines]]`` table: nodes that serve one model."""

    __pydantic_config__ = _STRICT

    name: Name
    kind: Literal["llamacpp", "vllm", "null"] = "llamacpp"
    model: str = "smollm2"
    """As ``stepwell serve --model`` takes it."""
    replicas: Annotated[int, Field(ge=1, le=512)] = 1
    urls: tuple[str, ...] = ()
    """Nodes that run already, instead of ``replicas``."""
    host: str = "127.0.0.1"
    """Where replicas listen: only the front end needs to reach them."""
    first_port: Port = 0
    """The first replica's port, the others' follow. 0: any free ones."""
    weight: Annotated[float, Field(gt=0, le=1_000)] = 1.0
    """Of each node, for its part of the agents without a history."""
    placement: Placement = Placement()
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By section, such as ``kv.host_kv``: what differs from ``config``. Numbers, texts and booleans."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """All of the file."""

    __pydantic_config__ = _STRICT

    engines: tuple[EngineTable, ...]
    front: FrontTable = field(default_factory=FrontTable)
    ledger: LedgerTable = field(default_factory=LedgerTable)
    config: Path | None = None
    dir: Path = field(default_factory=lambda: default_path().parent / "fleet")

    @property
    def ledger_path(self) -> str:
        return self.ledger.path if self.ledger.path is not None else str(self.dir / "ledger.db")

    @property
    def operator_key(self) -> str | None:
        return self.front.operator_key or os.environ.get(KEY_VARIABLE) or None


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node: started here or attached."""

    name: str
    engine: EngineTable
    url: str | None
    """None: it is started here."""
    port: int = 0


def load_deployment(path: Path) -> Deployment:
    """Read the file. Relative paths in it are meant from where it lies."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"deployment file {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"deployment file {path} is not valid TOML: {error}") from error
    for key in ("config", "dir"):
        if isinstance(content.get(key), str):
            content[key] = str(path.absolute().parent / Path(content[key]).expanduser())
    try:
        # Through JSON, where strict pydantic takes TOML's arrays for tuples.
        text = json.dumps(content, default=str)
        found = TypeAdapter(Deployment).validate_json(text, strict=True)
    except ValidationError as error:
        raise BadInput(f"{path}: {_sentence(error)}") from error
    for problem in _problems(found):
        raise BadInput(f"{path}: {problem}")
    return found


def _sentence(error: ValidationError) -> str:
    first = min(
        error.errors(include_input=False), key=lambda one: one["type"] != "unexpected_keyword_argument"
    )
    where = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    what = {"unexpected_keyword_argument": "is no key of a deployment", "missing": "is missing"}
    return f"{where.lstrip('.')}: {what.get(first['type'], first['msg'])}"


def _problems(found: Deployment) -> Iterator[str]:
    if not found.engines:
        yield "engines: there is none; [[engines]] names one"
    names = [engine.name for engine in found.engines]
    for name in names:
        if names.count(name) > 1:
            yield f"engines: the name {name!r} is there twice"
    if found.front.router not in ROUTERS:
        yield f"front.router: {found.front.router!r} is no rule: there is {', '.join(ROUTERS)}"
    for engine in found.engines:
        for url in engine.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
                yield f"engines ({engine.name}): {url!r} is no node's address: write http://HOST:PORT"
        for section, values in engine.settings.items():
            for key, value in values.items():
                if not isinstance(value, str | int | float | bool):
                    yield f"engines ({engine.name}): settings.{section}.{key} is no number, text or boolean"
    yield from _ledger_problems(found)


def _ledger_problems(found: Deployment) -> Iterator[str]:
    path = found.ledger_path
    if path == NO_LEDGER or path.startswith(POSTGRES_SCHEMES):
        return
    for engine in found.engines:
        for url in engine.urls:
            if not is_loopback(urlsplit(url).hostname or ""):
                yield (
                    f"ledger.path: {url} runs on another machine, and a SQLite file cannot be shared between "
                    "machines: name postgresql://... as every node's ledger, or 'none'"
                )


def plans(deployment: Deployment) -> list[NodePlan]:
    """All nodes, in the order of the file."""
    made = []
    for engine in deployment.engines:
        if engine.urls:
            for number, url in enumerate(engine.urls, 1):
                made.append(NodePlan(_node_name(engine, number, len(engine.urls)), engine, url.rstrip("/")))
            continue
        for number in range(1, engine.replicas + 1):
            port = engine.first_port + number - 1 if engine.first_port else 0
            made.append(NodePlan(_node_name(engine, number, engine.replicas), engine, None, port))
    return made


def _node_name(engine: EngineTable, number: int, of: int) -> str:
    return engine.name if of == 1 else f"{engine.name}-{number}"


def node_environment(deployment: Deployment, plan: NodePlan, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node that is started here: ``config``, and over it what is the node's own."""
    folder = deployment.dir / plan.name
    own: dict[str, dict[str, Any]] = {
        "engine": {"kind": plan.engine.kind}
        | ({} if plan.engine.kind == "null" else {"model": plan.engine.model}),
        "kv": {"disk_dir": folder / "kv"},
        "library": {"dir": folder / "library"},
        "batches": {"dir": folder / "batches"},
        "ledger": {
            "path": deployment.ledger_path,
            "node": plan.name,
            "follow_budgets_s": FOLLOW_BUDGETS_S,
        },
    }
    for section, values in plan.engine.settings.items():
        own.setdefault(section, {}).update(values)
    own["server"] = {**own.get("server", {}), "host": plan.engine.host, "port": plan.port}
    kept = {name: value for name, value in inherited.items() if not name.startswith("STEPWELL_")}
    if deployment.config is not None:
        kept["STEPWELL_CONFIG"] = str(deployment.config)
    for section, values in own.items():
        for key, value in values.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            kept[f"STEPWELL_{section}_{key}".upper()] = text
    return kept
