"""API keys: whose request it is, and which service tiers it may ask for.

::

    [[keys]]
    key = "sk-acme-..."                      # or key_sha256 = "<hex>", so that the file holds no secret
    tenant = "acme"
    service_tiers = ["default", "flex"]      # what the customer has paid for
    default_service_tier = "default"         # what "auto" means for this key; default: the first one
    operator = false                         # may see /admin and /metrics
    max_concurrent_requests = 8              # default: no limit of its own
    projects = ["search"]                    # OpenAI-Project values that get a tenant of their own
    soft_usd = 8                             # from here on answers say so; default: never
    hard_usd = 10                            # what may be spent with this key in all; default: no limit
    name = "acme's website"                  # what people call it
    expires = 2027-01-31                     # its last day (UTC), or a time: 2027-01-31T18:00:00+01:00
    requests_per_minute = 60
    tokens_per_minute = 100000

Keys are compared as SHA-256 digests in constant time: how long a wrong key takes says nothing about
the right one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import tomllib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from stepwell.errors import BadInput
from stepwell.ledger.budgets.book import BudgetBook
from stepwell.ledger.settings import FROM_SETTINGS, Usd, microusd
from stepwell.ledger.types import Budget, Scope
from stepwell.loop.requests import LOCAL_TENANT
from stepwell.server.errors import ApiError, bad_request

SERVICE_TIERS = ("priority", "default", "flex")
KNOWN_SERVICE_TIERS = frozenset({*SERVICE_TIERS, "auto", "fast", "scale", "ultrafast"})
SAME_TIER = {"fast": "priority"}
"""OpenAI answers ``fast`` as ``priority``."""
MAX_KEY_CHARS = 1_024
ID_DIGITS = 12


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key stands for; the key itself is not kept."""

    tenant: str
    service_tiers: tuple[str, ...] = SERVICE_TIERS
    default_service_tier: str = "default"
    operator: bool = False
    max_concurrent_requests: int | None = None
    projects: tuple[str, ...] = ()
    id: str = ""
    """What the books call it: ``key_`` and how its SHA-256 begins. Empty where there are no keys."""
    name: str = ""
    expires_s: float | None = None
    """Seconds since 1970; from then on it is refused."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    adapters: tuple[str, ...] | None = None
    """None: any."""
    default_adapter: str = ""

    def may_use(self, adapter: str, models: Collection[str]) -> bool:
        """Whether an adapter of the model that has these names is for this key. It may be named alone, which
        means it at any model, or as ``MODEL:ADAPTER``."""
        known = self.adapters
        return known is None or adapter in known or any(f"{model}:{adapter}" in known for model in models)

    def own_adapter(self, adapters: Collection[str], models: Collection[str]) -> str:
        """The key's own adapter, where it is one of these ``adapters`` of the model that has these names."""
        model, _, adapter = self.default_adapter.rpartition(":")
        return adapter if adapter in adapters and (not model or model in models) else ""

    def may_use_own(self) -> bool:
        """Whether its own adapter is one that it may use at all."""
        model, _, adapter = self.default_adapter.rpartition(":")
        return not adapter or self.may_use(adapter, [model])

    def require_adapter(self, name: str, models: Collection[str]) -> None:
        """Raises a 403 ``ApiError`` for an adapter, of the model with these names, that is not for this
        key."""
        if self.adapters is None or not name or self.may_use(name, models):
            return
        there = ", ".join(f"'{one}'" for one in self.adapters) or "none"
        raise ApiError(
            403,
            f"This API key may not use the adapter '{name}'; it may use {there}.",
            code="adapter_not_allowed",
            param="model",
        )

    def service_tier(self, asked: str | None) -> str:
        """The service tier to really use. 403 rather than a silent downgrade when it is not paid for:
        a customer that believes it runs on ``priority`` should find out before its users do."""
        if asked is None or asked == "auto":
            return self.default_service_tier
        tier = SAME_TIER.get(asked, asked)
        if tier in self.service_tiers:
            return tier
        if tier not in KNOWN_SERVICE_TIERS:
            raise bad_request(
                f"Unknown service tier; this key may ask for {', '.join(self.service_tiers)}.",
                param="service_tier",
            )
        raise ApiError(
            403,
            f"This API key may not use the service tier '{asked}'; it may use "
            f"{', '.join(self.service_tiers)}.",
            code="service_tier_not_allowed",
            param="service_tier",
        )


Text = Annotated[str, Field(min_length=1, max_length=255)]


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One ``[[keys]]`` table as it stands in a settings file."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    tenant: Text
    """The customer that the key belongs to. Nothing is shared between two."""
    key: Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARS)] | None = field(
        default=None, repr=False
    )
    """The key itself, as clients send it."""
    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """Instead of ``key``: its SHA-256 in hex, so that the file holds no secret."""
    service_tiers: tuple[Text, ...] = ("default",)
    """What the key may ask for."""
    default_service_tier: Text | None = None
    """What it gets when it asks for none, or for ``auto``; by default the first of ``service_tiers``."""
    operator: bool = False
    """It may see ``/admin`` and ``/metrics``, and set budgets."""
    max_concurrent_requests: Annotated[int, Field(ge=1)] | None = None
    """Requests that it may have under way at once; by default no limit of its own."""
    projects: tuple[Text, ...] = ()
    """Values of ``OpenAI-Project`` that get a tenant of their own."""
    soft_usd: Usd | None = None
    """From here on answers say that the budget runs out."""
    hard_usd: Usd | None = None
    """What may be spent with the key in all."""
    name: Annotated[str, Field(max_length=255)] = ""
    """What people call it, in statements and in ``/admin/keys``."""
    expires: Text | None = None
    """Its last day (``2027-01-31``, UTC), or a time (``2027-01-31T18:00:00+01:00``)."""
    requests_per_minute: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Requests a minute; by default no limit."""
    tokens_per_minute: Annotated[int, Field(ge=1, le=2**40)] | None = None
    """Prompt and generated tokens a minute; by default no limit."""
    adapters: tuple[Text, ...] | None = None
    """LoRA adapters that the key may use, ``ADAPTER`` at every model that has it or ``MODEL:ADAPTER``; by
    default any, and none with an empty list."""
    default_adapter: Text | None = None
    """The adapter under which a request runs that names a model alone, where that model has it; with
    ``MODEL:ADAPTER`` at that model alone."""

    def digest(self) -> bytes:
        if self.key_sha256 is not None:
            return bytes.fromhex(self.key_sha256)
        return _digest(self.key or "")

    def api_key(self) -> ApiKey:
        return ApiKey(
            self.tenant,
            self.service_tiers,
            self.default_service_tier or self.service_tiers[0],
            self.operator,
            self.max_concurrent_requests,
            self.projects,
            "key_" + self.digest().hex()[:ID_DIGITS],
            self.name,
            self.expires_s(),
            self.requests_per_minute,
            self.tokens_per_minute,
            self.adapters,
            self.default_adapter or "",
        )

    def expires_s(self) -> float | None:
        """Raises ``BadInput``."""
        if self.expires is None:
            return None
        text = self.expires.strip()
        try:
            if len(text) == len("2027-01-31"):
                day = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
                return (day + timedelta(days=1)).timestamp()
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError) as error:
            raise BadInput(
                f"a key of {self.tenant!r} expires at {text[:40]!r}, which is no date: write 2027-01-31 or "
                "2027-01-31T18:00:00+01:00"
            ) from error

    def budget(self, at_us: int = 0) -> Budget | None:
        """What may be spent with it in all; None: nothing is said. Raises ``BadInput``: one sentence."""
        if self.soft_usd is None and self.hard_usd is None:
            return None
        if self.projects:
            raise BadInput(
                f"a key of {self.tenant!r} has a budget and projects: spending is counted for each project "
                "apart, so give the tenants of the projects budgets of their own"
            )
        soft, hard = microusd(self.soft_usd), microusd(self.hard_usd)
        budget = Budget(Scope.KEY, self.tenant, self.api_key().id, soft, hard, at_us, FROM_SETTINGS)
        BudgetBook.check_budget(budget)
        return budget


def missing_service_tier(entries: Iterable[KeyEntry], names: Sequence[str]) -> str | None:
    """One sentence about the first service tier that a key names and that is not defined, or None."""
    for number, entry in enumerate(entries, 1):
        for tier in (*entry.service_tiers, entry.default_service_tier):
            if tier is not None and tier not in names:
                return (
                    f"keys[{number}] ({entry.tenant}) names the service tier {tier!r}, which does not exist: "
                    f"there is {', '.join(names)}; [service_tiers.NAME] defines one"
                )
    return None


def missing_adapter(keys: Iterable[ApiKey], names: Collection[str]) -> str | None:
    """One sentence about the first adapter that a key names and no model has, or None."""
    for number, key in enumerate(keys, 1):
        for adapter in (*(key.adapters or ()), *([key.default_adapter] if key.default_adapter else ())):
            if adapter not in names:
                there = ", ".join(sorted(names)) or "none"
                return f"keys[{number}] ({key.tenant}) names the adapter {adapter!r}: there is {there}"
    return None


class KeyRing:
    """All keys of a server; without any it is the ring of one local tenant, for loopback only."""

    def __init__(
        self,
        entries: Iterable[KeyEntry] = (),
        service_tiers: Sequence[str] = SERVICE_TIERS,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``service_tiers``: what there is in this deployment; the local tenant may use all of them.

        Raises ``BadInput`` when two entries contradict each other or one is incomplete.
        """
        self._now_s = now_s
        self.revision = 0
        """Another one whenever a key may have stopped counting other than by its last day."""
        self._keys: list[tuple[bytes, ApiKey]] = []
        self._budgets: list[Budget] = []
        for number, entry in enumerate(entries, 1):
            self._add(number, entry)
        usual = "default" if "default" in service_tiers else service_tiers[0]
        self._local = ApiKey(LOCAL_TENANT, tuple(service_tiers), usual, operator=True)

    @classmethod
    def load(cls, path: Path, service_tiers: Sequence[str] = SERVICE_TIERS) -> KeyRing:
        """Read a TOML file with ``[[keys]]``. Raises ``BadInput``, which never quotes a key."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"keys file {path} cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadInput(f"keys file {path} is not valid TOML") from error
        if unknown := sorted(set(content) - {"keys"}):
            raise BadInput(f"{path}: unknown key {unknown[0]!r}: a keys file holds [[keys]] alone")
        try:
            # Through JSON, where strict pydantic takes TOML's arrays for tuples.
            text = json.dumps(content.get("keys", ()), default=str)
            entries = TypeAdapter(tuple[KeyEntry, ...]).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"{path}: keys.{where}: {first['msg']}") from error
        if not entries:
            raise BadInput(f"{path} has no [[keys]]; remove the setting to serve loopback without keys")
        if missing := missing_service_tier(entries, service_tiers):
            raise BadInput(f"{path}: {missing}")
        return cls(entries, service_tiers)

    @property
    def required(self) -> bool:
        """Whether a request must carry a key."""
        return bool(self._keys)

    @property
    def service_tiers(self) -> Sequence[str]:
        """Every service tier that some key may use: the values of the metrics label."""
        tiers = {tier for _, key in self._keys for tier in (*key.service_tiers, key.default_service_tier)}
        return sorted(tiers or self._local.service_tiers)

    def all(self) -> list[ApiKey]:
        """All keys, in the order of the settings."""
        return [key for _, key in self._keys]

    def of_tenant(self, tenant: str) -> list[ApiKey]:
        """The keys of a tenant; a project of a key is one too."""
        keys = [key for _, key in self._keys] or [self._local]
        return [key for key in keys if tenant == key.tenant or tenant in key.projects]

    def by_id(self, key_id: str, tenant: str) -> ApiKey | None:
        """The key with this id, as long as it acts for the tenant."""
        return next((key for key in self.of_tenant(tenant) if key.id == key_id), None)

    def budgets(self, at_us: int = 0) -> list[Budget]:
        """Those that the keys name."""
        return [replace(budget, at_us=at_us) for budget in self._budgets]

    def replace(self, other: KeyRing) -> None:
        """From now on the keys of ``other``: what is not there any more is refused, in open streams too.

        A ring with keys never becomes one without, which would let every program on this machine in. Raises
        ``BadInput``, and nothing has changed.
        """
        if self.required != other.required:
            raise BadInput("keys cannot be switched on or off while the server runs: restart it")
        self._keys, self._budgets = other._keys, other._budgets
        self.revision += 1

    def find(self, authorization: str | None) -> ApiKey:
        """The key behind an ``Authorization`` header. Raises a 401 ``ApiError``."""
        if not self._keys:
            return self._local
        scheme, _, presented = (authorization or "").partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise _unauthorized("You didn't provide an API key: send it as 'Authorization: Bearer KEY'.")
        return self.with_digest(digest_of(presented))

    def with_digest(self, digest: bytes) -> ApiKey:
        """The key of which this is the SHA-256. Raises a 401 ``ApiError``."""
        found = self._match(digest)
        if found is None:
            raise _unauthorized("Incorrect API key provided.")
        if found.expires_s is not None and self._now_s() >= found.expires_s:
            when = datetime.fromtimestamp(found.expires_s, UTC)
            raise _unauthorized(f"This API key has expired ({when:%Y-%m-%d %H:%M} UTC).")
        return found

    def _match(self, digest: bytes) -> ApiKey | None:
        found = None
        for known, key in self._keys:  # no early exit: every key costs the same
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def _add(self, number: int, entry: KeyEntry) -> None:
        if (entry.key is None) == (entry.key_sha256 is None):
            raise BadInput(f"keys[{number}] ({entry.tenant}): give either key or key_sha256")
        key = entry.api_key() if entry.service_tiers else None
        if key is None or key.default_service_tier not in key.service_tiers:
            raise BadInput(f"keys[{number}] ({entry.tenant}): default_service_tier is not in service_tiers")
        if not key.may_use_own():
            raise BadInput(f"keys[{number}] ({entry.tenant}): default_adapter is not in adapters")
        if any(known == entry.digest() for known, _ in self._keys):
            raise BadInput(f"keys[{number}] ({entry.tenant}): this key is there twice")
        self._keys.append((entry.digest(), key))
        if (budget := entry.budget()) is not None:
            self._budgets.append(budget)


def digest_of(presented: str) -> bytes:
    """Of a key as it was sent."""
    return _digest(presented[: MAX_KEY_CHARS + 1])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
