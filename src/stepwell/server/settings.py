"""Every limit of the HTTP side, with defaults for a laptop."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:64]!r} is neither an address nor a network such as 10.0.0.0/8") from None
    return text


Network = Annotated[str, AfterValidator(_network)]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The server's table in the settings file. Counts and bytes are upper bounds."""

    host: str = "127.0.0.1"
    """Where to listen. Anything but loopback needs API keys."""
    port: int = 8000
    """0: any free port."""
    model_aliases: tuple[str, ...] = ()
    """Further names under which clients may ask for the model."""

    max_connections: int = 2_048
    """Open at once; fewer where the process may have fewer descriptors (``ulimit -n``)."""
    max_connections_per_address: int = 256
    """Of one client: an IPv4 address or an IPv6 /64. Loopback and ``trusted_proxies`` bring those of many."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses and networks of reverse proxies in front of this server."""
    head_timeout_s: float = 10.0
    """How long a connection may be open without a whole request head on it."""

    max_body_bytes: int = 8 * 2**20
    """Of one request."""
    max_body_values: int = 500_000
    """Values in one JSON body; a list or an object counts as five."""
    max_bodies_bytes: int = 64 * 2**20
    """Bytes of large bodies in memory until they have been checked, all clients together; one tenant may have
    half of what others leave."""
    max_bodies_per_tenant: int = 256
    """Bodies of one tenant that come in at once."""
    body_timeout_s: float = 60.0
    """How long a client may take to send its request."""
    send_timeout_s: float = 60.0
    """How long a client may let a stream wait before the connection is given up and the work stopped."""
    max_messages: int = 4_096
    """Messages (or input items) in one request."""
    max_tools: int = 128
    """Tools in one request."""
    max_choices: int = 16
    """Largest ``n``."""
    max_prompts: int = 32
    """Prompts in one completions request."""
    max_stop: int = 4
    """Stop strings in one request."""
    max_grammar_bytes: int = 256 * 1024
    """Longest grammar or JSON schema; compiling one takes time from all other requests."""
    default_max_new_tokens: int = 512
    """What is generated at most when the client does not say; never past the context."""

    max_concurrent_requests: int = 512
    """Answers generated at once over all keys, each choice of each prompt counted; more are answered 429.
    Which ones is up to the contracts of the service tiers, see ``gate.py``."""
    max_concurrent_per_tenant: int | None = None
    """The same for each tenant, all its keys together; None: no limit of its own."""
    max_errands: int = 128
    """Requests at once that read or write something and generate nothing; a tenant may have half, and what
    service tiers are guaranteed is kept from lighter ones."""
    retry_after_ms: int = 500
    """What a 429 of the server itself tells the client to wait."""
    keep_alive_s: float = 5.0
    """A silent stream sends a comment this often, so that no proxy cuts it."""
    drain_s: float = 30.0
    """How long requests in flight may go on after SIGTERM."""

    max_stored_responses: int = 1_024
    """Responses kept for ``GET /v1/responses/{id}``, per tenant; the longest unused goes first."""
    max_stored_bytes: int = 64 * 2**20
    """Bytes of stored responses, all tenants together; no tenant may hold more than half."""
    max_background_responses: int = 64
    """Responses that run without a connection, per tenant."""
    max_response_chain: int = 1_024
    """How many turns ``previous_response_id`` may reach back."""

    max_conversations: int = 1_024
    """Conversations kept for ``/v1/conversations``, per tenant; the longest unused goes first."""
    max_conversations_bytes: int = 64 * 2**20
    """Bytes of conversations, all tenants together; no tenant may hold more than half, nor may one
    conversation."""
    max_conversation_items: int = 4_096
    """Items in one conversation."""

    max_watchers: int = 128
    """Streams of ``/v1/watch`` at once, over all keys."""
    max_watchers_per_tenant: int = 64
    """Of one tenant, and of the operators together."""
    watch_interval_s: float = 1.0
    """How often watchers hear of what has changed."""

    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may use the API with a key of theirs, such as ``https://app.example``; ``*``:
    any. Without API keys only this machine's own pages are served all the same."""

    otel: bool = False
    """Send a span of each request and metrics by OpenTelemetry (extra ``otel``) to where the standard's
    ``OTEL_*`` variables say; a variable that names an exporter or an endpoint is enough."""
    public_metrics: bool = False
    """Show ``/metrics`` to any client that can connect, not only to operators."""
