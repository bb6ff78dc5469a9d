"""A request that wants something generated, as far as it does not matter by which route it came."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from stepwell.engines.base import SamplingParams
from stepwell.server.attachments import FIELDS, attach_files
from stepwell.server.body import parse, read_object
from stepwell.server.hints import read_hint, wants_prewarm
from stepwell.server.identity import Identity
from stepwell.server.keys import ApiKey
from stepwell.server.roles import role_of
from stepwell.server.sampling import stop_strings
from stepwell.server.schema import Sampling
from stepwell.server.service import Service, headers_of, service_of
from stepwell.server.turns import Ask

Wanted = TypeVar("Wanted", bound=Sampling)


@dataclass(frozen=True, slots=True)
class Call(Generic[Wanted]):
    """Who asks, what for, and what else the request says."""

    service: Service
    request: Request
    key: ApiKey
    body: dict[str, Any]
    """As it came; ``wanted`` has the text of attached files in it."""
    wanted: Wanted
    identity: Identity

    def ask(
        self, sampling: SamplingParams, max_new_tokens: int | None, identity: Identity | None = None
    ) -> Ask:
        """What its generations have in common; ``identity`` where the route knows more of it."""
        service, identity = self.service, identity or self.identity
        return Ask(
            sampling,
            stop_strings(self.wanted, service.settings),
            max_new_tokens,
            service.settings.default_max_new_tokens,
            service.text_model.context_tokens,
            identity,
            self.key.service_tier(self.wanted.service_tier),
            read_hint(headers_of(self.request), self.body, identity),
            role_of(identity, self.body),
            wants_prewarm(self.body),
            self.key.id,
        )


Translate = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Another dialect's body as one of ours. Raises ``ApiError``."""


async def understand(
    request: Request, schema: type[Wanted], translate: Translate | None = None
) -> Call[Wanted]:
    """Read and check a request. Raises ``ApiError``, or ``ClientGone`` when nobody waits any more.

    Identity and hints are read from the body as it came; ``translate`` gives what the schema reads.
    """
    service = service_of(request)
    service.require_open()
    key = service.key(request)
    body = await read_object(request, service.settings)
    identity = service.identity(request, body, key)
    field = next((name for name in FIELDS if name in schema.model_fields), None)
    asked = body if translate is None else translate(body)
    wanted = parse(schema, await attach_files(service, identity.tenant, asked, field))
    service.require_model(wanted.model)
    return Call(service, request, key, body, wanted, identity)
