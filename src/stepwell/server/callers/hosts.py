"""Whether a request comes from this machine: addresses are parsed, never compared by how they begin.

Web pages run on this machine too. A page of another site that posts to loopback is told apart by its
``Origin``, one whose name was made to point to loopback (DNS rebinding) by ``Host``, and what a reverse proxy
on this machine passes on by the addresses that the proxy adds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from starlette.requests import Request

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9.-]{1,253}))(?::[0-9]{1,5})?")
_FORWARDED = (
    "x-forwarded-for", "x-forwarded-host", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip",
    "x-cluster-client-ip", "x-original-forwarded-for", "x-original-host", "x-envoy-external-address",
    "x-azure-clientip", "fastly-client-ip", "fly-client-ip", "forwarded-for",
)  # fmt: skip
"""Whose values are addresses or names."""
_PASSED_ON = (
    "via", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-server", "x-forwarded-scheme",
    "x-forwarded-ssl", "x-forwarded", "x-scheme", "cdn-loop", "cf-ray", "tailscale-user-login",
    "x-arr-ssl", "front-end-https",
)  # fmt: skip
"""What only a proxy adds. It does not name the client: where no address does, it is a stranger."""
_MAX_HEADER_CHARS = 2_048


def is_loopback(host: str) -> bool:
    """``localhost`` or a loopback address. Names below ``localhost``, and other spellings of an address than
    the usual one (``127.1``, ``0x7f000001``, a dot at the end), are strangers."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if "%" in host:  # a zone may hold any text
        return False
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (inner or address).is_loopback


def host_of(authority: str) -> str:
    """``[::1]:8000`` -> ``::1``, ``localhost:8000`` -> ``localhost``; empty for what is no authority."""
    match = _AUTHORITY.fullmatch(authority)
    return "" if match is None else match["v6"] or match["name"]


def is_local(request: Request) -> bool:
    """Whether a program on this machine asks, by its address and by every name that the request gives."""
    client = request.client.host if request.client is not None else ""
    return is_loopback(client) and all(map(is_loopback, _named(request)))


def _named(request: Request) -> Iterator[str]:
    headers = request.headers
    yield from map(host_of, headers.getlist("host"))
    for origin in headers.getlist("origin"):
        scheme, separator, authority = origin.partition("://")
        yield host_of(authority) if separator and scheme in ("http", "https") else ""
    for name in _FORWARDED:
        for line in headers.getlist(name):
            yield from map(_node, line[:_MAX_HEADER_CHARS].split(","))
    for line in headers.getlist("forwarded"):
        yield from _forwarded(line[:_MAX_HEADER_CHARS])
    said_for_whom = any(name in headers for name in (*_FORWARDED, "forwarded"))
    if not said_for_whom and any(name in headers for name in _PASSED_ON):
        yield ""


def _node(text: str) -> str:
    """An address as proxies write it: bare, with a port, or an IPv6 address without brackets."""
    node = text.strip().strip('"')
    return node if is_loopback(node) else host_of(node)


def _forwarded(line: str) -> Iterator[str]:
    """RFC 7239: ``for=192.0.2.60;host=example.org, for="[2001:db8::1]"``. Without an address: a stranger."""
    for element in line.split(","):
        pairs = [part.partition("=") for part in element.split(";")]
        named = [value for key, _, value in pairs if key.strip().lower() in ("for", "host")]
        yield from map(_node, named or [""])
