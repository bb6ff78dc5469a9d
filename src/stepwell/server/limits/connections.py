"""Connections: how many there may be, and how long one may be open without a request on it.

uvicorn closes a connection that is idle after an answer and bounds the size of a head. It waits for ever for
the first byte, for the rest of a head, and for the rest of a body that was already answered; and its
``limit_concurrency`` would turn ``/health`` away together with all else. What is here fills that gap:
a connection without a request is *silent*, may be so for ``head_timeout_s``, and is the first to go when
another one needs its descriptor. One whose client does not read its answer is given up after
``send_timeout_s``, whatever the route, and goes before a new one does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from stepwell.loop.rarely import Rarely
from stepwell.server.callers.hosts import is_loopback
from stepwell.server.settings import ServerSettings

ACCEPT_BURST = 64
"""Connections that asyncio accepts before any of them is looked at."""
RESERVED_DESCRIPTORS = 192
"""For books, KV on disk, documents and the processes that read them."""
LEAST_CONNECTIONS = 8
LEAST_READ_BYTES = 16_384
"""What a client has to have read of an answer at each look, or all of it."""

log = logging.getLogger("stepwell.server")


def connection_limit(settings: ServerSettings) -> int:
    """How many connections fit into the descriptors that this process has left."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return settings.max_connections
    free = soft - _open_descriptors() - RESERVED_DESCRIPTORS - ACCEPT_BURST
    return max(LEAST_CONNECTIONS, min(settings.max_connections, free))


def _open_descriptors() -> int:
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        return RESERVED_DESCRIPTORS


class Connections:
    """The open connections of a server. Lives in the event loop's thread."""

    def __init__(self, settings: ServerSettings, limit: int) -> None:
        self.limit = limit
        self.head_timeout_s = settings.head_timeout_s
        self.send_timeout_s = settings.send_timeout_s
        self.turned_away = 0
        """Connections that were closed because there were too many."""
        self._per_address = settings.max_connections_per_address
        self._trusted = [ipaddress.ip_network(one, strict=False) for one in settings.trusted_proxies]
        self._open: Counter[str] = Counter()
        self._silent: OrderedDict[GuardedProtocol, None] = OrderedDict()
        """In the order in which they fell silent."""
        self._busy: dict[GuardedProtocol, None] = {}
        """In the order in which they began to ask."""
        self._unread: dict[GuardedProtocol, None] = {}
        """Those whose clients do not read fast enough, in the order in which that began."""
        self._rarely = Rarely(log)

    def __len__(self) -> int:
        return self._open.total()

    def arrived(self, connection: GuardedProtocol) -> None:
        """Count it. Where there is one too many, the one that has been silent longest goes, if need be the
        new one itself."""
        host = connection.client[0] if connection.client is not None else ""
        address = connection.address = client_of(host)
        self._open[address] += 1
        self.silent(connection)
        if self._open[address] > self._per_address and not self._is_exempt(host):
            self._turn_away(next(one for one in self._silent if one.address == address), "from one address")
        elif len(self) > self.limit:
            self._turn_away(self._least_wanted(connection), "open")

    def _least_wanted(self, new: GuardedProtocol) -> GuardedProtocol:
        """The longest silent one; where all are asking, one whose body has not come in, or whose answer
        is not read."""
        silent = next(one for one in self._silent)
        if silent is not new:
            return silent
        asking = next((one for one in self._busy if one.cycle.more_body), None)
        return asking or next(iter(self._unread), new)

    def left(self, connection: GuardedProtocol) -> None:
        self._forget(connection)
        self._open[connection.address] -= 1
        if not self._open[connection.address]:
            del self._open[connection.address]

    def silent(self, connection: GuardedProtocol) -> None:
        """Nothing is asked on it (any more): from now on it has ``head_timeout_s``."""
        self._busy.pop(connection, None)
        self._silent.setdefault(connection)

    def busy(self, connection: GuardedProtocol) -> None:
        """There is a request on it: it must not be turned away."""
        self._silent.pop(connection, None)
        self._busy.setdefault(connection)

    def unread(self, connection: GuardedProtocol) -> None:
        """More of its answer waits than is kept: its client does not read."""
        self._unread.setdefault(connection)

    def read(self, connection: GuardedProtocol) -> None:
        """Its client reads again."""
        self._unread.pop(connection, None)

    def _forget(self, connection: GuardedProtocol) -> None:
        self._silent.pop(connection, None)
        self._busy.pop(connection, None)
        self._unread.pop(connection, None)

    def _turn_away(self, connection: GuardedProtocol, what: str) -> None:
        self.turned_away += 1
        self._forget(connection)  # it is gone in a moment, and must not be chosen again
        now_us = time.monotonic_ns() // 1_000
        self._rarely.warning(now_us, f"too many connections {what}", TooMany("the longest silent one goes"))
        connection.transport.abort()

    def _is_exempt(self, host: str) -> bool:
        """Proxies bring the connections of many; on loopback and unix sockets each client may be one."""
        if not host or is_loopback(host):
            return True
        address = _parsed(host)
        return address is not None and any(address in trusted for trusted in self._trusted)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parsed(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return inner or address


def client_of(host: str) -> str:
    """What a connection is counted for: an IPv4 address, or the /64 that one customer of IPv6 has."""
    address = _parsed(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return host if address is None else str(address)


class TooMany(Exception):
    """What the log says about connections that were turned away."""


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol, which tells ``Connections`` when it falls silent and when it is asked something."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self.guard = connections
        self.address = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._left_bytes = 0
        """Of its answer, at the last look."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.guard.arrived(self)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.guard.left(self)
        self._forget_deadline()
        self._forget_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.guard.unread(self)
        self._left_bytes = self.transport.get_write_buffer_size()
        if self._reading is None:
            self._reading = self.loop.call_later(self.guard.send_timeout_s, self._look_at_reading)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.guard.read(self)
        self._forget_reading()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self.guard.busy(self)
            self._forget_deadline()
            return
        self.guard.silent(self)
        if self._deadline is None:  # bytes that trickle in do not extend it
            self._deadline = self.loop.call_later(self.guard.head_timeout_s, self._give_up)

    def _give_up(self) -> None:
        """Unless the end of an answer is still on its way to a client that reads."""
        self._deadline = None
        if self._is_read():
            self._deadline = self.loop.call_later(self.guard.head_timeout_s, self._give_up)
        else:
            self.transport.abort()

    def _look_at_reading(self) -> None:
        self._reading = None
        if self._is_read():
            self._reading = self.loop.call_later(self.guard.send_timeout_s, self._look_at_reading)
        else:
            self.transport.abort()

    def _is_read(self) -> bool:
        """Whether something waits to be read, and enough of it has been since this was asked last."""
        before, self._left_bytes = self._left_bytes, self.transport.get_write_buffer_size()
        return 0 < self._left_bytes <= before - LEAST_READ_BYTES

    def _forget_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
