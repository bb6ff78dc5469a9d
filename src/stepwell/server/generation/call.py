"""A request that wants something generated, as far as it does not matter by which route it came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from stepwell.engines.base import SamplingParams
from stepwell.server.callers.hints import HintClaim, claims_of, hint_of, wants_prewarm
from stepwell.server.callers.identity import Identity, identify
from stepwell.server.callers.keys import ApiKey
from stepwell.server.callers.roles import role_of
from stepwell.server.generation.attachments import FIELDS, attach_files
from stepwell.server.generation.sampling import stop_strings
from stepwell.server.generation.turns import Ask
from stepwell.server.service import Service, headers_of, service_of
from stepwell.server.telemetry.access import access_of
from stepwell.server.wire.body import apart, parse, read_object
from stepwell.server.wire.schema import Sampling

Wanted = TypeVar("Wanted", bound=Sampling)


@dataclass(frozen=True, slots=True)
class BodyExtras:
    """What a body says beside what is asked for."""

    claims: list[HintClaim]
    role: str
    prewarm: bool


@dataclass(frozen=True, slots=True)
class Call(Generic[Wanted]):
    """The caller, what it asks for, and what else the request says."""

    service: Service
    request: Request
    key: ApiKey
    wanted: Wanted
    """With the text of attached files in it. The body as it came is gone: it can be many times as large."""
    identity: Identity
    said: BodyExtras

    def ask(
        self, sampling: SamplingParams, max_new_tokens: int | None, identity: Identity | None = None
    ) -> Ask:
        """What its generations have in common; ``identity`` where the route knows more of it."""
        service, identity = self.service, identity or self.identity
        return Ask(
            replace(sampling, adapter=service.adapter(self.wanted.model, self.key)),
            stop_strings(self.wanted, service.settings),
            max_new_tokens,
            service.settings.default_max_new_tokens,
            service.text_model.context_tokens,
            identity.caller(self.key.service_tier(self.wanted.service_tier), self.said.role, self.key.id),
            hint_of(self.said.claims, identity),
            self.said.prewarm,
            self.wanted.thinking_tokens,
            service.model.text.name,
        )


Translate = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Another dialect's body as one of ours. Raises ``ApiError``."""


async def understand(
    request: Request, schema: type[Wanted], translate: Translate | None = None
) -> Call[Wanted]:
    """Read and check a request. Raises ``ApiError``, or ``ClientGone`` when the client has left.

    Identity and hints are read from the body as it came; ``translate`` gives what the schema reads.
    """
    service = service_of(request)
    service.require_open()
    key = service.key(request)
    service.gate.require_room(key)
    body = await read_object(request, service.settings, service.bodies, key.tenant)

    def look() -> tuple[Identity, BodyExtras, dict[str, Any]]:
        headers = headers_of(request)
        identity = identify(headers, body, key)
        access_of(request.scope).is_by(identity)
        said = BodyExtras(claims_of(headers, body), role_of(identity, body), wants_prewarm(body))
        return identity, said, body if translate is None else translate(body)

    identity, said, asked = await apart(request, service.bodies, look)
    field = next((name for name in FIELDS if name in schema.model_fields), None)
    named = asked.get("model")
    of_model = service.of_model(named) if isinstance(named, str) else service
    whole = await attach_files(of_model, identity.tenant, asked, field)
    wanted = await apart(request, service.bodies, parse, schema, whole)
    access_of(request.scope).model = wanted.model
    service.require_model(wanted.model)
    return Call(service.of_model(wanted.model), request, key, wanted, identity, said)
