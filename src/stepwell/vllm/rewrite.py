"""The body that vLLM gets in the place of the client's: what a client forges is gone, what is known is in.

Of a body it removes what vLLM would believe (``priority``, ``cache_salt``, ``kv_hints``,
``kv_transfer_params``) and puts in owner and hint, the rank of the service tier, and a salt per tenant, so
that no two tenants share a cache or see each other's timing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.policy.types import Caller, Hint
from stepwell.server.callers.hints import read_hint
from stepwell.server.callers.identity import Identity, identify
from stepwell.server.callers.keys import ApiKey
from stepwell.vllm.owner import REQUEST, params_of

FORBIDDEN = ("priority", "cache_salt", "kv_transfer_params", "kv_hints", "ec_transfer_params", "request_id")
"""Fields that vLLM believes, and that only a front end may set."""
NESTED = ("vllm_xargs", "extra_args")
"""Objects whose fields vLLM treats like those of the body."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A request with a known owner."""

    body: dict[str, Any]
    """For vLLM."""
    identity: Identity
    caller: Caller
    hint: Hint


def owned(
    body: dict[str, Any], headers: Mapping[str, str], key: ApiKey, rank: Mapping[str, int], request: int = 0
) -> Owned:
    """``body`` is changed. ``rank``: of the service tiers, 0 for the heaviest. ``request``: its number in the
    front end's books. Raises ``ApiError`` (403) for a service tier that the key does not have."""
    identity = identify(headers, body, key)
    asked = body.pop("service_tier", None)  # vLLM reads it and does nothing with it
    tier = key.service_tier(asked if isinstance(asked, str) else None)
    hint = read_hint(headers, body, identity)
    for name in FORBIDDEN:
        body.pop(name, None)
        for nested in NESTED:
            if isinstance(body.get(nested), dict):
                body[nested].pop(name, None)
    caller = identity.caller(tier, identity.name or "", key.id)
    body["kv_transfer_params"] = params_of(caller, hint) | ({REQUEST: request} if request else {})
    body["priority"] = rank.get(tier, len(rank))
    body["cache_salt"] = salt_of(identity.tenant)
    return Owned(body, identity, caller, hint)


def encoded(body: Mapping[str, Any]) -> bytes:
    """As it goes on."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")


def salt_of(tenant: str) -> str:
    """What begins every block's hash of a tenant."""
    return hashlib.blake2b(tenant.encode(), digest_size=16, person=b"salt").hexdigest()
