"""Who is on this machine: addresses are parsed, and no stranger's name is taken for one."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from stepwell.server.callers.hosts import host_of, is_local, is_loopback

HERE = ["127.0.0.1", "127.8.9.10", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "localhost", "LocalHost"]
STRANGERS = [
    "", "127.evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost",
    "localhost.", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1",
    "0.0.0.0", "::", "::2",
    "::ffff:192.0.2.1", "10.0.0.1", "::1%evil", "127.0.0.1@evil.example", "127.0.0.1/evil",
]  # fmt: skip


@pytest.mark.parametrize("host", HERE)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)
    assert is_local(request({"host": f"[{host}]:8000" if ":" in host else f"{host}:8000"}))


@pytest.mark.parametrize("host", STRANGERS)
def test_strangers(host: str) -> None:
    assert not is_loopback(host)
    assert not is_local(request({"host": host}))
    assert not is_local(request({"host": f"{host}:8000"}))
    assert not is_local(request({"host": f"[{host}]"}))
    assert not is_local(request({"host": "localhost", "origin": f"http://{host}"}))
    assert not is_local(request({"host": "localhost", "x-forwarded-for": f"127.0.0.1, {host}"}))
    assert not is_local(request({"host": "localhost", "forwarded": f"for={host}"}))


@pytest.mark.parametrize(
    "authority",
    [
        "[::1].evil",
        "[::1]evil:80",
        "[::1",
        "::1",
        "[127.0.0.1]x",
        "localhost:80:80",
        "localhost:x",
        "a b",
        "u@localhost",
    ],
)
def test_what_is_no_authority_names_nobody_here(authority: str) -> None:
    assert not is_loopback(host_of(authority))


def test_a_proxy_of_this_machine_that_serves_this_machine() -> None:
    passed_on = {"x-forwarded-for": "127.0.0.1, ::1", "forwarded": 'for="[::1]:4711";host=localhost:8000'}
    assert is_local(request({"host": "localhost", **passed_on}))


@pytest.mark.parametrize(
    "passed_on",
    [
        {"via": "1.1 proxy"},
        {"x-forwarded-proto": "https"},
        {"cf-ray": "8d1"},
        {"tailscale-user-login": "a@example.org"},
        {"true-client-ip": "192.0.2.7"},
        {"fly-client-ip": "2001:db8::1"},
        {"x-original-host": "stepwell.example"},
        {"x-cluster-client-ip": "192.0.2.7", "x-forwarded-for": "127.0.0.1"},
        {"via": "1.1 proxy", "x-forwarded-for": "192.0.2.7"},
    ],
)
def test_what_was_passed_on_for_nobody_or_for_others_is_a_strangers(passed_on: dict[str, str]) -> None:
    assert not is_local(request({"host": "localhost", **passed_on}))


def test_a_proxy_that_says_for_whom_is_believed() -> None:
    here = {"via": "1.1 proxy", "x-forwarded-proto": "https", "x-forwarded-for": "127.0.0.1"}
    assert is_local(request({"host": "localhost", **here}))


def test_a_client_elsewhere_is_a_stranger_whatever_it_says() -> None:
    assert not is_local(request({"host": "localhost"}, client="192.0.2.7"))


@given(st.ip_addresses())
def test_addresses_are_what_the_standard_library_says(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    inner = getattr(address, "ipv4_mapped", None)
    assert is_loopback(str(address)) == (inner or address).is_loopback


@given(st.sampled_from(HERE), st.text(min_size=1, max_size=12))
def test_nothing_appended_to_an_address_leaves_it_one_of_a_name(host: str, more: str) -> None:
    """What is added to a name makes another name, or another address of this machine."""
    authority = host + more
    found = host_of(authority)
    if is_loopback(found):
        assert authority.startswith(found)
        port = authority[len(found) :]
        assert port == "" or port[1:].isdecimal()


def request(headers: dict[str, str], client: str = "127.0.0.1") -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw, "client": (client, 1)})
