"""Connections without a request on them: they go when others need their descriptors, and after a while."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import BadInput
from stepwell.server.limits.connections import Connections, GuardedProtocol, client_of, connection_limit
from stepwell.server.run import BackgroundServer
from stepwell.server.settings import ServerSettings
from stepwell.settings.file import load
from tests.server.fakes import HOLD, PATIENCE_S, FakeDriver, says, serving, until
from tests.server.test_disconnect import connect
from tests.server.wire import TEXT, get

FEW = ServerSettings(port=0, max_connections=8)
SOON = ServerSettings(port=0, head_timeout_s=0.05)
HEADS = {
    "nothing": b"",
    "half a line": b"GET /hea",
    "half a head": b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-a",
    "a body that was answered": b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{",
    "half of a second head": b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /hea",
}


def opened(server: BackgroundServer, data: bytes) -> socket.socket:
    host, port = server.base_url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), PATIENCE_S)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Waits for the end of what the server sends."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("head", HEADS)
def test_more_silent_connections_than_there_may_be_shut_nobody_out(head: str) -> None:
    with serving(FakeDriver(says("x")), settings=FEW) as server:
        silent = [opened(server, HEADS[head]) for _ in range(40)]
        assert get(server, "/health").status_code == 200
        assert is_closed(silent[0])
        for connection in silent:
            connection.close()


@pytest.mark.parametrize("head", HEADS)
def test_a_connection_that_asks_nothing_is_closed(head: str) -> None:
    with serving(FakeDriver(says("x")), settings=SOON) as server, opened(server, HEADS[head]) as connection:
        assert is_closed(connection)


def test_a_request_that_is_answered_is_never_turned_away() -> None:
    driver = FakeDriver(says("begun", HOLD, "end"))
    with serving(driver, settings=FEW) as server:
        stream = connect(server, "/v1/completions", TEXT | {"stream": True})
        driver.wait_until_running()
        silent = [opened(server, b"") for _ in range(40)]
        assert get(server, "/health").status_code == 200
        driver.release.set()
        answer = b""
        while b"[DONE]" not in answer:
            piece = stream.recv(65_536)
            assert piece, "cut off"
            answer += piece
        for connection in silent:
            connection.close()
        stream.close()
    # How many letters come in one event is a matter of moments.
    events = [line[6:] for line in answer.splitlines() if line.startswith(b"data: {")]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == "begunend"


def test_descriptors_are_kept_for_everything_else() -> None:
    many = ServerSettings(max_connections=10**9)
    assert connection_limit(many) < 10**9
    assert connection_limit(FEW) == 8


# --- the rule itself ---------------------------------------------------------------------------


class Fake:
    """As much of a connection as ``Connections`` looks at."""

    def __init__(self, host: str) -> None:
        self.client: Any = (host, 1)
        self.address = ""
        self.cycle = SimpleNamespace(more_body=False)
        self.aborted = False
        self.transport = SimpleNamespace(abort=self._abort)

    def _abort(self) -> None:
        self.aborted = True


HOSTS = ("203.0.113.1", "203.0.113.2", "2001:db8::1", "2001:db8::2", "127.0.0.1", "10.1.2.3")
EXEMPT = ("127.0.0.1", "10.1.2.3")


@given(st.lists(st.tuples(st.sampled_from(HOSTS), st.booleans()), max_size=60), st.integers(1, 12))
def test_bounds_hold_and_requests_are_left_alone(arrivals: list[tuple[str, bool]], limit: int) -> None:
    settings = ServerSettings(max_connections_per_address=3, trusted_proxies=("10.0.0.0/8",))
    book = Connections(settings, limit)
    live: list[Any] = []
    asking: list[Any] = []
    for host, asks in arrivals:
        new: Any = Fake(host)
        book.arrived(new)
        if asks and not new.aborted:
            book.busy(new)
            asking.append(new)
        live.append(new)
        for one in [one for one in live if one.aborted]:
            live.remove(one)
            book.left(one)
        assert not any(one.aborted for one in asking)
        assert len(book) == len(live)
        assert len(live) <= limit or len(live) == len(asking)
        for client in {client_of(one.client[0]) for one in live if one.client[0] not in EXEMPT}:
            same = [one for one in live if client_of(one.client[0]) == client]
            assert len(same) <= 3 or all(one in asking for one in same)
    for one in live:
        book.left(one)
    assert len(book) == 0


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_whom_a_connection_is_counted_for(host: str, client: str) -> None:
    assert client_of(host) == client


def test_a_proxy_that_is_no_address_is_said_so() -> None:
    with pytest.raises(BadInput, match="neither an address nor a network"):
        load(None, {"server.trusted_proxies": ["nonsense"]}, {})


# --- clients that do not read ------------------------------------------------------------------

MANY_ANSWERS = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 200
"""More than the kernel keeps for a client that reads nothing."""


def book(server: BackgroundServer) -> Connections:
    return server._server.connections


def unread(server: BackgroundServer, count: int) -> list[socket.socket]:
    before = len(book(server)._unread)
    connections = [opened(server, MANY_ANSWERS) for _ in range(count)]
    until(lambda: len(book(server)._unread) >= before + count)
    return connections


def test_clients_that_read_nothing_shut_nobody_out() -> None:
    with serving(FakeDriver(says("x")), settings=FEW) as server:
        connections = unread(server, 8)
        for _ in range(4):
            assert get(server, "/health").status_code == 200
        assert len(book(server)) <= 8
        for connection in connections:
            connection.close()


def test_a_client_that_reads_nothing_is_given_up_whatever_it_asked() -> None:
    soon = ServerSettings(port=0, send_timeout_s=0.05)
    with serving(FakeDriver(says("x")), settings=soon) as server:
        connection = opened(server, MANY_ANSWERS)
        until(lambda: book(server)._unread or not len(book(server)))
        until(lambda: not len(book(server)))
        connection.close()


def protocol(left: list[int]) -> Any:
    """As much of a connection as looks at what its client has read: ``left`` bytes at each look."""
    made = object.__new__(GuardedProtocol)
    made.transport = cast(
        "Any", SimpleNamespace(get_write_buffer_size=lambda: left.pop(0), abort=lambda: left.append(-1))
    )
    made.guard = cast("Any", SimpleNamespace(head_timeout_s=1.0, send_timeout_s=2.0))
    made.loop = cast("Any", SimpleNamespace(call_later=lambda after_s, then: (after_s, then)))
    made._deadline = made._reading = None
    made._left_bytes = 8_000_000
    return made


@pytest.mark.parametrize(
    ("left", "looks"), [([7_000_000, 10_000, 0], 2), ([7_000_000, 6_999_999], 1), ([8_000_000], 0), ([0], 0)]
)
def test_a_slow_client_is_waited_for_as_long_as_it_reads(left: list[int], looks: int) -> None:
    for what, after_s in (("_give_up", 1.0), ("_look_at_reading", 2.0)):
        sizes = list(left)
        made = protocol(sizes)
        for _ in range(looks):
            getattr(made, what)()
            handle = made._deadline if what == "_give_up" else made._reading
            assert handle[0] == after_s
        getattr(made, what)()
        assert sizes == [-1], "it is ended when nothing was read, and not before"
