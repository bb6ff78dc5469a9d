"""What every route has at hand."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request

from stepwell import __version__
from stepwell.engines.base import EngineInfo, TextModel
from stepwell.ledger.port import RunningBooks
from stepwell.ledger.types import Scope
from stepwell.loop.port import LoopPort
from stepwell.server.backends.agent_lists import AgentLists
from stepwell.server.backends.books import Books
from stepwell.server.backends.bridge import Bridge
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.backends.vectors import ServedEmbeddings
from stepwell.server.callers.hosts import is_local
from stepwell.server.callers.identity import Identity, identify
from stepwell.server.callers.inner import SCOPE_KEY as INNER_KEY
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import ApiKey, KeyRing
from stepwell.server.errors import ApiError, bad_request, draining, model_not_found
from stepwell.server.limits.bodies import Bodies
from stepwell.server.limits.gate import Gate
from stepwell.server.limits.pauses import Pauses
from stepwell.server.limits.preparing import Preparing
from stepwell.server.limits.rates import KeyRates
from stepwell.server.settings import ServerSettings
from stepwell.server.stores.cached_contents import CachedContents
from stepwell.server.stores.conversations import ConversationStore
from stepwell.server.stores.page_keys import PageKeys
from stepwell.server.stores.responses import ResponseStore
from stepwell.server.telemetry.access import access_of
from stepwell.server.telemetry.metrics import Metrics

CLOCK_DRIFT_S = 0.05
"""How far the world's clock and the driver's may part before times are told by the new difference."""


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """One of a server's models, as the routes need it."""

    text: TextModel
    info: EngineInfo
    ledger: RunningBooks | None = None
    """The books of its requests."""
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.text.name, *self.aliases})

    @property
    def adapters(self) -> dict[str, str]:
        """By the names under which requests ask for the model with one."""
        return {f"{name}:{adapter}": adapter for name in self.names for adapter, _ in self.info.adapters}


@dataclass(slots=True)
class Service:
    """One server: its driver, its model, its keys, and what it is doing.

    Where it has several models, ``of_model`` gives the same service with another one as its model.
    """

    driver: LoopPort
    text_model: TextModel
    settings: ServerSettings
    keys: KeyRing
    bridge: Bridge
    gate: Gate
    bodies: Bodies
    metrics: Metrics
    store: ResponseStore
    conversations: ConversationStore
    now_s: Callable[[], float] = time.time
    draining: bool = False
    books: Books | None = None
    """The ledger, where one is kept."""
    library: ServedLibrary | None = None
    """The documents of the tenants, where any are kept."""
    embeddings: ServedEmbeddings | None = None
    """Models of vectors and rankings, where there are any."""
    rates: KeyRates = field(default_factory=KeyRates)
    preparing: Preparing = field(default_factory=Preparing)
    reload_keys: KeyReload | None = None
    """Reads the API keys again, where they come from settings."""
    offered: Sequence[OfferedModel] = ()
    """All its models where it has several, the first being the one that ``text_model`` is of."""
    model: OfferedModel = field(init=False)
    models: frozenset[str] = field(init=False)
    """Every name of every model."""
    adapters: dict[str, str] = field(init=False)
    """By the names under which requests ask for a model with one."""
    agent_lists: AgentLists = field(init=False)
    pauses: Pauses = field(init=False)
    cached: CachedContents = field(init=False, default_factory=CachedContents)
    """What tenants have cached by name, as Gemini has it."""
    page_keys: PageKeys = field(init=False, default_factory=PageKeys)
    started_s: int = field(init=False)
    _epoch_s: float = field(init=False, default=0.0)
    """When the driver's clock was at zero."""

    def __post_init__(self) -> None:
        self.started_s = int(self.now_s())
        self.agent_lists = AgentLists(self.driver)
        self.pauses = Pauses(self.driver, self.agent_lists)
        others = {model.text.name for model in self.offered[1:]}  # whose own names are no aliases
        aliases = tuple(alias for alias in self.settings.model_aliases if alias not in others)
        first = OfferedModel(self.text_model, self.driver.info, self.ledger, aliases)
        self.offered = (first, *self.offered[1:])
        self.model = first
        self.adapters = {}
        for model in self.offered:
            self.adapters |= model.adapters
        self.models = frozenset(self.adapters).union(*(model.names for model in self.offered))

    @property
    def ledger(self) -> RunningBooks | None:
        """The books that are kept of this server; None where none are."""
        return None if self.books is None else self.books.ledger

    @property
    def fingerprint(self) -> str:
        """What answers depend on beside the request: model, engine and version. OpenAI's
        ``system_fingerprint``."""
        seed = f"{__version__} {self.model.info.fingerprint}"
        return "fp_" + hashlib.sha256(seed.encode()).hexdigest()[:10]

    def key(self, request: Request) -> ApiKey:
        """The caller's key. Raises ``ApiError`` (401, or 403 for a stranger at a server without keys)."""
        inner = request.scope.get(INNER_KEY)
        if isinstance(inner, ApiKey):  # a line of a batch: its key was checked when the batch came
            access_of(request.scope).is_from(inner)
            return inner
        if not self.keys.required:
            require_local(request)
        given = request.headers
        # Anthropic's and Google's clients have headers of their own for it.
        own = given.get("x-api-key") or given.get("x-goog-api-key")
        key = self._page_key(request)
        if key is None:
            key = self.keys.find(given.get("authorization") or (f"Bearer {own}" if own else None))
        access_of(request.scope).is_from(key)
        return key

    def _page_key(self, request: Request) -> ApiKey | None:
        """Of a browser that has sent the page's form, and says no key beside."""
        if not self.keys.required or {"authorization", "x-api-key", "x-goog-api-key"} & set(request.headers):
            return None
        digest = self.page_keys.key_digest(request, self.now_s())
        return None if digest is None else self.keys.with_digest(digest)

    def require_operator(self, request: Request) -> None:
        """An operator's key; where there are no keys, a program on this machine. With keys, coming from this
        machine says nothing: so does each client behind a TLS terminator or a tunnel that ends here."""
        if not self.key(request).operator:
            raise ApiError(403, "This needs an operator's API key.", code="operator_key_required")

    def unix_s(self, at_us: int) -> float:
        """A time of the driver's clock as the world's, in seconds. The same time is told the same way each
        time, unless one of the clocks was set."""
        epoch_s = self.now_s() - self.driver.now_us() / 1e6
        if abs(epoch_s - self._epoch_s) > CLOCK_DRIFT_S:
            self._epoch_s = epoch_s
        return round(self._epoch_s + at_us / 1e6, 3)

    def require_open(self) -> None:
        if self.draining:
            raise draining()

    def of_model(self, name: str) -> Service:
        """This service as that of the model of a name, which is one of ``models``."""
        model = next((one for one in self.offered if name in one.names or name in one.adapters), self.model)
        if model is self.model:
            return self
        service = copy.copy(self)
        service.model, service.text_model = model, model.text
        if self.books is not None and model.ledger is not None:
            service.books = replace(self.books, ledger=model.ledger)
        return service

    def adapter(self, name: str, key: ApiKey) -> str:
        """The adapter of a request for the model ``name``, which is this service's: the one that the name
        says, else the key's own. Raises a 403 ``ApiError`` for one that is not for the key."""
        named = self.adapters.get(name, "")
        if not named:
            named = key.own_adapter(dict(self.model.info.adapters), self.model.names)
        key.require_adapter(named, self.model.names)
        return named

    def require_model(self, name: str) -> None:
        """Raises ``ApiError`` for a name that is no chat model's."""
        if name in self.models:
            return
        if self.embeddings is not None and self.embeddings.find(name) is not None:
            raise bad_request(
                f"The model `{name}` makes embeddings or rankings and no text: use POST /v1/embeddings or "
                "POST /v1/rerank, or choose a chat model of GET /v1/models.",
                param="model",
            )
        base, _, adapter = name.rpartition(":")
        if base in self.models:
            adapters = self.of_model(base).model.info.adapters
            there = ", ".join(f"`{one}`" for one, _ in adapters) or "none"
            raise bad_request(f"`{base}` has no adapter `{adapter}`: there is {there}.", param="model")
        raise model_not_found(name)

    def is_paused(self, tenant: str, session: str, agent: str = "") -> bool:
        """Whether a session, or one agent, gets nothing more until its budget is raised."""
        if self.ledger is None:
            return False
        budgets = self.ledger.budgets
        states = (budgets.state(Scope.SESSION, tenant, session), budgets.state(Scope.AGENT, tenant, agent))
        return (tenant, session) in self.pauses or any(s is not None and s.reached for s in states)


def headers_of(request: Request) -> dict[str, str]:
    """Names in lower case; of a header that is there twice the last one."""
    return {name.lower(): value for name, value in request.headers.items()}


def identity_of(request: Request, body: Mapping[str, Any], key: ApiKey) -> Identity:
    """On whose behalf a request is made; the access log is told, too."""
    identity = identify(headers_of(request), body, key)
    access_of(request.scope).is_by(identity)
    return identity


def service_of(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def require_local(request: Request) -> None:
    """Raises a 403 ``ApiError`` for programs on other machines."""
    if is_local(request):
        return
    raise ApiError(
        403,
        "This server has no API keys and serves programs on its own machine only.",
        code="loopback_only",
        type="permission_error",
    )


def who_asks(service: Service, request: Request) -> tuple[ApiKey, str]:
    """The key and the tenant it acts for."""
    key = service.key(request)
    return key, identity_of(request, {}, key).tenant
