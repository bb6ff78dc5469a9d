"""Every setting, its default, and where it comes from: flags over environment over one TOML file.

::

    [engine]                            STEPWELL_ENGINE_MODEL=gemma3
    model = "smollm2"                   STEPWELL_KV_HOST_KV=2GiB
    [kv]                                STEPWELL_SERVER_PORT=8080
    host_kv = "1GiB"
    [service_tiers.flex]
    max_wait_s = 120
    [[keys]]
    key = "sk-..."
    tenant = "acme"
    service_tiers = ["flex"]

An unknown key is an error, because a misspelt limit that is silently not applied is found
out when the disk is full. Errors are ``BadInput``: one sentence that names the key and its source.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from stepwell.engines.models import cache_dir
from stepwell.errors import BadInput
from stepwell.ledger.settings import BudgetEntry, LedgerSettings
from stepwell.ledger.start import default_path
from stepwell.library.documents import Limits
from stepwell.policy.contracts import Contract
from stepwell.server.callers.keys import KeyEntry, missing_service_tier
from stepwell.server.settings import ServerSettings
from stepwell.settings.engine import EngineSettings, ModelEntry, require_models
from stepwell.settings.service_tiers import ServiceTierEntry, SharesEntry, contracts
from stepwell.settings.values import Count, OptionalSizeBytes, SizeBytes, size_bytes
from stepwell.telemetry.logs import LogSettings

ENV_PREFIX = "STEPWELL_"
ENV_CONFIG = "STEPWELL_CONFIG"
NOT_SETTINGS = (
    *(ENV_CONFIG, "STEPWELL_TRACES", "STEPWELL_WAREHOUSE"),
    *("STEPWELL_VLLM_AHEAD", "STEPWELL_VLLM_REPORT"),  # said by us, in the processes of vLLM
)
"""Read elsewhere: where the settings are, where `stepwell bench policies` finds its traces, and the URL of a
warehouse, which holds a password and is not kept."""


@dataclass(frozen=True, slots=True)
class KvSettings:
    """The two KV tiers below the device. ``0`` switches one off."""

    host_kv: SizeBytes = 2**30
    """Host memory for KV, shared by all agents."""
    disk_kv: SizeBytes = 4 * 2**30
    """Disk room for KV."""
    disk_dir: Path = field(default_factory=lambda: cache_dir() / "kv")
    """Where KV on disk lies. One server at a time uses a directory."""
    disk_read_deadline_ms: Count = 2_000
    """A read that takes longer is given up, and the tokens are computed instead."""


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """KV in an object store, below the disk, for all nodes that name the same one."""

    url: str = ""
    """``s3://bucket/folder`` (also ``gs://`` and ``az://``), or the path of a folder that all nodes mount.
    Empty: none. Credentials are the environment's: ``AWS_ACCESS_KEY_ID`` and so on."""
    kv: SizeBytes = 100 * 2**30
    """Most bytes there, of all nodes together; give all of them the same."""
    tenant_kv: OptionalSizeBytes = None
    """Most bytes of each tenant. None: whatever fits."""
    deadline_ms: Count = 5_000
    """What takes longer is given up, and the tokens are computed instead."""
    buffer: SizeBytes = 256 * 2**20
    """Memory for blocks that wait to be written there; what comes beyond it is dropped."""
    namespace: str = ""
    """Only nodes of the same namespace share KV: another for each set of engines that compute differently."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What runs, and what lies where."""

    name: str = "stepwell"
    """The eviction rule: what leaves a KV tier first when room is needed."""
    step_tokens: Count = 256
    """Most tokens in one engine step; more fills prompts faster and makes streams stutter more."""
    max_running: Count = 32
    """Requests that have a place on the device at once."""
    max_waiting: Count = 1024
    """Requests beyond this are refused with 429."""
    reserve_tokens: Count = 64
    """Room set aside at admission for what a request will generate."""
    checkpoint_growth: Annotated[int, Field(ge=0, le=1 << 20)] = 8
    """Recurrent and hybrid models: between the ends of turns and the places where agents part, a running
    state is kept no nearer to the one before than this part of its depth (8: an eighth). 0: every block."""
    max_agents: Count = 10_000
    """Agents remembered; beyond this the longest unheard of is forgotten (its blocks are not)."""
    draft_tokens: Annotated[int, Field(ge=0, le=32)] = 0
    """Speculative decoding: most tokens of a turn that one step checks because they followed the last time
    its text ran like this; how many really are depends on what each agent's guesses were worth. 16 suits
    turns that copy. 0: off."""
    always_load: bool = False
    """Store what leaves the device and load what is stored, even where computing again would be quicker."""
    disk_write_per_day: OptionalSizeBytes = None
    """Most that is written to disk in a day, spread evenly (an SSD wears out by it). None: no limit."""


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """The documents that tenants keep here."""

    dir: Path = field(default_factory=lambda: default_path().parent / "library")
    """Where they lie."""
    quota: SizeBytes = 2**30
    """What each tenant may keep, by default; 0 switches the library off."""
    quotas: dict[str, SizeBytes] = field(default_factory=dict)
    """The same by service tier: a tenant has that of its key's default service tier."""
    max_file: Annotated[int, BeforeValidator(size_bytes), Field(ge=1, le=2**30)] = 64 * 2**20
    """Of one document."""
    max_chars: Count = 4_000_000
    """Of a document's text; beyond it the document is refused."""
    max_pages: Count = 2_000
    """Pages of a PDF that are read."""
    upload_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a client may take to send one."""
    embeddings: str = ""
    """Passages are found by meaning too: ``minilm`` (in this machine), or the URL of an OpenAI-compatible
    server, such as ``http://127.0.0.1:8080/v1``. Empty: by words alone."""
    embeddings_model: str = ""
    """Which model of that server."""
    embeddings_key: str = field(default="", repr=False)
    """The API key for it."""

    def limits(self) -> Limits:
        return Limits(self.max_file, self.max_chars, self.max_pages)


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Batches that tenants leave here."""

    dir: Path = field(default_factory=lambda: default_path().parent / "batches")
    """Where batches, their files and their answers are kept."""
    quota: SizeBytes = 2**30
    """What files of requests and answers of a tenant may take; 0 switches batches off."""
    max_file: Annotated[int, BeforeValidator(size_bytes), Field(ge=1, le=2**30)] = 200 * 2**20
    """The largest file of requests."""
    max_lines: Count = 50_000
    """Requests in one batch."""
    max_batches: Count = 64
    """Of a tenant, that have not ended."""
    at_once: Annotated[int, Field(ge=1, le=256)] = 8
    """Lines at once while no other request is served; one while any is."""
    by_prefix: bool = True
    """Lines that begin alike run one after the other, so that what they share is computed once."""


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """``/v1/embeddings`` and ``/v1/rerank``: models beside the chat model, each in a process of its own."""

    model: str = "minilm"
    """``minilm`` (where its package is installed), the path of a GGUF file, or empty for none."""
    rerank_model: str = ""
    """The path of a GGUF file that was trained to rank; empty: documents are compared by their embeddings."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Of each of these models; they run at low priority."""
    max_tokens: Annotated[int, Field(ge=16, le=131_072)] = 2_048
    """Of one input, at most; longer ones need more memory."""
    max_inputs: Annotated[int, Field(ge=1, le=65_536)] = 2_048
    """In one request."""
    idle_s: Annotated[float, Field(gt=0)] = 600.0
    """A model without a request for so long gives its memory back; the next request loads it again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. Sections are the tables of the TOML file."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    kv: KvSettings = field(default_factory=KvSettings)
    objects: ObjectSettings = ObjectSettings()
    policy: PolicySettings = PolicySettings()
    server: ServerSettings = field(default_factory=ServerSettings)
    service_tiers: dict[str, ServiceTierEntry] = field(default_factory=dict)
    """Contracts by name, see ``settings/service_tiers.py``.
    Without any: ``priority``, ``default`` and ``flex``."""
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    """Where the books are kept, and by which prices; see ``ledger/settings.py``."""
    library: LibrarySettings = field(default_factory=LibrarySettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    embeddings: EmbeddingSettings = EmbeddingSettings()
    log: LogSettings = field(default_factory=LogSettings)
    models: tuple[ModelEntry, ...] = ()
    """Further models beside that of ``[engine]``, see ``settings/engine.py``. Where nothing names the model
    of ``[engine]``, the first of these takes its place."""
    budgets: tuple[BudgetEntry, ...] = ()
    """What tenants, keys, sessions and agents may spend in all."""
    keys: tuple[KeyEntry, ...] = ()
    """API keys, see ``server/callers/keys.py``. Without any: one local tenant, on loopback only."""
    keys_file: Path | None = None
    """A TOML file with ``[[keys]]`` alone, so that secrets need not lie beside the rest."""
    record: Path | None = None
    """Write every event here, for ``stepwell replay``."""

    def contracts(self) -> tuple[Contract, ...]:
        """What each service tier is owed."""
        return contracts(self.service_tiers)


KeyPath = tuple[str | int, ...]
"""A key as pydantic names it: ``('keys', 0, 'tenant')``."""
_SECRETS: tuple[KeyPath, ...] = (("library", "embeddings_key"), ("ledger", "path"))
"""Beside ``[[keys]]``: the key of another server, and a URL that may hold a password."""


class Layers:
    """Values from several sources, later ones winning, and where each came from."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[KeyPath, str] = {}

    def put(self, path: KeyPath, value: Any, source: str) -> None:
        *parents, last = path
        table = self.values
        for part in parents:
            table = table.setdefault(str(part), {})
        table[str(last)] = value
        self.sources[path] = source

    def source(self, path: KeyPath) -> str:
        """What set this key, or the nearest one above it."""
        for length in range(len(path), 0, -1):
            if (source := self.sources.get(path[:length])) is not None:
                return source
        return "the settings"


def load(
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings. ``flags`` maps ``"kv.host_kv"`` to a value; None means not given.

    ``config`` falls back to ``$STEPWELL_CONFIG``. Raises ``BadInput``.
    """
    env = os.environ if env is None else env
    if config is None and env.get(ENV_CONFIG):
        config = Path(env[ENV_CONFIG])
    layers = Layers()
    for path, value, source in (*_from_file(config), *_from_env(env), *_from_flags(flags or {})):
        layers.put(path, value, source)
    settings = _validate(layers)
    if settings.keys and settings.keys_file:
        raise BadInput("there are [[keys]] in the settings and a keys_file as well: keep one of them")
    settings = _with_first_model(settings, layers)
    _require_contracts(settings, layers)
    _require_quotas(settings, layers)
    _require_budgets(settings, layers)
    return settings


def _with_first_model(settings: Settings, layers: Layers) -> Settings:
    try:
        require_models(settings.models, settings.engine)
    except BadInput as error:
        raise BadInput(f"{layers.source(('models',))}: {error}") from error
    if not settings.models or {("engine", "model"), ("engine", "name")} & set(layers.sources):
        return settings
    first, *others = settings.models
    return replace(settings, engine=first.engine(settings.engine), models=tuple(others))


def _require_contracts(settings: Settings, layers: Layers) -> None:
    """Service tiers that can all be kept, and no key for one that does not exist."""
    try:
        names = [contract.name for contract in settings.contracts()]
    except ValueError as error:
        raise BadInput(f"{layers.source(('service_tiers',))}: service_tiers: {error}") from error
    if missing := missing_service_tier(settings.keys, names):
        raise BadInput(f"{layers.source(('keys',))}: {missing}")


def _require_quotas(settings: Settings, layers: Layers) -> None:
    names = {contract.name for contract in settings.contracts()}
    if unknown := sorted(set(settings.library.quotas) - names):
        source = layers.source(("library", "quotas"))
        raise BadInput(
            f"{source}: library.quotas names the service tier {unknown[0]!r}, which does not exist: there is "
            f"{', '.join(sorted(names))}"
        )


def _require_budgets(settings: Settings, layers: Layers) -> None:
    for number, entry in enumerate(settings.budgets, 1):
        try:
            entry.budget()
        except ValueError as error:
            raise BadInput(f"{layers.source(('budgets',))}: budgets[{number}]: {error}") from error


def _from_file(config: Path | None) -> Iterator[tuple[KeyPath, Any, str]]:
    if config is None:
        return
    for name, value in _read_toml(config).items():
        if name in sections() and not isinstance(value, dict):
            raise BadInput(f"{config}: {name} is a table: write [{name}] and its keys below")
        if name not in sections():
            _require_known((name,), str(config))
            yield (name,), value, str(config)
            continue
        for key, inner in value.items():
            _require_known((name, key), str(config))
            yield (name, key), inner, str(config)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"settings file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"settings file {path} is not UTF-8 text: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"settings file {path} is not valid TOML: {error}") from error


def _from_env(env: Mapping[str, str]) -> Iterator[tuple[KeyPath, Any, str]]:
    """``STEPWELL_KV_HOST_KV`` is ``host_kv`` in ``[kv]``. Text is read as the key's type wants it."""
    known = {env_name(path): path for path in known_keys()}
    for name in sorted(name for name in env if name.startswith(ENV_PREFIX) and name not in NOT_SETTINGS):
        if name not in known:
            raise BadInput(f"environment variable {name} is not a setting{_nearest(name, known)}")
        yield known[name], _literal(env[name], known[name]), f"environment variable {name}"


def env_name(path: KeyPath) -> str:
    """``('kv', 'host_kv')`` -> ``STEPWELL_KV_HOST_KV``."""
    return ENV_PREFIX + "_".join(str(part) for part in path).upper()


def _literal(text: str, path: KeyPath) -> Any:
    """Numbers and booleans as TOML writes them; whatever is not valid for the key fails later."""
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    wants_text = known_keys()[tuple(map(str, path))] in (str, Path)
    return text if wants_text and not isinstance(value, str) else value


def _from_flags(flags: Mapping[str, object]) -> Iterator[tuple[KeyPath, Any, str]]:
    for dotted, value in flags.items():
        if value is None:
            continue
        path = tuple(dotted.split("."))
        _require_known(path, "flags")
        yield path, value, "--" + path[-1].replace("_", "-")


@cache
def sections() -> dict[str, type]:
    """The tables: name -> dataclass."""
    hints = get_type_hints(Settings)
    return {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__")
    }


@cache
def known_keys() -> dict[tuple[str, ...], Any]:
    """Every key as a path, with its type."""
    top = get_type_hints(Settings)
    keys: dict[tuple[str, ...], Any] = {
        (f.name,): top[f.name] for f in fields(Settings) if f.name not in sections()
    }
    for section, cls in sections().items():
        hints = get_type_hints(cls)
        keys |= {(section, f.name): hints[f.name] for f in fields(cls)}
    return keys


def _require_known(path: tuple[str, ...], source: str) -> None:
    if path in known_keys():
        return
    # A lone name is compared with lone names: 'kev' is 'kv', not 'kv.host_kv'.
    same_depth = [
        known for known in (*known_keys(), *((name,) for name in sections())) if len(known) == len(path)
    ]
    near = _nearest(".".join(path), (".".join(known) for known in same_depth))
    homes = [f"[{known[0]}]" for known in known_keys() if len(known) == 2 and known[1] == path[-1]]
    if homes:  # the right key in the wrong table, or in none
        near = f": it belongs under {' or '.join(homes)}"
    raise BadInput(f"{source}: unknown key {'.'.join(path)!r}{near}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """A hint for the end of a sentence; empty when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


@cache
def _adapter() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)


def _validate(layers: Layers) -> Settings:
    """Strict types: ``threads = true`` and ``port = "80"`` are mistakes, not numbers.

    Through JSON, because pydantic's strict mode then still takes text for a path and a list for a
    tuple.
    """
    text = json.dumps(layers.values, default=str)
    try:
        return _adapter().validate_json(text, strict=True)
    except ValidationError as error:
        raise BadInput(_sentence(error.errors(), layers)) from error


def _sentence(errors: list[ErrorDetails], layers: Layers) -> str:
    """The first thing wrong. A misspelt key comes before the key that it leaves missing."""
    error = min(errors, key=lambda error: error["type"] != _UNKNOWN)
    path = tuple(error["loc"])
    name = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    where = f"{layers.source(path)}: {name}"
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == _UNKNOWN:
        return f"{where} is an unknown key{_nearest(str(path[-1]), (f.name for f in fields(_table(path))))}"
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("an object", "a table")
    if error["type"] == "value_error" or path[0] == "keys" or path in _SECRETS:  # never to be quoted
        return f"{where}: {reason}"
    return f"{where}: {json.dumps(error['input'])} is wrong, it {reason}"


_TABLES: dict[str, type[Any]] = {"keys": KeyEntry, "budgets": BudgetEntry, "models": ModelEntry}


def _table(path: KeyPath) -> type[Any]:
    """What kind of table a key stands in: ``('service_tiers', 'flex', 'cap', 'disk')``."""
    if path[0] in _TABLES:
        return _TABLES[str(path[0])]
    return ServiceTierEntry if len(path) == 3 else SharesEntry


_UNKNOWN = "unexpected_keyword_argument"
